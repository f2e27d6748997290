"""Hostile input and output: one line for each fault, an exit code, good neighbours complete, nothing else touched."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import eval_davis
import eval_generic
from datasets.images import read_image, write_mask
from model.network import save_network
from model.weights import read_network_file
from scripts import (
    check_masks,
    convert_checkpoint,
    extract_frame,
    make_submission,
    make_synthetic,
    plot_training,
    resize_length,
    score,
)
from tests.folders import make_testdev, write_videos
from tests.videos import blocks, check_files, names, own_data, picture, write_video
from training.config import Validation
from training.validation import held_out_videos
from util.errors import InputError

SIZE = (32, 48)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and devices")


def contents(folder: Path) -> dict[Path, bytes | str]:
    """Every file below a folder, and what every link points to."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path: str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in paths}


def replace_by(path: Path, what: str) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "nothing":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(what.encode())


FRAME, MASK, VIDEO = "JPEGImages/{}/00001.jpg", "Annotations/{}/00000.png", "JPEGImages/{}"
FAULTS = {  # what becomes of a part of a video, and what the error says
    "frame is a pipe": (FRAME, "pipe", "00001.jpg: is not a regular file"),
    "frame is a device": (FRAME, "device", "00001.jpg: is not a regular file"),
    "frame is a folder": (FRAME, "folder", "00001.jpg: is a folder"),
    "frame is a loop": (FRAME, "loop", "00001.jpg: cannot be read"),
    "frame is missing": (FRAME, "nothing", "00001.jpg: "),
    "frame is text": (FRAME, "text", "00001.jpg: truncated, damaged or not an image"),
    "mask is a pipe": (MASK, "pipe", "00000.png: is not a regular file"),
    "mask is a folder": (MASK, "folder", "00000.png: is a folder"),
    "mask is empty": (MASK, "", "00000.png: truncated"),
    "video is a loop": (VIDEO, "loop", "no such folder"),
    "video is missing": (VIDEO, "nothing", "no such folder"),
    "video is empty": (VIDEO, "folder", "holds no frames"),
    "two\nlines": (MASK, "pipe", r"two\nlines/00000.png: is not a regular file"),
}


def test_faulty_videos_among_good_ones(tmp_path, evaluate):
    good = ["{a} %d", "→\udcff" if sys.platform == "linux" else "→", "z"]  # elsewhere names of files are Unicode
    data = own_data(tmp_path / "data", {name: {0: blocks(SIZE, 1)} for name in (*good, *FAULTS)}, frames=3)
    for name, (part, what, _) in FAULTS.items():
        replace_by(data / part.format(name), what)
    before = contents(tmp_path)
    code, out, error = evaluate(eval_generic, "--data_path", data, "--overlay")
    assert code == 1 and f"3 videos segmented, {len(FAULTS)} failed" in out
    lines = {line.split(": ")[1].replace(r"\n", "\n"): line for line in error.splitlines()}
    assert lines.keys() == FAULTS.keys() and len(error.splitlines()) == len(FAULTS)
    for name, (*_, says) in FAULTS.items():
        assert says in lines[name]
    for name in good:
        check_files(tmp_path / "out" / name, names(3), SIZE, {1})
    assert {path: value for path, value in contents(tmp_path).items() if tmp_path / "out" not in path.parents} == before


def test_a_missing_video_of_a_list_fails_alone(tmp_path, evaluate):
    data = make_testdev(tmp_path / "data", ("aa", "bb"))
    shutil.rmtree(data / "test-dev/JPEGImages/480p/bb")
    code, out, error = evaluate(eval_davis, "--davis_path", data, "--split", "testdev")
    assert code == 1 and "1 video segmented, 1 failed: bb" in out
    assert error.startswith(f"error: bb: {data}/test-dev/JPEGImages/480p/bb: no such folder") and error.count("\n") == 1


def test_what_others_made_is_never_replaced(tmp_path, tiny_weights, capsys):
    """Nor is anything written to devices, links to nowhere that exists, and folders in the place of files."""
    data = own_data(tmp_path / "data", {"a": {0: blocks(SIZE, 1)}}, frames=4)
    for folder in ("truth", "results"):
        for name in names(4):
            write_mask(tmp_path / folder / f"a/{name}.png", blocks(SIZE, 1))
    photo, log = data / "JPEGImages/a/00000.jpg", tmp_path / "run/x_log.jsonl"
    log.parent.mkdir()
    log.write_text('{"iteration": 1, "loss": 1}\n')
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    video, scores = write_video(tmp_path / "clip.mp4", 3, SIZE), [tmp_path / "truth", tmp_path / "results"]
    testdev = make_testdev(tmp_path / "testdev")
    bad = [photo, "/dev/full", tmp_path / "data", loop, "x" * 300, photo / "below"]
    rows = [(score.main, [*scores, flag, path]) for flag in ("--csv", "--json", "--plot") for path in bad]
    rows += [(score.main, [*scores, "--csv", folder / "a/00001.png"]) for folder in scores]
    rows += [(score.main, [*scores, "--json", folder / "a/new.json"]) for folder in scores]
    rows += [(plot_training.main, [tmp_path / "run", "--output", path]) for path in (*bad, log)]
    rows += [(convert_checkpoint.main, [tiny_weights, path]) for path in (*bad, tiny_weights)]
    rows += [(extract_frame.main, [video, path]) for path in (*bad, video)]
    rows += [(extract_frame.main, [video, tmp_path / "new.png", "--frame", number]) for number in (3, -1, 10**12)]
    rows += [(resize_length.main, [data, path]) for path in (*bad[:4], data / "new")]
    rows += [(make_synthetic.main, ["--output", path]) for path in (photo, "/dev/full", loop)]
    rows += [
        (make_synthetic.main, ["--output", tmp_path / "new", flag, 10**12]) for flag in ("--num_frames", "--num_videos")
    ]
    submission = ["davis2017-testdev", scores[1], "--data", testdev, "--output"]
    rows += [(make_submission.main, [*submission, path]) for path in (photo, scores[1] / "new.zip")]
    rows += [(check_masks.main, [data, "--fix", path]) for path in (data, photo)]
    before = contents(tmp_path)
    for main, arguments in rows:
        code: int | str | None = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        printed, error = map(str.splitlines, capsys.readouterr())
        assert code in (1, 2) and len(error) == 1 and error[0].startswith("error: "), (arguments, error)
        assert not printed, (arguments, printed)  # no scores: outputs are looked at before hours of work
        assert contents(tmp_path) == before, arguments


def test_masks_that_cannot_be_read_are_not_left_out(tmp_path, monkeypatch, capsys):
    folders = [tmp_path / "truth", tmp_path / "results"]
    for path in [folder / video / f"{name}.png" for folder in folders for video in "ab" for name in names(4)]:
        write_mask(path, blocks(SIZE, 1))
    iterdir = Path.iterdir

    def refuse(path):
        if path == tmp_path / "truth/b":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SystemExit):
        score.main([*map(str, folders)])
    assert capsys.readouterr().err == f"error: {tmp_path}/truth/b cannot be used (Permission denied)\n"


def test_own_files_are_replaced(tmp_path):
    for folder in ("truth", "results"):
        for name in names(4):
            write_mask(tmp_path / folder / f"a/{name}.png", blocks(SIZE, 1))
    outputs = [word for flag in ("csv", "json", "plot") for word in (f"--{flag}", str(tmp_path / f"new/{flag}"))]
    for _ in range(2):
        score.main([str(tmp_path / "truth"), str(tmp_path / "results"), *outputs])


def test_flipped_bytes_of_weights_are_found(tmp_path, tiny_weights):
    """Or change nothing: some bytes of a zip file, such as its dates, have no meaning."""
    good, data = read_network_file(tiny_weights), tiny_weights.read_bytes()
    found = 0
    places = np.random.default_rng(0).integers(0, len(data), 40)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            read = read_network_file(tmp_path / "damaged.pth")
        except InputError as error:
            found += str(error).startswith(f"{tmp_path / 'damaged.pth'}: ")
        else:
            assert read.settings == good.settings
            assert all(torch.equal(read.state[name], value) for name, value in good.state.items())
    assert found > 0.9 * len(places)


def test_results_that_are_not_finite_are_no_results(tmp_path, evaluate, tiny_network):
    network = tiny_network()
    with torch.no_grad():
        network.key_encoder.conv1.weight *= 1e38
    save_network(tmp_path / "huge.pth", network)
    data = own_data(tmp_path / "data", {"a": {0: blocks(SIZE, 1)}}, frames=3)
    code, _, error = evaluate(eval_generic, "--data_path", data, "--model", tmp_path / "huge.pth")
    assert code == 2 and error.count("\n") == 1 and "a: frame 00001: the network's output is not finite" in error


def test_true_masks_of_another_size_end_a_training_before_it_begins(tmp_path):
    write_videos(tmp_path, ["a"], frames=5)
    bad = tmp_path / "Annotations/a/00003.png"
    write_mask(bad, blocks((72, 95), 1))
    with pytest.raises(InputError, match=f"{bad}: the mask is 95×72 pixels, but its frame 00003 is 96×72"):
        held_out_videos(Validation(val_root=tmp_path, val_every=1))


def test_a_frame_to_paint_on_and_the_rate_of_an_overlay(tmp_path, evaluate):
    import av

    extract_frame.main([str(write_video(tmp_path / "clip.mp4", 3, SIZE)), str(tmp_path / "new.png"), "--frame", "2"])
    errors = [np.abs(read_image(tmp_path / "new.png").astype(int) - picture(i, SIZE)).mean() for i in range(3)]
    assert np.argmin(errors) == 2
    data = own_data(tmp_path / "data", {"a": {0: blocks(SIZE, 1)}}, frames=3)
    assert evaluate(eval_generic, "--data_path", data, "--overlay", "--fps", "12.5")[0] == 0
    with av.open(str(tmp_path / "out/overlay/a.mp4")) as video:
        assert video.streams.video[0].average_rate == 12.5
    for rate in ("0", "-1", "nan", "1/0", "9" * 5000):
        assert evaluate(eval_generic, "--data_path", data, "--fps", rate)[0] == 2
