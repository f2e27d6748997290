"""The overlay: a video and a contact sheet with the masks drawn in."""

import os

import av
import cv2
import numpy as np
import pytest

import eval_generic
from datasets.images import PALETTE, read_image, read_mask, write_mask
from tests.videos import blocks, check_files, names, own_data, picture, write_first_mask, write_video


def test_video_file_with_masks_and_overlay(tmp_path, evaluate):
    video, first, later = tmp_path / "my clip.mp4", tmp_path / "first.png", tmp_path / "later.png"
    write_video(video, 11, (48, 64))
    write_first_mask(first, (48, 64))
    write_mask(later, np.flip(blocks((48, 64), 254), axis=1))
    flags = ["--video", video, "--mask", first, f"7:{later}", "--overlay"]
    code, _, error = evaluate(eval_generic, *flags)
    assert code == 0, error
    out = tmp_path / "out"
    check_files(out / "my clip", names(11), (48, 64), {1, 254})
    results = [read_mask(out / "my clip" / f"{name}.png") for name in names(11)]
    assert not any((mask == 254).any() for mask in results[:7])
    np.testing.assert_array_equal(results[7][read_mask(later) > 0], 254)

    with av.open(str(out / "overlay/my clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        drawn = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(drawn) == 11 and drawn[0].shape == (48, 64, 3)
    inside = cv2.erode((results[0] == 1).astype(np.uint8), np.ones((5, 5))) > 0
    tinted = picture(0, (48, 64))[inside] / 2 + PALETTE[1] / 2
    assert abs(drawn[0][inside] - tinted).mean() < 12
    outside = results[0] == 0
    assert abs(drawn[0][outside].astype(int) - picture(0, (48, 64))[outside]).mean() < 12
    assert read_image(out / "overlay/my clip.png").shape == (2 * (48 + 16), 4 * (80 + 4), 3)

    code, text, _ = evaluate(eval_generic, *flags)
    assert code == 0 and "1 already finished" in text
    (out / "overlay/my clip.png").unlink()
    assert "1 video segmented" in evaluate(eval_generic, *flags)[1]


@pytest.mark.parametrize("size", [(33, 1), (31, 45)])
def test_overlay_of_odd_sizes_at_the_videos_own_size(tmp_path, evaluate, size):
    data = own_data(tmp_path / "data", {"a": {0: blocks(size, 1)}}, frames=3)
    code, _, error = evaluate(eval_generic, "--data_path", data, "--overlay", "--size", "16")
    assert code == 0, error
    with av.open(str(tmp_path / "out/overlay/a.mp4")) as container:
        shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
    assert shapes == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 3


def test_a_0_255_mask_is_drawn_as_object_1(tmp_path, evaluate):
    data = own_data(tmp_path / "data", {"a": {0: blocks((64, 64), 255)}}, frames=2)
    assert evaluate(eval_generic, "--data_path", data, "--overlay")[0] == 0
    assert set(np.unique(read_mask(tmp_path / "out/a/00000.png"))) == {0, 255}  # as in the given mask
    inside = cv2.erode(blocks((64, 64), 1), np.ones((9, 9))) > 0
    sheet = read_image(tmp_path / "out/overlay/a.png")[:64, 2 : 2 + 64]
    tinted = picture(0, (64, 64))[inside] / 2 + PALETTE[1] / 2
    assert abs(sheet[inside] - tinted).mean() < 12


@pytest.mark.skipif(os.name == "nt", reason="no colons in file names")
def test_colons_in_the_names_of_video_and_output(tmp_path, evaluate, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "12-30.mp4", 3, (48, 64)).rename(tmp_path / "12:30.mp4")
    flags = ["--video", "12:30.mp4", "--mask", write_first_mask(tmp_path / "m.png", (48, 64)), "--overlay"]
    code, _, error = evaluate(eval_generic, *flags, "--output", "concat:out")
    assert code == 0, error
    assert (tmp_path / "concat:out/overlay/12:30.mp4").is_file()
    check_files(tmp_path / "concat:out/12:30", names(3), (48, 64), {1})
