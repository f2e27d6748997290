"""Records of results: what counts as finished, what is segmented again, and what is never replaced."""

import json
import os
import platform
import subprocess
import sys
from functools import partial

import av
import numpy as np
import pytest
import torch

import eval_generic
import eval_program
import eval_youtube
import evaluation
import util.files
from datasets.images import read_mask, write_image, write_mask
from inference_core import InferenceCore
from model.network import save_network
from results import records
from tests.folders import make_youtube
from tests.videos import blocks, check_files, names, own_data, picture, write_first_mask, write_video
from util.files import _remove_leftovers


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
    assert code == 0 and "1 video segmented, 1 already finished" in out
    assert stamps("a") == before[0]
    assert len(stamps("b")) == 6 and {name for name, stamp in before[1].items() if stamps("b")[name] != stamp} == {
        "00003.png"
    }

    write_mask(data / "Annotations/a/00000.png", blocks((32, 48), 2))
    code, _, error = evaluate(eval_generic, *run)
    assert code == 2 and f"{folder / 'a'}: contains finished results of a run with different masks;" in error

    assert "1 video segmented, 1 already" in evaluate(eval_generic, *run, "--overwrite_changed")[1]
    assert read_mask(folder / "a/00000.png").max() == 2

    (data / "JPEGImages/a/00005.jpg").unlink()
    assert evaluate(eval_generic, *run, "--overwrite", "--videos", "a")[0] == 0
    assert sorted(stamps("a")) == [f"{name}.png" for name in names(5)]  # the former sixth is gone
    assert read_mask(folder / "a/00000.png").max() == 2


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
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    suffix = f"1.{killed.pid}@{platform.node()}.tmp"
    left = tmp_path / f"out/overlay/.b.mp4.{suffix}"
    left.write_bytes(b"of the killed run")
    _remove_leftovers.cache_clear()  # as in another process
    for name in ("00002.png", f".00003.png.{suffix}", "00006.png"):
        (tmp_path / "out/b" / name).write_bytes(b"of the killed run")
    code, out, _ = evaluate(eval_generic, "--data_path", data, "--overlay")
    assert code == 0 and "1 video segmented, 1 already finished" in out and not left.exists()
    check_files(tmp_path / "out/b", names(6), (32, 48), {1})


@pytest.mark.parametrize(
    "flags",
    [[], ["--include_last", "--overlay"], ["--local"], ["--memory", "global_context"], ["--adapt", "1"]],
)
def test_an_interrupted_video_goes_on_and_ends_the_same(tmp_path, evaluate, monkeypatch, flags):
    """Bit for bit, wherever it stops, and without writing a mask again."""
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.bfloat16)
    late = blocks((32, 48), 1, 7)
    video = write_video(tmp_path / "clip.mp4", 14, (32, 48))
    write_mask(tmp_path / "first.png", blocks((32, 48), 1))
    write_mask(tmp_path / "late.png", np.where(late == 7, late, 0))
    run = ["--video", video, "--mask", tmp_path / "first.png", f"5:{tmp_path / 'late.png'}", *flags]
    assert evaluate(eval_generic, *run, "--output", tmp_path / "whole")[0] == 0
    written, stops, write, progress = [], [5, 10, 11], evaluation.write_mask, evaluation._Progress.frame

    def interrupted(self, video, frames, *args):
        if frames in stops[:1]:
            raise KeyboardInterrupt(stops.pop(0))
        progress(self, video, frames, *args)

    monkeypatch.setattr(evaluation, "write_mask", lambda path, *args: written.append(path.stem) or write(path, *args))
    monkeypatch.setattr(evaluation._Progress, "frame", interrupted)
    codes = [evaluate(eval_generic, *run)[0] for _ in range(4)]
    assert codes == [130, 130, 130, 0] and sorted(written) == names(14)
    pngs, whole = ({p.name: p.read_bytes() for p in (tmp_path / f / "clip").iterdir()} for f in ("out", "whole"))
    assert pngs == whole and not list((tmp_path / "out").rglob("*.frames"))
    if "--overlay" in flags:
        frames = [
            [f.to_ndarray() for f in av.open(str(tmp_path / f / "overlay/clip.mp4")).decode(video=0)]
            for f in ("out", "whole")
        ]
        np.testing.assert_array_equal(*frames)
    assert "1 already finished" in evaluate(eval_generic, *run)[1]


def test_changed_settings_do_not_pass_for_finished(tmp_path, evaluate, monkeypatch, tiny_network):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    run = ["--data_path", data, "--size", "32"]
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.bfloat16)
    assert evaluate(eval_generic, *run)[0] == 0
    save_network(tmp_path / "other.pth", tiny_network("stcn"))
    for flags, setting in (
        (["--model", tmp_path / "other.pth"], "model"),
        (["--top", "7"], "top_k"),
        (["--mem_every", "4"], "mem_every"),
        (["--include_last"], "include_last"),
        (["--local"], "local"),
        (["--memory", "global_context"], "memory"),
        (["--max_memory_frames", "3"], "max_memory_frames"),
        (["--size", "24"], "size"),
        (["--no-amp"], "precision (--amp or --no-amp)"),
    ):
        code, _, error = evaluate(eval_generic, *run, *flags)
        assert code == 2 and f"{tmp_path / 'out/a'}: contains finished results" in error, setting
        assert f"with different {setting};" in error
    with monkeypatch.context() as patch:
        patch.setattr(eval_program, "run", partial(eval_program.run, binary=True))
        assert "with different binary;" in evaluate(eval_generic, *run)[2]
    assert "1 already finished" in evaluate(eval_generic, *run)[1]
    record = tmp_path / "out/.records/a.json"
    record.write_text(record.read_text().replace('"local": false, ', ""))  # of a version without it
    assert "1 already finished" in evaluate(eval_generic, *run)[1]
    record.write_text(record.read_text().replace('"binary": false', '"binary": true, "sharper": true'))
    assert "with different binary, sharper;" in evaluate(eval_generic, *run)[2]
    assert evaluate(eval_generic, *run, "--local", "--overwrite")[0] == 0
    assert "with different local;" in evaluate(eval_generic, *run)[2]

    enlarging = ["--data_path", data, "--overwrite_changed"]
    assert evaluate(eval_generic, *enlarging)[0] == 0
    record.write_text(record.read_text().replace('"enlarged": true, ', ""))  # of a version that did not
    assert "with different enlarged;" in evaluate(eval_generic, *enlarging[:2])[2]

    run = ["--yv_path", make_youtube(tmp_path / "youtube", ["aa"]), "--output", tmp_path / "youtube_out"]
    assert evaluate(eval_youtube, *run)[0] == 0
    for setting in ("six_fps", "output_all"):
        code, _, error = evaluate(eval_youtube, *run, f"--{setting}")
        assert code == 2 and f"with different {setting}" in error


def test_replaced_inputs_do_not_pass_for_finished(tmp_path, evaluate):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    frame = data / "JPEGImages/a/00001.jpg"
    video, mask = tmp_path / "clip.mp4", write_first_mask(tmp_path / "m.png", (32, 48))
    write_video(video, 3, (32, 48))
    runs = ["--data_path", data], ["--video", video, "--mask", mask]
    for run in runs:
        assert evaluate(eval_generic, *run)[0] == 0
    write_image(frame, picture(9, (32, 48)))
    write_video(video, 3, (32, 48), movflags="faststart")
    for run in runs:
        code, _, error = evaluate(eval_generic, *run)
        assert code == 2 and "with different frames;" in error
        assert evaluate(eval_generic, *run, "--overwrite")[0] == 0
    later = frame.stat().st_mtime_ns + 10**9
    os.utime(frame, ns=(later, later))
    assert "with different frames;" in evaluate(eval_generic, *runs[0])[2]


def test_damaged_results_are_segmented_again(tmp_path, evaluate):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    assert evaluate(eval_generic, "--data_path", data)[0] == 0
    record, png = tmp_path / "out/.records/a.json", tmp_path / "out/a/00002.png"
    good_record, good_png = json.loads(record.read_bytes()), png.read_bytes()
    for path, content in (
        (record, b"{}"),
        (record, b"[]"),
        (record, b'{"made_with": 1, "files": 2}'),
        (record, bytes(100)),
        (record, record.read_bytes()[:-20]),
        (png, b""),
        (png, good_png[:-20]),
        (png, bytes(len(good_png))),
        (png, good_png[:70] + bytes(len(good_png) - 70)),
    ):
        path.write_bytes(content)
        code, out, error = evaluate(eval_generic, "--data_path", data)
        assert code == 0 and "1 video segmented, 0 failed" in out, (path.name, content, error)
        assert json.loads(record.read_bytes()) == good_record and png.read_bytes() == good_png


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes")
def test_pipes_among_the_results_are_not_read(tmp_path, evaluate):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    assert evaluate(eval_generic, "--data_path", data)[0] == 0
    for path, code in ((tmp_path / "out/a/00002.png", 0), (tmp_path / "out/.records/a.json", 2)):
        path.unlink()
        os.mkfifo(path)
        found, _, error = evaluate(eval_generic, "--data_path", data)
        assert found == code and (not code or f"{path}: is not a regular file" in error)


def test_pngs_of_others_are_not_replaced_unasked(tmp_path, evaluate):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    png = tmp_path / "out/a/00001.png"
    write_mask(png, blocks((32, 48), 7))
    code, _, error = evaluate(eval_generic, "--data_path", data)
    assert code == 2 and f"{png}: is not a result of this program" in error
    assert read_mask(png).max() == 7
    assert evaluate(eval_generic, "--data_path", data, "--overwrite")[0] == 0
    check_files(png.parent, names(3), (32, 48), {1})
    for edited in (png, png.with_name("notes.png")):
        write_mask(edited, blocks((32, 48), 7))
        code, _, error = evaluate(eval_generic, "--data_path", data)
        assert code == 2 and f"{edited}: is not as this program wrote it" in error
        assert read_mask(edited).max() == 7
        assert evaluate(eval_generic, "--data_path", data, "--overwrite")[0] == 0
        check_files(png.parent, names(3), (32, 48), {1})


def test_overlays_of_others_and_of_other_masks(tmp_path, evaluate):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    run, clip = ["--data_path", data, "--overlay"], tmp_path / "out/overlay/a.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_text("of others")
    code, _, error = evaluate(eval_generic, *run)
    assert code == 2 and f"{clip}: is not a result of this program" in error and clip.read_text() == "of others"
    assert evaluate(eval_generic, *run, "--overwrite")[0] == 0
    code, _, error = evaluate(eval_generic, *run, "--fps", "5")
    assert code == 2 and "a run with different fps;" in error
    assert "1 already finished" in evaluate(eval_generic, *run[:2])[1] and clip.is_file()

    write_mask(data / "Annotations/a/00000.png", blocks((32, 48), 2))
    assert evaluate(eval_generic, *run[:2], "--overwrite_changed")[0] == 0
    assert not clip.exists()  # it shows the former masks


def test_a_run_killed_as_it_begins_leaves_no_frames_of_other_settings(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {"a": {0: blocks((64, 96), 1)}})
    run, small, writes = ["--data_path", data], ["--data_path", data, "--size", "32"], []

    def killed(*_):
        raise KeyboardInterrupt

    def killed_later(path, content):
        writes.append(path)
        return util.files.write_bytes(path, content) if len(writes) == 1 else killed()

    for target, replaced, arguments in (
        ((records.VideoResults, "finish"), killed, run),
        ((records, "write_bytes"), killed_later, small),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*target, replaced)
            assert evaluate(eval_generic, *arguments)[0] == 130
    assert len(writes) == 2  # the journal and the record
    assert evaluate(eval_generic, *small)[0] == evaluate(eval_generic, *small, "--output", tmp_path / "new")[0] == 0
    for name in names(6):
        assert (tmp_path / f"out/a/{name}.png").read_bytes() == (tmp_path / f"new/a/{name}.png").read_bytes()


def test_inputs_are_never_replaced(tmp_path, evaluate, monkeypatch):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    for i in range(3):
        write_mask(data / f"GroundTruth/a/{i:05d}.png", blocks((32, 48), 1))
    other = own_data(tmp_path / "other", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    (tmp_path / "link").symlink_to(data / "Annotations")
    previews, mask = tmp_path / "out/overlay", data / "Annotations/a/00000.png"
    for name in ("clip", "linked"):
        write_video(previews / f"{name}.mp4", 3, (32, 48))
    (tmp_path / "linked.mp4").symlink_to(previews / "linked.mp4")
    write_video(tmp_path / "own.mp4", 3, (32, 48))
    write_first_mask(previews / "own.png", (32, 48))

    def contents():
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    monkeypatch.setattr(InferenceCore, "step", lambda *_: pytest.fail("a frame was processed"))
    before = contents()
    for replaced, flags in (
        (data / "GroundTruth/a", ["--data_path", data, "--output", data / "GroundTruth"]),
        (data / "JPEGImages/a", ["--data_path", data, "--output", data / "JPEGImages"]),
        (data / "Annotations/a", ["--data_path", data, "--output", data / "Annotations"]),
        (data / "Annotations/a", ["--data_path", data, "--output", tmp_path / "link"]),
        # Does not exist yet, but the next run would take it for the truth.
        (other / "GroundTruth/a", ["--data_path", other, "--output", other / "GroundTruth"]),
        (previews / "clip.mp4", ["--video", previews / "clip.mp4", "--mask", mask, "--overlay"]),
        (tmp_path / "linked.mp4", ["--video", tmp_path / "linked.mp4", "--mask", mask, "--overlay"]),
        (previews / "own.png", ["--video", tmp_path / "own.mp4", "--mask", previews / "own.png", "--overlay"]),
    ):
        code, _, error = evaluate(eval_generic, *flags, "--overwrite")
        assert code == 2 and f"{replaced}: the results would replace the input" in error, flags
        assert contents() == before
