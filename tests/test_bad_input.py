"""Bad flags and files of all programs: one line on stderr, exit code 2, and nothing written."""

import json
import os
import sys
from pathlib import Path

import pytest

import annotate
import eval_generic
import eval_youtube
import train
from benchmarks import data, inference, interactive, memory_read, memory_scaling, training
from model.network import save_network
from scripts import (
    check_masks,
    convert_checkpoint,
    convert_masks,
    extract_frame,
    make_submission,
    make_synthetic,
    plot_training,
    resize_length,
    score,
)
from tests.conftest import make_network
from tests.videos import blocks, own_data, write_first_mask, write_video

LONG, DIGITS = "a" * 5000, "9" * 5000
EVAL = ["--model", "model.pth", "--output", "out", "--device", "cpu"]
VIDEO, FOLDER = [*EVAL, "--video", "clip.mp4", "--mask"], [*EVAL, "--data_path", "data"]
YOUTUBE = [*EVAL, "--yv_path", "youtube", "--six_fps"]
TRAIN = ["--id", "run", "--stage", "0", "--static_root", "data", "--saves", "out", "--device", "cpu"]
ANNOTATE = ["--workspace", "out", "--model", "model.pth", "--no_browser"]
ROBOT = ["--model", "model.pth", "--data_path", "data", "--device", "cpu"]
SCORE = ["data/Annotations", "data/Annotations", "--all_frames"]

CASES = [
    (eval_generic, [*FOLDER, "--model", "a\nb.pth"], r"error: a\nb.pth: no such file"),
    (eval_generic, [*FOLDER, "--model", LONG], "error: a"),
    (eval_generic, [*FOLDER, "--data_path", LONG], "error: a"),
    (eval_generic, [*FOLDER, "--output", ""], "--output: has an empty value"),
    (eval_generic, [*FOLDER, "--output="], "--output=: has an empty value"),
    (score, ["data/Annotations", ""], "error: an argument: has an empty value"),
    (eval_generic, [*FOLDER, "--output", "loop"], "loop"),
    (eval_generic, [*FOLDER, "--output", "loop/below"], "loop"),
    (eval_generic, [*FOLDER, "--size", DIGITS], "argument --size: "),
    (eval_generic, [*FOLDER, "--top", "٣²"], "argument --top: "),
    (eval_generic, [*VIDEO, f"{DIGITS}:mask.png"], "--mask 999"),
    (eval_generic, [*VIDEO, f"1:{LONG}"], "error: a"),
    (eval_generic, [*VIDEO, "mask.png\n"], r"error: mask.png\n: no such file"),
    (eval_youtube, YOUTUBE, "meta.json: cannot be read as JSON"),
    (make_submission, ["youtube2019", "data/Annotations", "--data", "nothing"], "nothing: asks for no mask"),
    (plot_training, ["log.jsonl", "--output", "out.png"], "log.jsonl: is not a training log"),
    (plot_training, ["data", "--smooth", DIGITS], "argument --smooth: "),
    (score, [*SCORE, "--seen", "seen.txt", "--meta", "deep.json"], "deep.json: cannot be read as JSON"),
    (score, [*SCORE, "--seen", "seen.txt", "--meta", "pipe"], "pipe: is not a regular file"),
    (score, [*SCORE, "--seen", "seen.txt", "--meta", "huge.json"], "huge.json: expected YouTube-VOS's meta.json"),
    (convert_masks, ["missing", "out.json", "--from", "masks", "--to", "coco"], "missing cannot be used"),
    (convert_masks, ["data/JPEGImages", "out.json", "--from", "masks", "--to", "coco"], "holds no annotated frame"),
    (convert_masks, ["twice.json", "out"], "twice.json: cannot be read as JSON (the same name twice"),
    (convert_masks, ["deep.json", "out"], "deep.json: cannot be read as JSON"),
    (convert_masks, ["pipe", "out", "--from", "cvat"], "pipe: is not a regular file"),
    (convert_masks, ["log.jsonl", "out", "--from", "cvat"], "log.jsonl: cannot be read as cvat"),
    (convert_masks, ["huge.json", "out"], "huge.json: cannot be read as coco (ValueError: an image is"),
    (convert_masks, ["data/Annotations", "loop", "--to", "coco"], "loop: exists"),
    (extract_frame, ["clip.mp4", "loop.png"], "loop.png: exists"),
    (score, [*SCORE, "--csv", "pipe", "--videos", "missing"], "pipe: is not a regular file; expected"),
    (score, [*SCORE, "--csv", "out", "--json", "data/../out"], "data/../out: is named for two outputs"),
    (score, [*SCORE, "--plot", "out", "--images", "pipe"], "pipe: no such folder; expected VIDEO/FRAME.jpg"),
    (score, [*SCORE, "--meta", "huge.json"], "--meta: has the categories for --seen"),
    (score, [*SCORE, "--workers", "-1"], "--workers -1: expected 1 to 1024 threads"),
    (resize_length, ["loop", "out"], "loop: no such folder"),
    (resize_length, ["data", "loop"], "loop"),
    (resize_length, ["data", "out", "--size", "0"], "--size 0: expected at least one pixel"),
    (
        make_synthetic,
        ["--output", "out", "--size", "9999999999x9999999999"],
        "--size: '9999999999x9999999999': expected",
    ),
    (eval_generic, [*FOLDER, "two\nlines"], r"error: unrecognized arguments: two\nlines"),
    (resize_length, ["data", "out", "--workers", "-1"], "--workers -1: expected 1 to 1024 threads"),
    (make_synthetic, ["--output", "loop", "--num_frames", "2", "--num_videos", "1"], "loop"),
    (make_synthetic, ["--output", "out", "--size", "0x0"], "0"),
    (check_masks, ["data", "--fix", LONG], "error: a"),
    (check_masks, ["--video", "a:b.mp4", "--mask", "mask.png"], "a:b.mp4: cannot be opened as a video"),
    (convert_checkpoint, ["model.pth", "loop"], "loop"),
    (convert_checkpoint, ["model.pth", "out", "--top", "-1"], "--top: '-1': expected a whole number of at least 1"),
    (annotate, ["--video", "clip.mp4", *ANNOTATE, "--port", "1000000000000"], "--port 1000000000000: cannot listen"),
    (annotate, ["--video", "clip.mp4", *ANNOTATE, "--host", "\udcff"], "cannot listen there"),
    (train, [*TRAIN, "--static_root", LONG], "error: a"),
    (train, [*TRAIN, "--load_network", "loop"], "loop: "),
    (train, [*TRAIN, "--load_network", ""], "--load_network: has an empty value"),
    (train, [*TRAIN, "--seed", "-1"], "--seed -1: expected"),
    (memory_read, ["--repeats", "0"], "--repeats: '0': expected a whole number of at least 1"),
    (memory_read, ["--map", "0", "2"], "--map: '0': expected a whole number of at least 1"),
    (memory_read, ["--json", "mask.png/figures.json"], "figures.json: cannot be written"),
    (memory_scaling, ["--plot", "clip.mp4"], "clip.mp4: exists and was not written by this program"),
    (interactive, [*ROBOT, "--json", "data/JPEGImages/a/00000.jpg"], "00000.jpg: is part of the input data/JPEGImages"),
    (interactive, [*ROBOT, "--plot", "mask.png"], "mask.png: exists and was not written by this program"),
    (inference, ["--interval", "0"], "--interval: '0': expected a whole number of at least 1"),
    (training, ["--crop", "384", "40"], "--crop 40: expected a multiple of 16"),
    (data, ["--static_root", "data", "--seconds", "0"], "--seconds 0.0: expected a number above 0"),
    (interactive, [*ROBOT, "--draws", "0"], "--draws: '0': expected a whole number of at least 1"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    save_network(root / "model.pth", make_network())
    own_data(root / "data", {"a": {0: blocks((32, 48), 1)}}, frames=3)
    write_video(root / "clip.mp4", 3, (48, 64))
    write_first_mask(root / "mask.png", (48, 64))
    (root / "youtube/valid").mkdir(parents=True)
    for name in ("JPEGImages", "Annotations"):
        (root / "nothing/valid" / name).mkdir(parents=True)
    (root / "nothing/valid/meta.json").write_text('{"videos": {}}')
    for name in ("youtube/valid/meta.json", "deep.json"):
        (root / name).write_text("[" * 10**5)
    (root / "twice.json").write_text('{"images": [], "images": [], "annotations": []}')
    (root / "log.jsonl").write_text("[" * 10**5 + "\n")
    (root / "seen.txt").write_text("a\n")
    for name in ("loop", "loop.png"):
        (root / name).symlink_to(root / name)
    os.mkfifo(root / "pipe")
    (root / "a:b.mp4").write_text("not a video")
    image = {"id": 1, "file_name": "a.jpg", "height": 10**12, "width": 10**12}
    (root / "huge.json").write_text(json.dumps({"images": [image], "annotations": []}))
    return root


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
@pytest.mark.parametrize(("program", "flags", "message"), CASES, ids=range(len(CASES)))
def test_bad_input_is_one_line(files, monkeypatch, capsys, program, flags, message):
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    with pytest.raises(SystemExit) as end:
        program.main(flags)
    error = capsys.readouterr().err
    lines = error.splitlines()
    assert end.value.code == 2 and message in lines[-1] and len(lines) == 1, error
    assert sorted(files.rglob("*")) == before and not os.path.lexists("out")
