"""The Python interface: equal to the eval script, lazy, for any source, and clear about bad input."""

import itertools
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import eval_generic
import hubconf
from datasets.images import read_mask, write_mask
from model.config import InferenceSettings
from model.optimized import optimized_copy
from predictor import STREAM_FRAMES, VideoPredictor
from tests.videos import blocks, own_data, picture, write_video
from util.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SIZE = 40, 56


@pytest.fixture(scope="module")
def predictor(tiny_weights) -> VideoPredictor:
    return VideoPredictor.load(tiny_weights, torch.device("cpu"), size=32, top_k=20, mem_every=2)


def pictures(count: int) -> list[np.ndarray]:
    return [picture(index, SIZE) for index in range(count)]


@pytest.mark.parametrize("source", ["folder", "file"])
def test_segment_equals_the_eval_script(tmp_path, evaluate, predictor, source, capsys):
    """Bit by bit, from masks in files and in arrays, with an object that enters late; and nothing is printed."""
    masks = {0: blocks(SIZE, 3), 4: blocks(SIZE, 7)}
    flags: list = ["--size", "32", "--top", "20", "--mem_every", "2"]
    if source == "folder":
        data = own_data(tmp_path / "data", {"clip": masks}, frames=8)
        video, flags = data / "JPEGImages/clip", [*flags, "--data_path", data]
        given = {0: data / "Annotations/clip/00000.png", 4: masks[4]}
    else:
        video = write_video(tmp_path / "clip.mp4", 8, SIZE)
        for index, mask in masks.items():
            write_mask(tmp_path / f"{index}.png", mask)
        given = {index: str(tmp_path / f"{index}.png") for index in masks}
        flags += ["--video", video, "--mask", given[0], f"4:{given[4]}"]
    assert evaluate(eval_generic, *flags)[0] == 0
    capsys.readouterr()
    frames = list(predictor.segment(video, given))
    assert capsys.readouterr() == ("", "")
    assert [frame.index for frame in frames] == list(range(8))
    for frame in frames:
        np.testing.assert_array_equal(frame.ids, read_mask(tmp_path / f"out/clip/{frame.index:05d}.png"))
        assert frame.ids.dtype == np.uint8 and set(frame.confidence) == ({3} if frame.index < 4 else {3, 7})
        assert all(0 <= value <= 1 for value in frame.confidence.values())


def test_given_masks_are_results_as_they_are(predictor):
    """Also the parts that are lost at inference size, and not where other results of the object are."""
    mask = np.zeros((90, 130), np.uint8)
    mask[10:60, 20:21], mask[70:, 70:] = 1, 2
    frames = [picture(index, mask.shape) for index in range(4)]
    given = {0: mask, 2: np.roll(mask % 2, 40, axis=1)}
    results = list(predictor.segment(frames, given))
    np.testing.assert_array_equal(results[0].ids, mask)
    np.testing.assert_array_equal(results[2].ids == 1, given[2] == 1)


def test_views_are_frames(predictor):
    """Such as ``frame[..., ::-1]``, which turns OpenCV's order of colours, and what is read from a pipe."""
    small = [np.ascontiguousarray(frame[:32, :48]) for frame in pictures(3)]  # are not resized
    views = [np.ascontiguousarray(frame[::-1, :, ::-1])[::-1, :, ::-1] for frame in small]
    mask = {0: blocks((32, 48), 1)}
    for one, other in zip(predictor.segment(views, mask), predictor.segment(small, mask), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    session = predictor.session(views)
    session.annotate(0, mask[0])
    assert session.propagate()
    piped = [np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape) for frame in small]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(predictor.segment(piped, mask))) == 3


def test_an_endless_stream_is_lazy_and_bounded(predictor, monkeypatch):
    """A result comes before the next frame is asked for, and the memory stops growing."""
    cores, asked = [], 0
    monkeypatch.setattr(VideoPredictor, "_make_core", lambda *args: cores.append(make_core(*args)) or cores[-1])

    def camera():
        nonlocal asked
        for index in itertools.count():
            asked += 1
            yield picture(index, (16, 16))

    held = []
    for frame in predictor.segment(camera(), {0: blocks((16, 16), 1)}):
        assert asked == frame.index + 1
        held.append(cores[0]._groups[0][1].nbytes if frame.index else 0)
        if frame.index == 2 * STREAM_FRAMES + 40:
            break
    assert len(set(held[-30:])) == 1


make_core = VideoPredictor._make_core


def test_absence_lasts_until_a_mask_holds_the_object(predictor):
    nothing, both = np.zeros(SIZE, np.uint8), blocks(SIZE, 1, 2)
    masks = {0: both, 3: nothing, 6: blocks(SIZE, 2)}
    ids = [set(np.unique(frame.ids)) - {0} for frame in predictor.segment(pictures(9), masks, complete=True)]
    assert ids[0] == {1, 2} and ids[3] == ids[4] == ids[5] == set() and ids[6] == {2}
    assert all(1 not in found for found in ids[3:])
    assert any(1 in np.unique(frame.ids) for frame in list(predictor.segment(pictures(9), masks))[3:])


BAD_INPUT = {
    "no such file": (lambda: ("missing.mp4", {0: blocks(SIZE, 1)}), "missing.mp4: no such file"),
    "no video": (lambda: (3, {0: blocks(SIZE, 1)}), "int: expected a video file, a folder or frames as arrays"),
    "no frames": (lambda: ([], {0: blocks(SIZE, 1)}), "has no frames"),
    "floats": (lambda: ([np.zeros((*SIZE, 3))], {0: blocks(SIZE, 1)}), "float64 array of .* expected .* uint8 RGB"),
    "another size": (lambda: ([*pictures(1), picture(1, (40, 55))], {0: blocks(SIZE, 1)}), "frame 1: is 55×40"),
    "mask size": (lambda: (pictures(2), {1: blocks((40, 55), 1)}), "frame 1: the mask is 55×40 .* 56×40"),
    "mask type": (lambda: (pictures(2), {0: blocks(SIZE, 1) / 2}), "float64 array .* expected H×W integer ids"),
    "no object": (lambda: (pictures(2), {0: np.zeros(SIZE, int)}), "no mask holds an object"),
    "behind the end": (lambda: (pictures(2), {2: blocks(SIZE, 1)}), "no frame 2; .* from 0 to 1"),
    "no dict": (lambda: (pictures(2), [blocks(SIZE, 1)]), "masks: is a list; expected a dict"),
    "number as text": (lambda: (pictures(2), {"0": blocks(SIZE, 1)}), "no frame '0'; expected a whole number"),
    "no number": (lambda: (pictures(2), {float("nan"): blocks(SIZE, 1)}), "no frame nan; expected a whole number"),
    "255 and ids": (lambda: (pictures(2), {0: blocks(SIZE, 1, 255)}), "hold 255 beside 1;"),
    "behind a stream": (lambda: (iter(pictures(2)), {0: blocks(SIZE, 1), 5: blocks(SIZE, 1)}), "no frame 5"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(predictor, case):
    make, message = BAD_INPUT[case]
    with pytest.raises(InputError, match=message):
        list(predictor.segment(*make()))


def test_a_mask_behind_the_end_is_an_error_at_once(predictor, tmp_path):
    folder = own_data(tmp_path, {"a": {0: blocks(SIZE, 1)}}, frames=3) / "JPEGImages/a"
    for video in (folder, pictures(3)):
        with pytest.raises(InputError, match="no frame 3; expected a whole number from 0 to 2"):
            predictor.segment(video, {0: blocks(SIZE, 1), 3: blocks(SIZE, 1)})


def test_settings_come_from_the_caller_then_the_weights(tiny_network):
    network = tiny_network()

    def settings(**given):
        predictor = VideoPredictor(network, **given)
        core = predictor._make_core(None, 0)
        memory = core.make_memory()
        return memory.top_k, core.mem_every, core.include_last, core.local, memory.given_bias

    assert settings() == (50, 3, False, False, 0.0)
    network.recommended = InferenceSettings(top_k=9, include_last=True, local=True, given_bias=1.5)
    assert settings() == (9, 3, True, True, 1.5)
    assert settings(top_k=4, include_last=False, local=False, given_bias=0) == (4, 3, False, False, 0.0)
    faulty = {"size": 0, "top_k": "3", "mem_every": 1.5, "max_memory_frames": 1}
    for name, value in faulty.items():
        with pytest.raises(InputError, match=f"{name}={value!r}: expected a whole number from"):
            VideoPredictor(network, **{name: value})
    for bias in (-0.5, 101, float("nan"), "2"):
        with pytest.raises(InputError, match="given_bias=.*: expected a number from 0 to 100"):
            VideoPredictor(network, given_bias=bias)


def test_predictors_can_be_pickled(predictor, tiny_network):
    """As `multiprocessing` does where it starts new interpreters."""
    for one in (predictor, VideoPredictor(tiny_network(), size=32)):
        other = pickle.loads(pickle.dumps(one))
        results = [list(each.segment(pictures(3), {0: blocks(SIZE, 1)})) for each in (one, other)]
        for frame, same in zip(*results, strict=True):
            np.testing.assert_array_equal(frame.ids, same.ids)
        assert one.trainable().state_dict().keys() == other.trainable().state_dict().keys()


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_type_of_the_caller_does_not_matter(tiny_weights, default):
    def results():
        session = VideoPredictor.load(tiny_weights, "cpu", size=32, amp=False).session(pictures(4))
        session.annotate(0, blocks(SIZE, 1, 2))
        session.annotate(3, blocks(SIZE, 2, 1))
        session.propagate()
        return [session.result(index).ids for index in range(4)]

    expected = results()
    torch.set_default_dtype(default)
    try:
        np.testing.assert_array_equal(results(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_optimized_network_keeps_its_precision(tiny_network, monkeypatch):
    monkeypatch.setattr("predictor.fast_precision", lambda device: torch.bfloat16)
    network = tiny_network()
    assert VideoPredictor(network).precision is torch.bfloat16
    assert VideoPredictor(network, amp=False).precision is torch.float32
    assert VideoPredictor(optimized_copy(network)).precision is torch.float32
    half = optimized_copy(network, precision=torch.bfloat16)
    assert VideoPredictor(half).precision is torch.bfloat16
    with pytest.raises(InputError, match="amp=False: the network was optimized for torch.bfloat16"):
        VideoPredictor(half, amp=False)


def test_hub_in_a_program_with_packages_of_the_same_names(tmp_path, tiny_weights):
    """From another folder, where ``datasets``, ``utils`` and others are the caller's, before and after."""
    for name in ("datasets", "utils", "util", "model", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True")
    write_video(tmp_path / "clip.mp4", 3, (16, 24))
    program = f"""
        import sys
        import numpy as np, torch
        import datasets, labels, util, utils
        path = list(sys.path)
        load = lambda name, **options: torch.hub.load({str(ROOT)!r}, name, source="local", device="cpu", **options)
        predictor = load("gsfm_small", size=16)
        other = load("gc", weights={str(tiny_weights)!r})
        frames = np.zeros((3, 16, 24, 3), np.uint8)
        mask = np.zeros((16, 24), int)
        mask[4:9, 4:9] = 1
        for each in (predictor, other):
            assert [frame.index for frame in each.segment(frames, {{0: mask}})] == [0, 1, 2]
        session = predictor.session(frames)
        session.annotate(1, mask)
        session.propagate()
        fitted = predictor.adapt("clip.mp4", {{0: mask}}, steps=1)
        assert len(list(fitted.segment("clip.mp4", {{0: mask}}))) == len(fitted.session("clip.mp4")) == 3
        import model
        assert all(each.mine for each in (datasets, labels, util, utils, model))
        assert sys.modules["datasets"] is datasets and sys.path == path
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_hub_network_without_weights():
    predictor = hubconf.gc(device="cpu")
    config = predictor.network.config
    assert predictor.network.optimized is predictor.precision and predictor.trainable().optimized is None
    assert (config.backbone, config.memory) == ("resnet50", "global_context")
    assert hubconf.dependencies and all(callable(getattr(hubconf, name)) for name in ("gsfm", "stcn"))
