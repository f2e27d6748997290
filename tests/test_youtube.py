"""eval_youtube.py end to end: late objects, the frames that the server asks for, and where the files lie."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import eval_youtube
from datasets.images import PALETTE, read_image, read_mask, write_mask
from datasets.listing import youtube_videos
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.network import save_network
from tests.folders import SIZE, WANTED, ids_at, make_youtube
from util.errors import InputError


@pytest.fixture
def segment(tmp_path, tiny_network):
    """``segment(data, *flags)`` runs the script and returns {path below the output: H×W ids}."""
    save_network(tmp_path / "tiny.pth", tiny_network())

    def run(data, *flags):
        output = tmp_path / "-".join(("out", data.name, *map(str, flags)))
        given = ["--model", tmp_path / "tiny.pth", "--output", output, "--yv_path", data, "--device", "cpu", *flags]
        eval_youtube.main([str(flag) for flag in given])
        return {str(path.relative_to(output)): read_mask(path) for path in sorted(output.glob("[!.]*/**/*.png"))}

    return run


def test_every_file_is_where_the_server_expects_it(tmp_path, segment):
    results = segment(make_youtube(tmp_path / "data"))
    assert list(results) == [f"Annotations/{video}/{name}.png" for video in ("aa", "bb") for name in WANTED]
    for path, ids in results.items():
        with Image.open(tmp_path / "out-data" / path) as image:
            assert (image.mode, image.size, image.getpalette()) == ("P", SIZE[::-1], PALETTE.ravel().tolist())
        assert set(np.unique(ids)) <= ({0, 2, 3, 9} if path[-9:] >= "00007.png" else {0, 2, 3})
    first, late = (results[f"Annotations/aa/{name}.png"] for name in ("00002", "00007"))
    assert (first == ids_at(2, 2, 3)).all()  # a given mask comes out as it went in
    new = ids_at(7, 2, 3, 9) == 9
    assert (late[new] == 9).all() and not (late[~new] == 9).any()


def test_frames_are_those_of_the_engine(tmp_path, segment, tiny_network):
    """From the first mask to the last frame asked for, all frames go through the engine; each object is given once."""
    data = make_youtube(tmp_path / "data", videos=("aa",))
    own_size = "--size", min(SIZE)
    results = segment(data, *own_size)
    network = tiny_network()
    core = InferenceCore(network, partial(make_memory, network.config, 50), mem_every=3)
    for t in range(2, 13):
        path = data / f"all_frames/valid_all_frames/JPEGImages/aa/{t:05d}.jpg"
        given = {2: ids_at(2, 2, 3), 7: np.where(ids_at(7, 2, 3, 9) == 9, 9, 0)}.get(t)
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1) / 255
        prob = core.step(image, None if given is None else torch.from_numpy(given))
        if f"{t:05d}" in WANTED:
            ids = np.array([0, *core.object_ids])[prob.argmax(0).numpy()]
            assert (ids != results[f"Annotations/aa/{t:05d}.png"]).mean() < 0.005, t
    repeated = segment(make_youtube(tmp_path / "repeated", videos=("aa",), repeat=True), *own_size)
    assert all((repeated[path] == ids).all() for path, ids in results.items())


def test_other_frames_on_request(tmp_path, segment):
    data = make_youtube(tmp_path / "data")
    every = segment(data, "--output_all", "--videos", "bb")
    assert list(every) == [f"Annotations/bb/{t:05d}.png" for t in range(2, 16)]
    asked = segment(data, "--six_fps", "--videos", "bb")
    assert list(asked) == [f"Annotations/bb/{name}.png" for name in WANTED]


def edit_meta(data, change):
    path = data / "valid/meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    change(meta)
    path.write_text(json.dumps(meta))


def mask_beyond_the_end(data):
    """The only mask belongs to no frame, and no result is asked for."""
    folder = data / "valid/Annotations/bb"
    (folder / "00002.png").unlink()
    (folder / "00007.png").rename(folder / "00099.png")
    edit_meta(data, lambda meta: meta["videos"]["bb"].update(objects={}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "valid/meta.json").unlink(), "valid/meta.json: no such file"),
        (lambda d: (d / "valid/meta.json").write_text("{"), "valid/meta.json: cannot be read as JSON"),
        (lambda d: edit_meta(d, lambda m: m["videos"].update(cc=m["videos"]["aa"])), "Annotations/cc: no mask"),
        (
            lambda d: edit_meta(d, lambda m: m["videos"]["aa"]["objects"]["2"]["frames"].append("00099")),
            "JPEGImages/aa/00099.jpg: no such frame, but meta.json asks for its mask",
        ),
        (lambda d: (d / "all_frames").rename(d / "frames"), "valid_all_frames/JPEGImages: no such folder"),
        (lambda d: write_mask(d / "valid/Annotations/bb/00007.png", ids_at(7, 9, size=(36, 51))), "bb/00007.png: "),
        (mask_beyond_the_end, "00099.png: video bb has no frame 00099"),
    ],
)
def test_faulty_data_is_told_before_any_frame(tmp_path, spoil, message):
    data = make_youtube(tmp_path)
    spoil(data)
    with pytest.raises(InputError, match=message) as error:
        assert [video.sources for video in youtube_videos(data, "valid", 480)]
    assert "\n" not in str(error.value)
