"""Frames of a video in any order."""

import numpy as np
import pytest

from datasets.access import open_frames
from datasets.video_file import file_video
from tests.sessions.conftest import FRAMES
from tests.videos import blocks, own_data, write_video
from util.errors import InputError


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "ts", "h264"])  # the latter three: times are of no use
def test_random_access_equals_the_stream(tmp_path, suffix):
    """A video file with B-frames and distant key frames, read backwards, in jumps and forwards."""
    path = write_video(tmp_path / f"clip.{suffix}", 60, (32, 48), g="25", bf="3")
    expected = [frame.original for frame in file_video(path, {}, 480)]
    frames = open_frames(path)
    assert frames.length == 60 and frames.size == (32, 48)
    for index in (*range(59, -1, -1), 3, 40, 17, *range(60)):
        np.testing.assert_array_equal(frames.read(index), expected[index])


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_random_access_goes_on_after_an_interruption(tmp_path, monkeypatch, suffix):
    path = write_video(tmp_path / f"clip.{suffix}", 12, (32, 48))
    expected = [frame.original for frame in file_video(path, {}, 480)]
    frames = open_frames(path)

    def interrupt(frame):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for index in range(12):
            if index == 4:
                patch.setattr("datasets.video_file.upright_rgb", interrupt)
            frames.read(index)
    for index in range(4, 12):
        np.testing.assert_array_equal(frames.read(index), expected[index])


def test_random_access_to_folders_but_not_to_streams(tmp_path):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=4)
    assert open_frames(data / "JPEGImages/a").length == 4
    with pytest.raises(InputError, match="iterator: expected a video file, a folder, or a list"):
        open_frames(iter(FRAMES))
