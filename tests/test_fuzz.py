"""Mutations of small real files: whatever the bytes or values, a reader returns or raises `InputError` in one line.

The mutations are the same in every run. ``VOS_TEST_FUZZ=600 python -m pytest tests/test_fuzz.py`` goes on for that many
seconds with each reader instead of `SECONDS`.
"""

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.random import Generator

from datasets.images import image_size, read_image, read_mask, read_static_mask, write_image, write_mask
from datasets.listing import read_meta, video_with_masks
from model.network import load_network, save_network
from model.weights import write_network_file
from scripts.convert_masks import WRITERS, IdMask, number_objects
from scripts.mask_formats import read_frames
from scripts.score import read_categories
from tests.conftest import make_network
from tests.folders import make_youtube
from tests.videos import blocks, picture, write_first_mask, write_video
from training.checkpoint import TrainingState, read_checkpoint
from training.config import parse_config, restored_settings
from training.logger import read_log
from util.errors import InputError

SECONDS = float(os.environ.get("VOS_TEST_FUZZ", 2))
CASES = None if "VOS_TEST_FUZZ" in os.environ else 300  # at most, of each reader

# What takes the place of a value in a checkpoint or a JSON file.
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    10**12,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "a",
    "..",
    "\0",
    "9" * 5000,
]
VALUES += [[], [1], {}, {"a": 1}, [[[]]]]
TENSORS: list[Any] = [
    lambda: torch.zeros(()),
    lambda: torch.full((3,), torch.nan),
    lambda: -torch.ones(2, 2),
    lambda: torch.zeros(3, dtype=torch.int64),
    lambda: torch.zeros(3, dtype=torch.complex64),
    lambda: torch.zeros(3, dtype=torch.float8_e5m2),
    lambda: torch.zeros(2, 2).to_sparse(),
    lambda: torch.zeros(2, 2).to_sparse_csr(),
    lambda: torch.zeros(2, device="meta"),
    lambda: torch.zeros(1).expand(10**12),
    lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
]


def mutated_bytes(rng: Generator, data: bytes, within: int) -> bytes:
    """A few random changes in the first ``within`` bytes: flips, zeros, removed, repeated and foreign pieces, a cut."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(min(within, len(changed)) or 1))
        length = int(rng.integers(1, 1 + rng.choice([1, 4, 16, 200])))
        match rng.integers(6):
            case 0:
                changed[place : place + 1] = bytes([changed[place] ^ (1 << int(rng.integers(8)))]) if changed else b""
            case 1:
                changed[place : place + length] = bytes(length)
            case 2:
                changed[place : place + length] = b"\xff" * length
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                changed[place : place + length] = rng.bytes(length)
    return bytes(changed[: int(rng.integers(len(changed) + 1))] if rng.random() < 0.2 else changed)


def paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside nested dicts and lists, but only of the first of many siblings."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if type(value) is list else []
    for key, item in items if len(items) < 30 else items[:5]:
        yield (*path, key)
        yield from paths(item, (*path, key))


def copied(value: Any) -> Any:
    """A copy of nested dicts and lists with the same tensors."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if type(value) is list else value


def mutated_values(rng: Generator, contents: Any, values: list[Any]) -> Any:
    """A copy in which one value, at any depth, is replaced, removed, or found under another name."""
    contents = copied(contents)
    places = list(paths(contents))
    *parents, last = places[rng.integers(len(places))]
    parent = contents
    for key in parents:
        parent = parent[key]
    match rng.integers(8):
        case 0:
            del parent[last]
        case 1 if isinstance(parent, dict):
            parent[[3, "b", "../c", True][rng.integers(4)]] = parent.pop(last)
        case _:
            value = values[rng.integers(len(values))]
            parent[last] = value() if callable(value) else value
    return contents


def check(cases: Callable[[Generator], None], read: Callable[[], object]) -> None:
    """``cases`` writes a mutated file, ``read`` reads it; again and again."""
    end, number = time.monotonic() + SECONDS, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end and number != CASES:
            number += 1
            cases(np.random.default_rng(number))
            try:
                read()
            except InputError as error:
                assert "\n" not in str(error), f"mutation {number}"
            except Exception as error:
                raise AssertionError(f"mutation {number}: {error!r:.500}") from error


@pytest.mark.parametrize("name", ["image.jpg", "image.png", "mask.png", "grey.png"])
def test_images_and_masks(tmp_path, name):
    path, size = tmp_path / name, (24, 32)
    if name.startswith("image"):
        write_image(path, picture(1, size))
    else:
        write_mask(path, blocks(size, 1, 2), binary=name == "grey.png")
    good = path.read_bytes()

    def read() -> None:
        for reader in (image_size, read_image, read_mask, read_static_mask):
            try:
                reader(path)
            except InputError as error:
                assert "\n" not in str(error)

    check(lambda rng: path.write_bytes(mutated_bytes(rng, good, len(good))) and None, read)


@pytest.mark.skipif(
    int(av.__version__.split(".")[0]) < 18, reason="FFmpeg crashes on some damaged videos before PyAV 18"
)
def test_video_files(tmp_path):
    path, mask = tmp_path / "clip.mp4", write_first_mask(tmp_path / "mask.png", (32, 48))
    good = write_video(path, 4, (32, 48), movflags="faststart").read_bytes()  # the header comes first

    def read() -> None:
        for frame in video_with_masks(path, [str(mask)], 480)[0]:
            assert frame.image.dtype == np.uint8

    check(lambda rng: path.write_bytes(mutated_bytes(rng, good, 1500)) and None, read)


@pytest.mark.parametrize("structure", [False, True])
def test_json(tmp_path, structure):
    path = make_youtube(tmp_path, ["aa"]) / "valid/meta.json"
    log = tmp_path / "log.jsonl"
    good = path.read_bytes()

    def write(rng: Generator) -> None:
        if structure:
            text = json.dumps(mutated_values(rng, json.loads(good), [*VALUES, 10**4000])).encode()
        else:
            text = mutated_bytes(rng, good, len(good))
        path.write_bytes(text)
        log.write_bytes(b'{"iteration": 1}\n' + text[:2000])

    def read() -> None:
        for reader in (read_meta, read_categories):
            try:
                for name, frames in reader(path).items():
                    assert isinstance(name, str) and isinstance(frames, list | str)
            except InputError as error:
                assert "\n" not in str(error)
        for entry in read_log(log):
            assert isinstance(entry, dict)

    check(write, read)


@pytest.mark.parametrize("source", ["labelme", "cvat", "coco", "youtube-vis"])
def test_annotations(tmp_path, source):
    path = tmp_path / "annotations"
    WRITERS[source](path, [IdMask("v", f"{t}", blocks((12, 16), 1, 2)) for t in range(2)])
    file = next(path.rglob("*.json")) if source == "labelme" else path
    good = file.read_bytes()

    def write(rng: Generator) -> None:
        if source == "cvat":
            file.write_bytes(mutated_bytes(rng, good, len(good)))
        else:
            file.write_text(json.dumps(mutated_values(rng, json.loads(good), VALUES)))

    def read() -> None:
        for mask in number_objects(read_frames(path, source), path):
            assert mask.ids.dtype == np.uint8

    check(write, read)


def test_bytes_of_weights(tmp_path):
    path, network = tmp_path / "network.pth", make_network()
    settings, state = dataclasses.asdict(network.config), dict(list(network.state_dict().items())[:3])
    write_network_file(path, settings, state)
    good = path.read_bytes()
    ends = 5000  # where the zip archive has its pickle and its names

    def write(rng: Generator) -> None:
        data = mutated_bytes(rng, good[::-1], ends)[::-1] if rng.random() < 0.5 else mutated_bytes(rng, good, ends)
        path.write_bytes(data)

    check(write, lambda: load_network(path))


def test_values_of_weights(tmp_path, monkeypatch):
    path, loaded = tmp_path / "network.pth", {}
    save_network(path, make_network())
    contents = torch.load(path, weights_only=True)
    monkeypatch.setattr(torch, "load", lambda *args, **options: loaded["contents"])  # many times as fast as files

    def mutate(rng: Generator) -> None:
        loaded["contents"] = mutated_values(rng, contents, VALUES + TENSORS)

    check(mutate, lambda: load_network(path))


def test_values_of_training_checkpoints(tmp_path, monkeypatch):
    """What can be read also goes on: with a step of the optimiser, and with settings that are checked."""
    network = make_network("stcn")
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    state = TrainingState(network, optimizer, torch.amp.GradScaler("cpu", enabled=False), 0.9)

    def step() -> None:
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        state.step(1e-3)

    path, contents, loaded = tmp_path / "checkpoint.pth", {}, {}
    step()
    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoint.write_network_file", lambda *args, train: contents.update(train=train))
        state.save(path, parse_config(["--id", "run", "--stage", "0"]).saved_settings())
    contents |= {"format": 1, "config": dataclasses.asdict(network.config), "network": network.state_dict()}
    monkeypatch.setattr(torch, "load", lambda *args, **options: loaded["contents"])

    def mutate(rng: Generator) -> None:
        loaded["contents"] = contents | {"train": mutated_values(rng, contents["train"], VALUES + TENSORS)}

    def read() -> None:
        state.load(read_checkpoint(path), path)
        restored_settings(loaded["contents"]["train"]["settings"], path)
        step()
        assert state.iteration >= 0 and state.position >= 0 and state.updates > 0

    check(mutate, read)
