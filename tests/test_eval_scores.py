"""The eval scripts print J and F where there is ground truth, and only there."""

import json

import numpy as np
import pytest
import torch

import eval_davis
import eval_davis_2016
import eval_generic
import eval_youtube
import evaluation
from datasets.images import write_image, write_mask
from inference_core import InferenceCore
from model.config import InferenceSettings
from model.network import save_network
from scoring.folders import format_table, score_folders
from tests.folders import frame, ids_at, make_testdev, make_youtube


@pytest.fixture
def evaluate(evaluate):
    """``evaluate(script, *flags)`` → what it printed."""

    def call(script, *flags):
        code, printed, error = evaluate(script, *flags)
        assert code == 0, error
        return printed

    return call


@pytest.fixture
def engines(monkeypatch):
    """The `InferenceCore` of each video that is segmented."""
    made = []

    def spy(*args):
        made.append(InferenceCore(*args))
        return made[-1]

    monkeypatch.setattr(evaluation, "InferenceCore", spy)
    return made


def check_defaults(output, video, engines, top_k, precision="float32"):
    """The published settings, in the engine and in the record of the results."""
    used = json.loads((output / f".records/{video}.json").read_text())["made_with"]
    expected = {"top_k": top_k, "mem_every": 3, "include_last": False, "given_bias": 0.0}
    expected |= {"size": 480, "precision": precision}
    assert {name: used[name] for name in expected} == expected
    assert (used["max_memory_frames"], used["memory"]) == (None, "space_time")
    assert settings_of(engines[-1]) == (top_k, 3, False, False, 0.0)


def settings_of(engine):
    memory = engine.make_memory()
    return memory.top_k, engine.mem_every, engine.include_last, engine.local, memory.given_bias


def test_recommended_settings(tmp_path, evaluate, engines, tiny_network):
    """Used by eval_generic.py, by a benchmark only on request; flags win."""
    network = tiny_network()
    network.recommended = InferenceSettings(top_k=7, mem_every=2, include_last=True, local=True, given_bias=1.5)
    save_network(tmp_path / "w.pth", network)
    add_video(tmp_path / "2016", "camel", 3, binary=True)
    own = tmp_path / "own"
    write_image(own / "JPEGImages/v/00000.jpg", frame(0))
    write_mask(own / "Annotations/v/00000.png", ids_at(0, 1))
    benchmark = [eval_davis_2016, "--davis_path", tmp_path / "2016", "--videos", "camel"]
    for script, *flags, expected in (
        (eval_generic, "--data_path", own, (7, 2, True, True, 1.5)),
        (eval_generic, "--data_path", own, "--top", 9, "--no-include_last", (9, 2, False, True, 1.5)),
        (eval_generic, "--data_path", own, "--no-recommended", (50, 3, False, False, 0.0)),
        (*benchmark, (20, 3, False, False, 0.0)),
        (*benchmark, "--recommended", "--mem_every", 5, (7, 5, True, True, 1.5)),
        (*benchmark, "--recommended", "--no-local", "--given_bias", 0.5, (7, 2, True, False, 0.5)),
    ):
        printed = evaluate(script, "--model", tmp_path / "w.pth", "--overwrite", *flags)
        assert settings_of(engines[-1]) == expected
        assert ("the weights recommend" in printed) == (expected[1:] != (3, False, False, 0.0))


def add_video(base, name, frames, masks=None, binary=False):
    for t in range(frames):
        write_image(base / f"JPEGImages/480p/{name}/{t:05d}.jpg", frame(t))
        if t in (masks or range(frames)):
            write_mask(base / f"Annotations/480p/{name}/{t:05d}.png", ids_at(t, *((1,) if binary else (1, 4))), binary)


def test_davis(tmp_path, evaluate, engines):
    base = tmp_path / "data/trainval"
    add_video(base, "camel", 5)
    add_video(base, "goat", 6)
    add_video(base, "cows", 5, masks=[0])  # nothing to score it by
    printed = evaluate(eval_davis, "--davis_path", tmp_path / "data", "--videos", "camel,goat,cows")
    table = format_table(score_folders(base / "Annotations/480p", tmp_path / "out", ["camel", "goat"]))
    assert table in printed and "goat   4" in table and "cows" not in table
    again = evaluate(eval_davis, "--davis_path", tmp_path / "data", "--videos", "camel,goat,cows")
    assert "0 videos segmented, 3 already finished" in again and table in again
    check_defaults(tmp_path / "out", "camel", engines, top_k=50)


def test_davis_2016_and_testdev(tmp_path, evaluate, engines):
    add_video(tmp_path / "2016", "camel", 5, binary=True)
    assert "camel " in evaluate(eval_davis_2016, "--davis_path", tmp_path / "2016", "--videos", "camel")
    check_defaults(tmp_path / "out", "camel", engines, top_k=20)
    flags = ["--davis_path", make_testdev(tmp_path / "2017"), "--split", "testdev"]
    assert "J&F" not in evaluate(eval_davis, *flags)


def test_ground_truth_beside_the_given_masks(tmp_path, evaluate, engines, monkeypatch):
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.bfloat16)  # for users, not for benchmarks
    data = make_youtube(tmp_path / "data")
    assert "J&F" not in evaluate(eval_youtube, "--yv_path", data)
    check_defaults(tmp_path / "out", "aa", engines, top_k=50)
    for t in range(16):
        for video in ("aa", "bb"):
            ids = ids_at(t, 2, 3, 9)
            write_mask(data / f"valid/GroundTruth/{video}/{t:05d}.png", np.where((ids == 9) & (t < 7), 0, ids))
    printed = evaluate(eval_youtube, "--yv_path", data)
    assert all(f"{video}   {i} " in printed for video in ("aa", "bb") for i in (2, 3, 9))

    own = tmp_path / "own"
    for t in range(5):
        write_image(own / f"JPEGImages/v/{t:05d}.jpg", frame(t))
        write_mask(own / f"GroundTruth/v/{t:05d}.PNG", ids_at(t, 1))
    write_mask(own / "Annotations/v/00000.png", ids_at(0, 1))
    assert "\nv " in evaluate(eval_generic, "--data_path", own)
    check_defaults(tmp_path / "out", "v", engines, top_k=50, precision="bfloat16")
