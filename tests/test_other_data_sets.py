"""Data sets without an eval script of their own, in small: the commands of data/README.md."""

import re

import numpy as np
import pytest

import eval_generic
from datasets.images import read_mask, write_image, write_mask
from scripts.convert_masks import main as convert
from tests.folders import frame, ids_at

FRAMES, ENTERS = 6, 2  # object 2 is annotated from frame ENTERS on


def make(root, name, given=None, void=False):
    """JPEGImages/v and Annotations/v with frames called ``name``; masks of the frames ``given``, or of all."""
    for t in range(FRAMES):
        write_image(root / f"JPEGImages/v/{name.format(t)}.jpg", frame(t))
        ids = ids_at(t, *((1, 2) if t >= ENTERS else (1,)))
        if void:
            ids[0, 0] = 255
        if given is None or t in given:
            write_mask(root / f"Annotations/v/{name.format(t)}.png", ids)
    return root


@pytest.mark.parametrize(
    "layout, name",
    [
        ("MOSE valid", "{:05d}"),
        ("LVOS valid", "{:08d}"),
        ("PUMaVOS", "frame_{:06d}"),
        ("VOST", "frame{:05d}"),
    ],
)
def test_layouts(tmp_path, evaluate, layout, name):
    first_only = layout == "MOSE valid"
    data = make(tmp_path / "set", name, given=[0] if first_only else None, void=layout == "VOST")
    flags = [] if first_only else ["--first_masks"]
    if layout == "VOST":
        (data / "ImageSets").mkdir()
        (data / "ImageSets/val.txt").write_text("v\n")
        flags += ["--videos", data / "ImageSets/val.txt"]
        convert([str(data / "Annotations"), str(tmp_path / "ids"), "--from", "masks-with-void"])
        (data / "Annotations").rename(tmp_path / "with_void")
        (tmp_path / "ids").rename(data / "Annotations")
    code, printed, error = evaluate(eval_generic, "--data_path", data, *flags)
    assert code == 0, error
    results = sorted((tmp_path / "out/v").glob("*.png"))
    assert [path.stem for path in results] == [name.format(t) for t in range(FRAMES)]
    if first_only:
        assert "J&F" not in printed
    else:
        assert re.search("^v   1 ", printed, re.M) and re.search("^v   2 ", printed, re.M)  # scored with the others
        assert np.array_equal(read_mask(results[ENTERS]) == 2, ids_at(ENTERS, 1, 2) == 2)  # given
        assert not (read_mask(results[ENTERS - 1]) == 2).any()


def test_later_masks_are_corrections_unless_they_are_to_be_ignored(tmp_path, evaluate):
    data = make(tmp_path / "set", "{:05d}")
    results = []
    for flags in ([], ["--first_masks"]):
        assert evaluate(eval_generic, "--data_path", data, "--overwrite", *flags)[0] == 0
        results.append(read_mask(tmp_path / "out/v/00004.png"))
    assert np.array_equal(results[0], ids_at(4, 1, 2)) and not np.array_equal(*results)


def test_bad_lists_and_flags(tmp_path, evaluate):
    data = make(tmp_path / "set", "{:05d}")
    (tmp_path / "empty.txt").write_text("")
    for flags, message in (
        (["--data_path", data, "--videos", tmp_path / "empty.txt"], "the list is empty"),
        (["--video", tmp_path / "v.mp4", "--mask", tmp_path / "m.png", "--first_masks"], "--first_masks is for"),
    ):
        code, _, error = evaluate(eval_generic, *flags)
        assert code == 2 and message in error
