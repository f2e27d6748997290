"""What has to work on every system: the programs import, four frames are segmented, and one step is trained."""

import importlib
from pathlib import Path

import numpy as np

import eval_generic
import train
from datasets.images import read_mask
from scripts.demo import SHIPPED
from scripts.make_synthetic import main as make_synthetic
from tests.conftest import TINY
from tests.scenes import write_static

ROOT = Path(__file__).parents[1]


def test_everything_imports():
    files = [
        *ROOT.glob("*.py"),
        *(path for folder in ("scripts", "benchmarks") for path in ROOT.glob(f"{folder}/*.py")),
    ]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    assert {"train", "eval_davis", "predictor", "scripts.score", "benchmarks.training"} <= set(names)
    for name in names:
        importlib.import_module(name)


def test_four_frames(tmp_path):
    clip = ["--layout", "generic", "--num_videos", "1", "--num_frames", "4", "--size", "96x128", "--num_objects", "2"]
    make_synthetic([*clip, "--output", str(tmp_path / "clip")])
    model = ["--model", str(SHIPPED), "--overlay", "--device", "cpu"]
    eval_generic.main([*model, "--data_path", str(tmp_path / "clip"), "--output", str(tmp_path / "out")])
    masks = sorted((tmp_path / "out").glob("synthetic-*/*.png"))
    assert len(masks) == 4 and all(set(np.unique(read_mask(path))) == {0, 1, 2} for path in masks)
    assert len(list((tmp_path / "out/overlay").glob("*.mp4"))) == 1


def test_one_training_step(tmp_path):
    write_static(tmp_path / "static/ours")
    flags = [f"--{name}={value}" for name, value in TINY.items()] + ["--pretrained", "none", "--device", "cpu"]
    flags += ["--static_root", str(tmp_path / "static"), "--saves", str(tmp_path), "--crop", "48", "-b", "1"]
    train.main([*flags, "--id", "smoke", "--stage", "0", "-i", "1", "--num_workers", "1"])
    assert (tmp_path / "smoke/smoke_1.pth").exists()
