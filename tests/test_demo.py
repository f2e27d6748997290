"""The demo, run the way ``make demo`` runs it."""

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

from datasets.images import read_mask
from scripts.demo import CLIP, ROOT


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

    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "my clip.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=10, width=64, height=48)
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), format="rgb24")
            video.mux(stream.encode(frame))
        video.mux(stream.encode(None))
    ids = np.zeros((48, 64), np.uint8)
    ids[10:30, 10:30] = 1
    Image.fromarray(ids).save(tmp_path / "first.png")
    save_network(tmp_path / "tiny.pth", tiny_network())
    options = ("--video", str(tmp_path / "my clip.mp4"), "--model", str(tmp_path / "tiny.pth"))
    done = demo(tmp_path / "out", *options, "--mask", str(tmp_path / "first.png"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out/masks/my clip").glob("*.png"))) == 3
    assert (tmp_path / "out/masks/overlay/my clip.mp4").is_file()

    assert demo(tmp_path / "out", "--video", str(tmp_path / "my clip.mp4")).returncode == 2  # no mask


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_demo_quotes_file_names():
    command = ["make", "--no-print-directory", "--dry-run", "demo", "VIDEO=my clip.mp4", "MASK=first mask.png"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shlex.split(printed.splitlines()[-1])[1:] == [
        "scripts/demo.py",
        "--video",
        "my clip.mp4",
        "--mask",
        "first mask.png",
    ]
