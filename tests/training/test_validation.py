"""Validation: the scores of the published evaluation, the best weights, and a training that does not notice."""

import shutil

import numpy as np
import pytest
import torch

from datasets.images import write_image, write_mask
from eval_davis_2016 import main as eval_davis_2016
from eval_generic import main as eval_generic
from model.network import load_network, save_network
from scoring.folders import score_folders
from tests.scenes import discs
from tests.training.conftest import NETWORK
from training.config import Validation
from training.logger import read_log
from training.validation import held_out_videos, validate
from util.errors import InputError

CPU = torch.device("cpu")


def test_scores_are_those_of_the_evaluation(tiny_network, data, tmp_path):
    save_network(tmp_path / "w.pth", tiny_network())
    settings = Validation(data / "DAVIS", "bear,bus, bear", 1, 48)
    network = load_network(tmp_path / "w.pth").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    generator = torch.get_rng_state()
    scores = validate(network, held_out_videos(settings), CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), generator) and network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    flags = ["--model", tmp_path / "w.pth", "--davis_path", data / "DAVIS/2016", "--split", "train", "--size", "48"]
    flags += ["--videos", "bear,bus", "--output", tmp_path / "out", "--device", "cpu"]
    eval_davis_2016([str(flag) for flag in flags])
    expected = score_folders(data / "DAVIS/2016/Annotations/480p", tmp_path / "out").summary()
    assert (scores["val_jf"], scores["val_j"], scores["val_f"]) == pytest.approx(
        (expected.jf, expected.j.mean, expected.f.mean), abs=1e-12
    )
    assert 0 < scores["val_jf"] < 1


def test_objects_that_enter_later(tiny_network, tmp_path):
    """A folder with masks of every frame: each object is given once, on the frame where it first appears."""
    frames, ids = discs(4, 8)
    ids[:3][ids[:3] == 2] = 0
    for t in range(8):
        write_image(tmp_path / "JPEGImages" / "v" / f"{t:05d}.jpg", frames[t])
        write_mask(tmp_path / "Annotations" / "v" / f"{t:05d}.png", ids[t])
        if t in (0, 3):
            given = ids[t] if t == 0 else np.where(ids[t] == 2, ids[t], 0).astype(np.uint8)
            write_mask(tmp_path / "given" / "Annotations" / "v" / f"{t:05d}.png", given)
    shutil.copytree(tmp_path / "JPEGImages", tmp_path / "given" / "JPEGImages")
    save_network(tmp_path / "w.pth", tiny_network())
    videos = held_out_videos(Validation(tmp_path, "", 1, 480))
    scores = validate(load_network(tmp_path / "w.pth").train(), videos, CPU, torch.float32)
    flags = ["--model", tmp_path / "w.pth", "--data_path", tmp_path / "given", "--output", tmp_path / "out"]
    eval_generic([str(flag) for flag in (*flags, "--no-amp", "--device", "cpu")])
    expected = score_folders(tmp_path / "Annotations", tmp_path / "out").summary()
    assert scores["val_jf"] == pytest.approx(expected.jf, abs=1e-12)


def test_training_does_not_notice(run, data, tmp_path, monkeypatch):
    """The same weights with and without validation; the best are kept, those of the average where there is one."""
    scores = iter([0.5, 0.9, 0.7, 0.9])

    def made_up(network, videos, device, precision):
        torch.rand(1)  # what validation must not do, and train.py has to survive
        return {"val_jf": next(scores)}

    flags = ["--stage", "0", "-i", "4", "--save_every", "1", "--ema", "0.5", "--lr", "1e-3", *NETWORK]
    run("--id", "plain", *flags)
    monkeypatch.setattr("training.run.validate", made_up)
    run("--id", "scored", *flags, "--val_root", data / "DAVIS", "--val_videos", "bear", "--val_every", "1")
    files = {
        name: torch.load(tmp_path / name, weights_only=True)["network"]["key_proj.weight"]
        for name in (
            "plain/plain_4.pth",
            "scored/scored_4.pth",
            "scored/scored_2.pth",
            "scored/scored_best.pth",
            "scored/scored_checkpoint.pth",
        )
    }
    assert torch.equal(files["plain/plain_4.pth"], files["scored/scored_4.pth"])
    assert torch.equal(files["scored/scored_best.pth"], files["scored/scored_2.pth"])
    assert not torch.equal(files["scored/scored_4.pth"], files["scored/scored_checkpoint.pth"])
    log = read_log(tmp_path / "scored/scored_log.jsonl")
    assert [entry["val_jf"] for entry in log if "val_jf" in entry] == [0.5, 0.9, 0.7, 0.9]


def test_faulty_validation_data_ends_the_run_at_its_start(data, tmp_path):
    with pytest.raises(InputError, match="no videos; expected --val_root"):
        held_out_videos(Validation(tmp_path, "", 1))
    with pytest.raises(InputError, match="camel: no such folder"):
        held_out_videos(Validation(data / "DAVIS", "camel", 1))
    shutil.copytree(data / "DAVIS/2016", tmp_path / "few")
    for path in sorted((tmp_path / "few/Annotations/480p/bear").iterdir())[2:]:
        path.unlink()
    with pytest.raises(InputError, match="bear: 2 masks; expected one for every frame"):
        held_out_videos(Validation(tmp_path / "few", "bear", 1))
