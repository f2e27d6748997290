"""Fitting a network to the masks of one video: it learns, everywhere the same, and leaves all else as it was."""

import copy
import os
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

import adaptation
import eval_generic
from adaptation import REACH, LatestMemory, adapted_copy, draw_clip
from datasets.images import read_mask
from datasets.scene import Scene
from datasets.video import Frames
from inference_memory_bank import make_memory
from model.config import NetworkConfig
from model.network import load_network
from model.optimized import optimized_copy
from predictor import VideoPredictor
from propagation import UserFrame
from scoring.metrics import score_masks
from tests.test_shipped import SHIPPED
from tests.videos import blocks, own_data, picture
from util.errors import InputError

SIZE = 40, 56
NOTHING = UserFrame.of(np.zeros(SIZE, np.uint8), complete=True)


@pytest.fixture(autouse=True)
def small_crops(monkeypatch):
    monkeypatch.setattr(adaptation, "CROP", 96)


def frames_of(images) -> Frames:
    return Frames("clip", images[0].shape[:2], Fraction(24), len(images), lambda index: images[index])


def test_it_learns_the_video_and_leaves_the_network_alone():
    """The shipped network, for which the clip is much too small and fast; a second time, exactly the same."""
    scene = Scene(0, 40, (96, 128), 2)
    images, truth = zip(*map(scene.render, range(0, 28, 4)), strict=True)
    predictor = VideoPredictor(load_network(SHIPPED), size=96)
    before = copy.deepcopy(predictor.network.state_dict())

    def segment(predictor: VideoPredictor) -> list[np.ndarray]:
        return [frame.ids for frame in predictor.segment(list(images), {0: truth[0]})]

    def mean_j(results: list[np.ndarray]) -> float:
        scores = map(score_masks, truth[1:], results[1:])
        return float(np.mean([score[i].j for score in scores for i in (1, 2)]))

    adapted = []
    for context in (torch.no_grad(), torch.inference_mode()):  # whatever the caller is in
        with context:
            adapted.append(predictor.adapt(list(images), {0: truth[0]}, steps=8))
    plain, first, second = map(segment, (predictor, *adapted))
    assert mean_j(first) > mean_j(plain) + 0.1
    assert np.array_equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in predictor.network.state_dict().items())
    assert all(parameter.grad is None for parameter in adapted[0].network.parameters())


@pytest.mark.parametrize("memory", ["space_time", "global_context"])
def test_python_and_script_agree(tmp_path, evaluate, tiny_weights, memory):
    """Bit by bit, with masks on two frames; and the records know that results were made with --adapt."""
    masks = {0: blocks(SIZE, 3), 4: blocks(SIZE, 7)}
    data = own_data(tmp_path / "data", {"clip": masks}, frames=8)
    flags = ["--data_path", data, "--size", "32", "--memory", memory]
    code, printed, _ = evaluate(eval_generic, *flags, "--adapt", "3")
    assert code == 0 and "clip: fitted to its masks, 3 of 3 steps" in printed
    if memory == "space_time":
        predictor = VideoPredictor.load(tiny_weights, "cpu", size=32)
        plain = [frame.ids for frame in predictor.segment(data / "JPEGImages/clip", masks)]
        adapted = predictor.adapt(data / "JPEGImages/clip", masks, steps=3)
        own = [frame.ids for frame in adapted.segment(data / "JPEGImages/clip", masks)]
        written = [read_mask(tmp_path / f"out/clip/{index:05d}.png") for index in range(8)]
        assert np.array_equal(own, written) and not np.array_equal(own, plain)
    code, _, errors = evaluate(eval_generic, *flags)
    assert code == 2 and "adapt" in errors


def test_clips_hold_what_the_user_has_said():
    """Objects of the first mask that the last mask decides: held by both, or absent in a complete one."""
    read: list[int] = []

    def image(index: int) -> np.ndarray:
        read.append(index)
        return picture(index, SIZE)

    held = {5: {1, 2}, 9: {2, 3}, 20: set()}
    masks = {index: UserFrame.of(blocks(SIZE, *ids), complete=False) if ids else NOTHING for index, ids in held.items()}
    rng, pairs = np.random.default_rng(0), set()
    for _ in range(150):
        read.clear()
        clip = draw_clip(rng, masks, 40, image)
        if clip is None:
            continue
        first, between, last = read
        assert min(abs(between - first), abs(between - last)) <= REACH
        assert 5 <= between < 40  # no object is known before
        known = held[first] if last == 20 else held[first] & held[last]
        numbers = set(range(1, len(clip.valid) + 1))
        assert clip.valid.all() and len(numbers) <= len(known)
        assert set(clip.slots[0].unique().tolist()) - {0} == numbers and not clip.slots[1].any()
        assert set(clip.slots[2].unique().tolist()) <= ({0} if last == 20 else numbers | {0})
        pairs.add((first, last, len(numbers)))
    assert {(5, 5, 2), (5, 9, 1), (9, 5, 1), (5, 20, 2), (9, 20, 2)} <= pairs


def test_neither_order_nor_the_callers_precision_matters(tiny_network):
    frames = frames_of([picture(index, SIZE) for index in range(6)])
    masks = {index: UserFrame.of(blocks(SIZE, *ids), complete=False) for index, ids in ((0, (1,)), (4, (1, 2)))}
    network = tiny_network()
    one = adapted_copy(network, frames, masks, steps=3)
    with torch.autocast("cpu", torch.bfloat16):
        other = adapted_copy(network, frames, dict(reversed(masks.items())), steps=3)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_each_frame_is_read_from_the_one_before():
    """What the cycle brings back has come all the way: the first mask is not in memory any more."""
    latest, alone = (LatestMemory(partial(make_memory, NetworkConfig())) for _ in "ab")
    keys, values = torch.randn(3, 1, 64, 2, 3), torch.randn(2, 1, 1, 512, 2, 3)
    latest.add(keys[0], values[0])
    for memory in (latest, alone):
        memory.add(keys[1], values[1])
    assert torch.equal(latest.read(keys[2]), alone.read(keys[2]))


def test_bad_input(tiny_network, tiny_weights, tmp_path, evaluate):
    images = [picture(index, SIZE) for index in range(3)]
    given = {0: UserFrame.of(blocks(SIZE, 1), False)}
    with pytest.raises(InputError, match="optimized"):
        adapted_copy(optimized_copy(tiny_network()), frames_of(images), given)
    with pytest.raises(InputError, match="no frame 7"):
        adapted_copy(tiny_network(), frames_of(images), {7: given[0]})
    predictor = VideoPredictor.load(tiny_weights, "cpu")
    with pytest.raises(InputError, match="no mask holds an object"):
        predictor.adapt(images, {0: np.zeros(SIZE, int)})
    with pytest.raises(InputError, match="no frame 3"):
        predictor.adapt(images, {3: blocks(SIZE, 1)})
    for steps in (0, -3, 2.5, "8", None):
        with pytest.raises(InputError, match="steps=.*expected a whole number from 1"):
            predictor.adapt(images, {0: blocks(SIZE, 1)}, steps=steps)
    copied = tmp_path / "copied.pth"
    copied.write_bytes(tiny_weights.read_bytes())
    changing = VideoPredictor.load(copied, "cpu")
    os.utime(copied, ns=(1, 1))
    with pytest.raises(InputError, match="is not as it was when it was loaded"):
        changing.adapt(images, {0: blocks(SIZE, 1)}, steps=1)
    with pytest.raises(InputError, match="expected a video file, a folder, or a list"):
        predictor.adapt(iter(images), {0: blocks(SIZE, 1)})
    data = own_data(tmp_path / "data", {"clip": {0: blocks(SIZE, 1)}})
    code, _, errors = evaluate(eval_generic, "--data_path", data, "--adapt", "2", "--compile")
    assert code == 2 and "--compile" in errors
    assert evaluate(eval_generic, "--data_path", data, "--adapt", "0")[0] == 2
