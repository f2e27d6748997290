"""The eval scripts end to end, on small frames made here, with a tiny network."""

import os
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import datasets.video
import eval_davis
import eval_davis_2016
import eval_generic
import eval_youtube
import evaluation
from datasets.images import PALETTE, read_image, read_mask, write_image, write_mask
from datasets.video import WORKERS
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.config import NetworkConfig
from model.network import Network, save_network
from results.records import WRITE_BEHIND
from util.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    torch.manual_seed(1)
    config = NetworkConfig.preset("gsfm", backbone="resnet18", key_dim=16, value_dim=32, decoder_dim=16)
    save_network(path, Network(config))
    return path


@pytest.fixture
def evaluate(model, tmp_path, capsys):
    """``evaluate(script, *flags)`` → (exit code, stdout, stderr); results go to tmp_path/out."""

    def call(script, *flags) -> tuple[int, str, str]:
        flags = [str(flag) for flag in flags]
        given = [word for word in ("--model", "--output") if word in flags]
        for word, value in (("--model", model), ("--output", tmp_path / "out")):
            flags += [] if word in given else [word, str(value)]
        capsys.readouterr()
        code = 0
        try:
            script.main([*flags, "--device", "cpu"])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(7)
    image = cv2.resize(rng.integers(0, 255, (5, 5, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.roll(image, index, axis=1)


def blocks(size: tuple[int, int], *ids: int) -> np.ndarray:
    """A mask with one upright bar for each id, background between them."""
    mask = np.zeros(size, np.uint8)
    width = size[1] // (2 * len(ids)) or 1
    for i, object_id in enumerate(ids):
        mask[size[0] // 4 : -(-size[0] * 3 // 4), 2 * i * width : (2 * i + 1) * width] = object_id
    return mask


def add_video(images: Path, annotations: Path, masks: dict[int, np.ndarray], frames=6, binary=False, name="{:05d}"):
    size = next(iter(masks.values())).shape
    for i in range(frames):
        write_image(images / f"{name.format(i)}.jpg", picture(i, size))
    for i, mask in masks.items():
        write_mask(annotations / f"{name.format(i)}.png", mask, binary)


def own_data(root: Path, videos: dict[str, dict[int, np.ndarray]], **options) -> Path:
    for name, masks in videos.items():
        add_video(root / "JPEGImages" / name, root / "Annotations" / name, masks, **options)
    return root


def check_files(folder: Path, names: list[str], size: tuple[int, int], ids: set[int], mode: str = "P") -> None:
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.png" for name in names]
    found = set()
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert (image.mode, image.size) == (mode, size[::-1])
            assert mode == "L" or image.getpalette() == PALETTE.ravel().tolist()
            found |= set(np.unique(np.asarray(image)).tolist())
    assert found == {0} | ids


def names(count: int) -> list[str]:
    return [f"{i:05d}" for i in range(count)]


def test_davis_2017_gives_only_the_first_mask_and_needs_no_list(tmp_path, evaluate):
    base = tmp_path / "trainval"
    first = blocks((40, 56), 1, 5, 254)
    for video in ("blackswan", "camel"):
        masks = {0: first, 3: blocks((40, 56), 9)}
        add_video(base / "JPEGImages/480p" / video, base / "Annotations/480p" / video, masks)
    flags = ["--davis_path", tmp_path, "--videos", "camel,blackswan"]
    assert evaluate(eval_davis, *flags)[0] == 0
    for video in ("blackswan", "camel"):
        check_files(tmp_path / "out" / video, names(6), (40, 56), {1, 5, 254})
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / video / "00000.png"), first)
    code, _, error = evaluate(eval_davis, "--davis_path", tmp_path)
    assert code == 2 and "480p/bike-packing: no such folder" in error
    code, _, error = evaluate(eval_davis, "--davis_path", tmp_path, "--videos", "camle")
    assert code == 2 and "has no video camle" in error


def test_davis_2016_is_binary_and_an_imagesets_folder_wins(tmp_path, evaluate):
    add_video(
        tmp_path / "JPEGImages/480p/mine", tmp_path / "Annotations/480p/mine", {0: blocks((33, 47), 1)}, binary=True
    )
    (tmp_path / "ImageSets/2016").mkdir(parents=True)
    (tmp_path / "ImageSets/2016/train.txt").write_text("mine\n")
    assert evaluate(eval_davis_2016, "--davis_path", tmp_path, "--split", "train")[0] == 0
    check_files(tmp_path / "out/mine", names(6), (33, 47), {255}, mode="L")
    np.testing.assert_array_equal(read_mask(tmp_path / "out/mine/00000.png"), blocks((33, 47), 255))


@pytest.mark.parametrize("size", [(61, 83), (64, 48), (50, 1), (1, 1)])
@pytest.mark.parametrize("flags", [["--size", "24"], ["--amp", "--include_last", "--mem_every", "1"]])
def test_own_folder_any_size_late_objects_and_all_masks(tmp_path, evaluate, size, flags):
    """Objects enter at frames 1 and 3; before the first mask there is nothing but background."""
    early, late = blocks(size, 5), blocks(size, 5, 254)
    late[late == 5] = 0
    data = own_data(tmp_path / "data", {"a b": {1: early, 3: late}}, name="frame {}", frames=12)
    code, out, error = evaluate(eval_generic, "--data_path", data, *flags)
    assert code == 0, error
    assert ("bfloat16" if "--amp" in flags else "float32") in out
    result = {i: read_mask(tmp_path / "out/a b" / f"frame {i}.png") for i in range(12)}
    assert len(list((tmp_path / "out/a b").iterdir())) == 12
    assert {mask.shape for mask in result.values()} == {size}
    assert not result[0].any()
    assert set(np.unique(np.concatenate(list(result.values())))) <= {0, 5, 254}
    assert not any((result[i] == 254).any() for i in (1, 2))
    if "--size" not in flags:  # at its own size, a frame's given mask comes back as it was
        np.testing.assert_array_equal(result[1], early)
        np.testing.assert_array_equal(result[3][late > 0], late[late > 0])


def test_label_map_is_the_argmax_of_the_resized_probabilities():
    prob = torch.rand(4, 30, 41).softmax(0)
    for size in ((30, 41), (75, 100), (20, 33)):
        resized = F.interpolate(prob[None], size, mode="bilinear", align_corners=False)[0]
        expected = torch.tensor([0, 7, 254, 3])[resized.argmax(0)]
        assert torch.equal(evaluation.label_map(prob, size, [7, 254, 3]).long(), expected)


def test_finished_videos_are_skipped_until_asked_otherwise(tmp_path, evaluate):
    mask = blocks((32, 48), 1)
    data = own_data(tmp_path / "data", {"a": {0: mask}, "b": {0: mask}})
    folder = tmp_path / "out"
    run = ["--data_path", data]
    assert evaluate(eval_generic, *run)[0] == 0

    def stamps(video):
        return {p.name: p.stat().st_mtime_ns for p in (folder / video).iterdir()}

    before = stamps("a"), stamps("b")
    (folder / "b/00003.png").unlink()
    code, out, _ = evaluate(eval_generic, *run)
    assert code == 0 and "1 were finished before" in out
    assert stamps("a") == before[0]
    assert len(stamps("b")) == 6 and stamps("b")["00000.png"] > before[1]["00000.png"]

    code, _, error = evaluate(eval_generic, *run, "--top", "7")
    assert code == 2 and f"{folder / 'a'}: holds finished results of a run with different top" in error
    assert stamps("a") == before[0]
    write_mask(data / "Annotations/a/00000.png", blocks((32, 48), 2))
    code, _, error = evaluate(eval_generic, *run)
    assert code == 2 and "different masks" in error

    (data / "JPEGImages/a/00005.jpg").unlink()
    assert evaluate(eval_generic, *run, "--overwrite", "--videos", "a")[0] == 0
    assert sorted(stamps("a")) == [f"{name}.png" for name in names(5)]  # the former sixth is gone
    assert read_mask(folder / "a/00000.png").max() == 2


def test_memory_kind_and_bound_by_flag(tmp_path, evaluate, monkeypatch):
    """The kind of memory and its bound reach the engine, count as settings, and are the checkpoint's by default."""
    memories = []

    def spy(*args, **options):
        memories.append(make_memory(*args, **options))
        return memories[-1]

    monkeypatch.setattr(evaluation, "make_memory", spy)
    data = own_data(tmp_path / "data", {"a": {0: blocks((48, 64), 1, 2)}}, frames=12)
    context = tmp_path / "context.pth"
    config = NetworkConfig.preset("gc", backbone="resnet18", key_dim=16, value_dim=32, decoder_dim=16)
    save_network(context, Network(config))
    frame, matrix = 4 * 3 * 4 * (16 + 1 + 2 * 32), 4 * 2 * 16 * 32  # bytes of a memory frame and of a global context

    def held(*flags) -> int:
        code, _, error = evaluate(eval_generic, "--data_path", data, "--mem_every", "1", "--overwrite", *flags)
        assert code == 0, error
        return memories[-1].nbytes

    assert held("--model", context) == held("--memory", "global_context") == matrix
    assert held("--model", context, "--memory", "space_time") >= 11 * frame
    assert held() >= 11 * frame
    three, four = held("--max_memory_frames", "3"), held("--max_memory_frames", "4")
    assert four - three == frame and three <= 4 * frame

    for flags, name in (["--memory", "global_context"], "memory"), (["--max_memory_frames", "3"], "max_memory_frames"):
        code, _, error = evaluate(eval_generic, "--data_path", data, "--mem_every", "1", *flags)
        assert code == 2 and "different" in error and name in error
    for script in (eval_davis, eval_davis_2016, eval_generic, eval_youtube):
        for flags in (["--memory", "none"], ["--max_memory_frames", "1"]):
            code, _, error = evaluate(script, *flags)
            assert code == 2 and f"argument {flags[0]}" in error


def test_a_killed_run_goes_on_with_the_video_it_was_killed_in(tmp_path, evaluate, monkeypatch):
    mask = blocks((32, 48), 1)
    data = own_data(tmp_path / "data", {"a": {0: mask}, "b": {0: mask}})
    step, calls = InferenceCore.step, []

    def killed(self, *args):
        calls.append(1)
        if len(calls) == 6 + 4:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(InferenceCore, "step", killed)
        code, _, error = evaluate(eval_generic, "--data_path", data, "--overlay")
    assert code == 130 and error.strip().endswith("interrupted")
    left = tmp_path / "out/overlay/.b.mp4.4711.tmp"
    left.write_bytes(b"of the killed run")
    for name in ("00002.png", ".00003.png.4711.tmp"):
        (tmp_path / "out/b" / name).write_bytes(b"of the killed run")
    code, out, _ = evaluate(eval_generic, "--data_path", data, "--overlay")
    assert code == 0 and "1 video done, 1 were finished before" in out and not left.exists()
    check_files(tmp_path / "out/b", names(6), (32, 48), {1})


def test_bad_checkpoint_and_output_are_one_line_before_any_frame(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}})
    text = tmp_path / "text.pth"
    text.write_text("not a checkpoint")
    monkeypatch.setattr(InferenceCore, "step", lambda *_: pytest.fail("a frame was processed"))
    for flags, named in (
        (["--model", text], text),
        (["--model", tmp_path / "missing.pth"], tmp_path / "missing.pth"),
        (["--output", text], text),
        (["--output", text / "below"], text / "below"),
        (["--output", data / "JPEGImages"], data / "JPEGImages/a"),
        (["--output", data / "Annotations"], data / "Annotations/a"),
    ):
        code, _, error = evaluate(eval_generic, "--data_path", data, *flags)
        assert (code, error.count("\n")) == (2, 1) and f"{named}: " in error
    assert len(list((data / "Annotations/a").iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "emptied", "other size"])
def test_a_corrupt_frame_fails_its_video_only(tmp_path, evaluate, damage):
    data = own_data(tmp_path / "data", {name: {0: blocks((32, 48), 1)} for name in "abc"})
    frame = data / "JPEGImages/b/00003.jpg"
    good = frame.read_bytes()
    frame.write_bytes(good[: len(good) // 2] if damage == "truncated" else b"")
    if damage == "other size":
        write_image(frame, picture(3, (32, 47)))
    code, out, error = evaluate(eval_generic, "--data_path", data)
    assert code == 1
    assert str(frame) in error and error.count("\n") == 1
    assert "2 videos done, 1 failed: b" in out
    for video in "ac":
        check_files(tmp_path / "out" / video, names(6), (32, 48), {1})
    code, _, error = evaluate(eval_generic, "--data_path", data, "--videos", "b")
    assert code == 2 and str(frame) in error  # nothing at all came of this run
    frame.write_bytes(good)
    code, out, _ = evaluate(eval_generic, "--data_path", data)
    assert code == 0 and "1 video done, 2 were finished before" in out
    check_files(tmp_path / "out/b", names(6), (32, 48), {1})


def test_a_full_disk_is_reported_although_it_strikes_behind_the_loop(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}, "b": {0: blocks((32, 48), 1)}})

    def write(path, ids, binary):
        if path.parent.name == "a" and path.stem == "00005":  # the last one, when the loop is over
            raise InputError(f"{path}: cannot be written (No space left on device)")
        write_mask(path, ids, binary)

    monkeypatch.setattr(evaluation, "write_mask", write)
    code, out, error = evaluate(eval_generic, "--data_path", data)
    assert code == 1 and "a/00005.png: cannot be written (No space left" in error
    assert "1 video done, 1 failed: a" in out


@pytest.mark.parametrize("slow", ["engine", "writer"])
def test_only_a_few_frames_exist_at_a_time(tmp_path, evaluate, monkeypatch, slow):
    data = own_data(tmp_path / "data", {"a": {0: blocks((16, 16), 1)}}, frames=90)
    alive, most = weakref.WeakSet(), []

    class Pixels(np.ndarray):
        __hash__ = object.__hash__

    def read(path):
        pixels = read_image(path).view(Pixels)
        alive.add(pixels)
        most.append(len(alive))
        return pixels

    @contextmanager
    def draws(*_):
        yield lambda *_: time.sleep(0.02 if slow == "writer" else 0)

    step = InferenceCore.step
    monkeypatch.setattr(datasets.video, "read_image", read)
    monkeypatch.setattr(evaluation, "overlay_writer", draws)
    monkeypatch.setattr(InferenceCore, "step", lambda *args: time.sleep(0.02 * (slow == "engine")) or step(*args))
    assert evaluate(eval_generic, "--data_path", data, "--overlay", "--mem_every", "1000")[0] == 0
    assert len(most) == 90 + 1
    assert max(most) <= 2 * WORKERS + 4 + (WRITE_BEHIND + 2 if slow == "writer" else 0)


def write_video(path: Path, frames: int, size: tuple[int, int], **options) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(tmp_path) -> tuple[Path, Path, Path]:
    """A video of 11 frames, a mask for its first frame, and one of another object for a later one."""
    first, later = tmp_path / "first.png", tmp_path / "later.png"
    write_mask(first, blocks((48, 64), 1))
    write_mask(later, np.flip(blocks((48, 64), 254), axis=1))
    return write_video(tmp_path / "my clip.mp4", 11, (48, 64)), first, later


def test_video_file_with_masks_and_overlay(tmp_path, evaluate, clip):
    video, first, later = clip
    flags = ["--video", video, "--mask", first, f"7:{later}", "--overlay"]
    code, _, error = evaluate(eval_generic, *flags)
    assert code == 0, error
    out = tmp_path / "out"
    check_files(out / "my clip", names(11), (48, 64), {1, 254})
    results = [read_mask(out / "my clip" / f"{name}.png") for name in names(11)]
    assert not any((mask == 254).any() for mask in results[:7])
    np.testing.assert_array_equal(results[7][read_mask(later) > 0], 254)

    with av.open(str(out / "overlay/my clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        drawn = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(drawn) == 11 and drawn[0].shape == (48, 64, 3)
    inside = cv2.erode((results[0] == 1).astype(np.uint8), np.ones((5, 5))) > 0
    tinted = picture(0, (48, 64))[inside] / 2 + PALETTE[1] / 2
    assert abs(drawn[0][inside] - tinted).mean() < 12
    outside = results[0] == 0
    assert abs(drawn[0][outside].astype(int) - picture(0, (48, 64))[outside]).mean() < 12
    assert read_image(out / "overlay/my clip.png").shape == (2 * (48 + 16), 4 * (80 + 4), 3)

    code, text, _ = evaluate(eval_generic, *flags)
    assert code == 0 and "1 were finished before" in text
    (out / "my clip/00010.png").unlink()
    assert "1 video done" in evaluate(eval_generic, *flags)[1]


@pytest.mark.parametrize("size", [(33, 1), (31, 45)])
def test_overlay_of_odd_sizes_at_the_videos_own_size(tmp_path, evaluate, size):
    data = own_data(tmp_path / "data", {"a": {0: blocks(size, 1)}}, frames=3)
    code, _, error = evaluate(eval_generic, "--data_path", data, "--overlay", "--size", "16")
    assert code == 0, error
    with av.open(str(tmp_path / "out/overlay/a.mp4")) as container:
        shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
    assert shapes == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 3


def mask_for(folder: Path, size: tuple[int, int]) -> Path:
    write_mask(folder / "m.png", blocks(size, 1))
    return folder / "m.png"


def test_bad_video_input_is_one_line(tmp_path, evaluate, clip):
    video, first, _ = clip
    code, _, error = evaluate(eval_generic, "--video", video, "--mask", mask_for(tmp_path, (48, 63)))
    assert (code, error.count("\n")) == (2, 1) and "the mask is 63×48 pixels, but its frame 0 is 64×48" in error
    for flags in (["--video", video], ["--data_path", tmp_path, "--mask", first], ["--top", "0"], []):
        assert evaluate(eval_generic, *flags)[0] == 2


def test_processes_share_the_videos_and_a_failure_in_one_does_not_stop_the_other(tmp_path, model):
    lengths = {"a": 9, "b": 4, "c": 3, "d": 2}
    for video, frames in lengths.items():
        own_data(tmp_path / "data", {video: {0: blocks((32, 48), 1)}}, frames=frames)
    (tmp_path / "data/JPEGImages/d/00001.jpg").write_bytes(b"")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "eval_generic.py"]
    flags = ["--model", model, "--data_path", tmp_path / "data", "--output", tmp_path / "out", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *map(str, flags)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "3 videos done, 1 failed: d" in done.stdout and "16 frames at" in done.stdout
    assert "d/00001.jpg" in done.stderr
    assert "a: 9 frames" in done.stdout and "(0 to go)" in done.stdout  # nine frames are one process's whole share
    for video in "abc":
        check_files(tmp_path / "out" / video, names(lengths[video]), (32, 48), {1})
