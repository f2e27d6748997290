"""What CONTRIBUTING.md says about additions: every name has its implementation, and every file is there."""

import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from inference_memory_bank import make_memory
from model import encoders
from model.config import MEMORIES, PRESETS, NetworkConfig
from model.network import Network
from training.config import LIMITS, Machine, Recipe, Records, Validation

ROOT = Path(__file__).parents[1]
BACKBONES = typing.get_args(typing.get_type_hints(NetworkConfig)["backbone"])


def test_every_backbone_is_in_the_table():
    assert set(BACKBONES) == set(encoders.BACKBONES)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_its_widths(backbone):
    network = Network(NetworkConfig.preset("gsfm", backbone=backbone, value_dim=24, decoder_dim=16)).eval()
    with torch.inference_mode():
        features = network.encode_key(torch.zeros(2, 3, 32, 64))
        value = network.encode_value(torch.zeros(2, 3, 32, 64), features.f16, torch.zeros(2, 3, 32, 64))
        logits, _ = network.decode(value, features)
    assert value.shape == (2, 3, 24, 2, 4) and logits.shape == (2, 3, 32, 64)


def test_every_memory_has_its_class():
    classes = {type(make_memory(NetworkConfig.preset("gsfm", memory=name))) for name in MEMORIES}
    assert len(classes) == len(MEMORIES)


def test_every_name_is_in_the_documents():
    page = (ROOT / "docs/network.md").read_text(encoding="utf-8")
    names = {*re.findall(r"[\w-]+", page)}
    assert {*BACKBONES, *MEMORIES, *PRESETS} <= names


def test_every_number_has_its_limits():
    settings = [field for group in (Recipe, Validation, Records, Machine) for field in fields(group)]
    numbers = {field.name for field in settings if type(field.default) in (int, float)}
    assert "dice_weight" in numbers and numbers - LIMITS.keys() == {"local_rank"}  # which is ignored


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+(?:\.py|\.md|/))`", text)
    assert len(named) > 15 and [name for name in named if not (ROOT / name).exists()] == []
    places = re.findall(r"`([A-Z]+)`\s+in\s+`([\w/]+\.py)`", text)
    assert len(places) > 1
    for name, file in places:
        assert re.search(rf"^{name}\b", (ROOT / file).read_text(encoding="utf-8"), re.M), f"{name} in {file}"


def test_pre_commit_uses_the_version_of_ruff_that_make_lint_uses():
    version = re.search(r"^ruff==(\S+)", (ROOT / "requirements-dev.txt").read_text(encoding="utf-8"), re.M)
    assert version
    used = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert used and set(used) == {version[1]}
