"""The evaluation loop end to end: the eval scripts on small generated videos, with a tiny network."""

import shutil
import time
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import datasets.video
import eval_davis
import eval_davis_2016
import eval_generic
import eval_program
import eval_youtube
import evaluation
from datasets.images import read_image, read_mask, write_image, write_mask
from datasets.video import WORKERS
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from labels import label_map
from model.config import NetworkConfig
from model.network import Network, save_network
from results.writer import WRITE_BEHIND
from tests.videos import add_video, blocks, check_files, names, own_data, picture
from util.errors import InputError


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
    code, out, error = evaluate(eval_davis, "--davis_path", tmp_path)  # 28 videos of the official list are missing
    assert code == 1 and "480p/bike-packing: no such folder" in error and error.count("\n") == 28
    assert "2 already finished, 28 failed" in out
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
@pytest.mark.parametrize("flags", [["--size", "24", "--no-amp"], ["--include_last", "--mem_every", "1"]])
def test_own_folder_of_any_size_with_late_objects(tmp_path, evaluate, monkeypatch, size, flags):
    """Objects enter at frames 1 and 3; before the first mask everything is background."""
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.bfloat16)
    early, late = blocks(size, 5), blocks(size, 5, 254)
    late[late == 5] = 0
    data = own_data(tmp_path / "data", {"a b": {1: early, 3: late}}, name="frame {}", frames=12)
    code, _, error = evaluate(eval_generic, "--data_path", data, *flags)
    assert code == 0, error
    result = {i: read_mask(tmp_path / "out/a b" / f"frame {i}.png") for i in range(12)}
    assert len(list((tmp_path / "out/a b").iterdir())) == 12
    assert {mask.shape for mask in result.values()} == {size}
    assert not result[0].any()
    assert set(np.unique(np.concatenate(list(result.values())))) <= {0, 5, 254}
    assert not any((result[i] == 254).any() for i in (1, 2))
    np.testing.assert_array_equal(result[1], early)
    np.testing.assert_array_equal(result[3][late > 0], late[late > 0])


def test_label_map_is_the_argmax_of_the_resized_probabilities():
    prob = torch.rand(4, 30, 41).softmax(0)
    for size in ((30, 41), (75, 100), (20, 33)):
        resized = F.interpolate(prob[None], size, mode="bilinear", align_corners=False)[0]
        expected = torch.tensor([0, 7, 254, 3])[resized.argmax(0)]
        assert torch.equal(label_map(prob, size, [7, 254, 3]).long(), expected)


def test_type_and_bound_of_the_memory(tmp_path, evaluate, monkeypatch):
    """They reach the engine; by default the type is the checkpoint's."""
    memories = []

    def spy(*args, **options):
        memories.append(make_memory(*args, **options))
        return memories[-1]

    monkeypatch.setattr(eval_program, "make_memory", spy)
    data = own_data(tmp_path / "data", {"a": {0: blocks((48, 64), 1, 2)}}, frames=12)
    context = tmp_path / "context.pth"
    config = NetworkConfig.preset("gc", backbone="resnet18", key_dim=16, value_dim=32, decoder_dim=16)
    save_network(context, Network(config))
    frame, matrix = 4 * 3 * 4 * (16 + 1 + 2 * 32), 4 * 2 * 16 * 32  # bytes of a memory frame and of a global context

    own_size = "--size", "48", "--no-amp"

    def held(*flags) -> int:
        code, _, error = evaluate(
            eval_generic, "--data_path", data, *own_size, "--mem_every", "1", "--overwrite", *flags
        )
        assert code == 0, error
        return memories[-1].nbytes

    # The mean, and the context of the frame that was given.
    assert held("--model", context) == held("--memory", "global_context") == 2 * matrix
    assert held("--model", context, "--memory", "space_time") >= 11 * frame
    assert held() >= 11 * frame
    three, four = held("--max_memory_frames", "3"), held("--max_memory_frames", "4")
    assert four - three == frame and three <= 4 * frame
    for script in (eval_davis, eval_davis_2016, eval_generic, eval_youtube):
        for flags in (["--memory", "none"], ["--max_memory_frames", "1"]):
            code, _, error = evaluate(script, *flags)
            assert code == 2 and f"argument {flags[0]}" in error


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
    assert "2 videos segmented, 1 failed: b" in out
    for video in "ac":
        check_files(tmp_path / "out" / video, names(6), (32, 48), {1})
    code, _, error = evaluate(eval_generic, "--data_path", data, "--videos", "b")
    assert code == 2 and str(frame) in error  # all videos of this run failed
    frame.write_bytes(good)
    code, out, _ = evaluate(eval_generic, "--data_path", data)
    assert code == 0 and "1 video segmented, 2 already finished" in out
    check_files(tmp_path / "out/b", names(6), (32, 48), {1})


def test_a_video_that_cannot_be_read_or_written_or_held_fails_alone(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {name: {0: blocks((32, 48), 1)} for name in "abcdef"}, frames=3)
    step, folder_videos = InferenceCore.step, eval_generic.folder_videos

    def listed(*args):
        videos = folder_videos(*args)
        shutil.rmtree(data / "Annotations/b")
        return videos

    def write(path, ids, binary):
        if path.parent.name == "c" and path.stem == "00002":  # the last one, when the loop is over
            raise InputError(f"{path}: cannot be written (No space left on device)")
        write_mask(path, ids, binary)

    cores = []

    def exhausted(core, *args):
        if core not in cores:
            cores.append(core)
        video = "acdef"[len(cores) - 1]
        if video == "d":
            torch.empty(2**60, dtype=torch.uint8)
        if video == "e":
            raise MemoryError
        return step(core, *args)

    monkeypatch.setattr(eval_generic, "folder_videos", listed)
    monkeypatch.setattr(evaluation, "write_mask", write)
    monkeypatch.setattr(InferenceCore, "step", exhausted)
    code, out, error = evaluate(eval_generic, "--data_path", data)
    assert code == 1 and "2 videos segmented, 4 failed: b, c, d, e" in out
    messages = {line.split(": ")[1]: line for line in error.splitlines()}
    assert list(messages) == list("bcde")
    assert "Annotations/b/00000.png: no such file" in messages["b"]
    assert "c/00002.png: cannot be written (No space left" in messages["c"]
    assert "out of memory" in messages["d"] and "out of memory" in messages["e"]

    monkeypatch.setattr(InferenceCore, "step", lambda *_: torch.ones(2) @ torch.ones(3))
    monkeypatch.setattr(eval_generic, "folder_videos", folder_videos)
    with pytest.raises(RuntimeError, match="size"):  # a programming error is not hidden
        evaluate(eval_generic, "--data_path", data, "--videos", "d")


@pytest.mark.parametrize("slow", ["engine", "writer"])
def test_only_a_few_frames_exist_at_a_time(tmp_path, evaluate, monkeypatch, slow):
    data = own_data(tmp_path / "data", {"a": {0: blocks((16, 16), 1)}}, frames=90)
    alive, most = weakref.WeakSet(), []

    class Pixels(np.ndarray):
        __hash__ = object.__hash__

    def read(path, *_):
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
