"""What the eval scripts share: one-line errors, messages, progress, and processes that divide the videos."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval_generic
import evaluation
from datasets.images import write_mask
from inference_core import InferenceCore
from tests.videos import blocks, check_files, names, own_data, write_first_mask, write_video

ROOT = Path(__file__).parents[1]


def test_bad_checkpoint_and_output_are_one_line_before_any_frame(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}})
    text = tmp_path / "text.pth"
    text.write_text("not a checkpoint")
    monkeypatch.setattr(InferenceCore, "step", lambda *_: pytest.fail("a frame was processed"))
    for flags, message in (
        (["--model", text], f"{text}: is not a checkpoint"),
        (["--model", tmp_path / "missing.pth"], f"{tmp_path / 'missing.pth'}: no such file"),
        (["--model", data], f"{data}: is a folder; expected a file for --model"),
        (["--output", text], f"{text}: cannot be written"),
        (["--output", text / "below"], f"{text / 'below'}: cannot be written"),
    ):
        code, _, error = evaluate(eval_generic, "--data_path", data, *flags)
        assert (code, error.count("\n")) == (2, 1) and message in error


def test_faulty_flags_for_a_video_file_are_one_line(tmp_path, evaluate):
    video, mask = write_video(tmp_path / "clip.mp4", 3, (48, 64)), write_first_mask(tmp_path / "m.png", (48, 64))
    for path, masks, says in (
        (
            video,
            [write_first_mask(tmp_path / "small.png", (48, 63))],
            "the mask is 63×48 pixels, but its frame 0 is 64×48",
        ),
        (tmp_path, [mask], f"{tmp_path}: is a folder; expected a file for --video (--data_path"),
        (video, [f"2:{tmp_path}"], f"{tmp_path}: is a folder; expected a file for --mask"),
        (video, [f"-1:{mask}"], f"--mask -1:{mask}: expected FILE or N:FILE"),
    ):
        code, _, error = evaluate(eval_generic, "--video", path, "--mask", *masks)
        assert (code, error.count("\n")) == (2, 1) and says in error
    for flags in (["--video", video], ["--data_path", tmp_path, "--mask", mask], ["--top", "0"], []):
        assert evaluate(eval_generic, *flags)[0] == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_pipe_is_not_a_file(tmp_path, evaluate):
    pipe, video = tmp_path / "pipe", tmp_path / "v.mp4"
    os.mkfifo(pipe)
    video.touch()
    for flags in (["--video", pipe, "--mask", "m.png"], ["--video", video, "--mask", pipe]):
        code, _, error = evaluate(eval_generic, *flags)
        assert code == 2 and f"{pipe}: is not a regular file; expected a file for --" in error


def test_messages_and_progress_without_a_terminal(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}, "b": {0: blocks((64, 48), 1)}}, frames=3)
    run = ["--data_path", data, "--size", "40", "--overwrite"]
    _, out, _ = evaluate(eval_generic, *run, "--no-amp")
    assert out.startswith("2 videos, 6 frames on cpu in float32\n")
    assert "so far" not in out and len(re.findall(r"^[ab]: 3 frames, [0-9.]+ frames/s", out, re.M)) == 2

    monkeypatch.setattr(evaluation, "PROGRESS_SECONDS", 0)
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.bfloat16)
    _, out, _ = evaluate(eval_generic, *run)
    assert "on cpu in bfloat16, which is faster here (else: --no-amp)\n" in out
    assert re.findall(r"^([ab]: \d of 3 frames so far)", out, re.M) == [
        f"{video}: {frames} of 3 frames so far" for video in "ab" for frames in (1, 2, 3)
    ]


def test_half_precision_only_where_it_pays(tmp_path, evaluate, monkeypatch):
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.float32)
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=2)
    _, out, _ = evaluate(eval_generic, "--data_path", data)
    assert "on cpu in float32, because half precision is slower here\n" in out
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.bfloat16)
    monkeypatch.setattr("util.device.gather", lambda mine: [mine, torch.float32])  # of another process
    assert "1 already finished" in evaluate(eval_generic, "--data_path", data)[1]
    assert "1 already finished" in evaluate(eval_generic, "--data_path", data, "--no-amp")[1]


def test_processes_divide_the_videos_and_a_failure_in_one_does_not_stop_the_other(tmp_path, tiny_weights):
    lengths = {"a": 9, "b": 4, "c": 3, "d": 2}
    for video, frames in lengths.items():
        own_data(tmp_path / "data", {video: {0: blocks((32, 48), 1)}}, frames=frames)
    (tmp_path / "data/JPEGImages/d/00001.jpg").write_bytes(b"")
    for name in names(9):
        write_mask(tmp_path / f"data/GroundTruth/a/{name}.png", blocks((32, 48), 1))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "eval_generic.py"]
    flags = ["--model", tiny_weights, "--data_path", tmp_path / "data", "--output", tmp_path / "out"]
    command = [*launch, *map(str, flags), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "3 videos segmented, 1 failed: d" in done.stdout
    assert "d/00001.jpg" in done.stderr
    assert "J&F" in done.stdout  # although the other process has long exited with 1
    assert "a: 9 frames" in done.stdout and "(0 to go)" in done.stdout
    for video in "abc":
        check_files(tmp_path / "out" / video, names(lengths[video]), (32, 48), {1})
    speeds = re.findall(r"([abc]): (\d) frames, ([0-9.]+) frames/s", done.stdout)
    seconds = {video: int(frames) / float(fps) for video, frames, fps in speeds}
    total = float(re.search(r"16 frames at ([0-9.]+) frames/s", done.stdout)[1])
    with_a = [sum(seconds[video] for video in own) for own in ("a", "ab", "ac", "abc")]  # whoever was free took b and c
    longest = [max(own, sum(seconds.values()) - own) for own in with_a]
    assert any(total == pytest.approx(16 / each, rel=0.02) for each in longest)
