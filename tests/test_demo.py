"""The demo, run the way ``make demo`` runs it."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import scripts.demo
import scripts.download
from datasets.images import read_mask, write_mask
from scripts.demo import CLIP, ROOT
from tests.videos import blocks, write_first_mask, write_video


def demo(output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/demo.py", "--output", str(output), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_demo_on_its_own_clip(tmp_path):
    done = demo(tmp_path, "--size", "240")
    assert done.returncode == 0, done.stderr
    scores = re.search(r"^global +([\d.]+)", done.stdout, re.M)
    assert scores and float(scores[1]) >= 60  # J&F
    truth = sorted((tmp_path / "clip/GroundTruth" / CLIP).glob("*.png"))
    masks = sorted((tmp_path / "masks" / CLIP).glob("*.png"))
    assert [path.name for path in masks] == [path.name for path in truth] == [f"{t:05d}.png" for t in range(28)]
    first, given = read_mask(masks[0]) > 0, read_mask(truth[0]) > 0
    assert (first & given).sum() > 0.97 * (first | given).sum()  # at half of the clip's size
    assert {3} == set(np.unique(read_mask(truth[-1]))) - set(np.unique(read_mask(truth[0])))  # enters later
    with av.open(str(tmp_path / f"masks/overlay/{CLIP}.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 28
    for picture in (tmp_path / f"masks/overlay/{CLIP}.png", tmp_path / "scores.png"):
        Image.open(picture).load()
        assert str(picture) in done.stdout


def test_demo_on_a_clip_of_the_users(tmp_path, tiny_network):
    from model.network import save_network

    write_video(tmp_path / "my clip.mp4", 3, (48, 64))
    write_first_mask(tmp_path / "first.png", (48, 64))
    save_network(tmp_path / "tiny.pth", tiny_network())
    options = ("--video", str(tmp_path / "my clip.mp4"), "--model", str(tmp_path / "tiny.pth"))
    done = demo(tmp_path / "out", *options, "--mask", str(tmp_path / "first.png"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out/masks/my clip").glob("*.png"))) == 3
    assert (tmp_path / "out/masks/overlay/my clip.mp4").is_file()

    assert demo(tmp_path / "out", "--video", str(tmp_path / "my clip.mp4")).returncode == 2  # no mask


def test_demo_on_a_downloaded_clip(tmp_path, tiny_weights, server, monkeypatch, capfd):
    files = tmp_path / "files"
    write_video(files / "chair.mp4", 5, (48, 64))
    for t in range(5):
        write_mask(files / f"Annotations/frame_{t:06d}.png", blocks((48, 64), 1))
    paths = [path for path in sorted(files.rglob("*.*")) if path.is_file()]
    server.files = {f"any/{path.relative_to(files).as_posix()}": path.read_bytes() for path in paths}
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(files).as_posix()}" for path in paths]
    (tmp_path / "sums").write_text("\n".join(sums))
    monkeypatch.setattr(scripts.demo, "CHECKSUMS", tmp_path / "sums")
    flags = ["--clip", "chair", "--model", str(tiny_weights), "--output", str(tmp_path / "out")]
    flags += ["--data", str(tmp_path / "data"), "--mirror", f"{server.url}/any"]
    scripts.demo.main(flags)
    printed = capfd.readouterr().out
    assert "CC BY 4.0" in printed and re.search(r"^chair +[\d.]+", printed, re.M)  # J&F
    assert len(list((tmp_path / "out/masks/chair").glob("*.png"))) == 5
    assert (tmp_path / "out/masks/overlay/chair.mp4").is_file() and (tmp_path / "out/scores.png").is_file()

    server.files.clear()
    monkeypatch.setattr(scripts.download, "RETRIES", 0)
    calls: list[tuple] = []
    monkeypatch.setattr(scripts.demo, "run", lambda *words: calls.append(words))
    scripts.demo.main(flags)  # from the files that are there
    assert any("chair.mp4" in str(word) for word in calls[0])
    shutil.rmtree(tmp_path / "data")
    for address, reason in (
        (f"{server.url}/any", "404"),
        ("http://127.0.0.1:9", "the connection to 127.0.0.1:9 failed"),
    ):
        calls.clear()
        scripts.demo.main([*flags, "--mirror", address])
        note = [line for line in capfd.readouterr().out.splitlines() if line.startswith("note:")]
        assert len(note) == 1 and reason in note[0] and calls[0][0] == "scripts/make_synthetic.py"


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_demo_says_what_was_killed(tmp_path, monkeypatch):
    (tmp_path / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit, match="error: scripts/make_synthetic.py was killed by signal 9"):
        scripts.demo.main(["--output", str(tmp_path)])


EXAMPLE = "output/annotate/clip"


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_quotes_file_names():
    for variables, flags in (
        (["VIDEO=my clip.mp4", "MASK=first mask.png"], ["--video", "my clip.mp4", "--mask", "first mask.png"]),
        (["CLIP=chair"], ["--clip", "chair"]),
        (["""VIDEO=Tom's "best" `1`, 2.mp4""", "MASK=a"], ["--video", """Tom's "best" `1`, 2.mp4""", "--mask", "a"]),
    ):
        for target, program in {"demo": "scripts/demo.py", "annotate": "annotate.py"}.items():
            known = flags if target == "demo" else flags[: 2 * flags.count("--video")] or ["--root", EXAMPLE]
            command = ["make", "--no-print-directory", "--dry-run", target, *variables]
            printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            assert shlex.split(printed.splitlines()[-1])[1:] == [program, *known]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_finishes_an_environment_that_was_left_without_pip(tmp_path):
    """As by Ctrl-C, and by Debian's Python where its venv package is missing."""
    whole = f"#!/bin/sh\ncase $2 in venv) cp {tmp_path}/python {tmp_path}/venv/bin/python;; esac\n"
    (tmp_path / "venv/bin").mkdir(parents=True)
    for path, text in ((tmp_path / "python", whole), (tmp_path / "venv/bin/python", "#!/bin/sh\nexit 1\n")):
        path.write_text(text)
        path.chmod(0o755)
    command = ["make", "setup", f"VENV={tmp_path}/venv", f"PYTHON={tmp_path}/python"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert (tmp_path / "venv/.runtime").is_file()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_runs_in_a_folder_that_was_moved():
    """Where scripts of pip, such as .venv/bin/mypy, still name the old one."""
    command = ["make", "--dry-run", "lint", "format", "VENV=v", "-o", "v/.dev"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines and all(line.startswith("v/bin/python -m ") for line in lines if "v/bin" in line)
