"""Videos to segment: the benchmarks' lists, folders of frames and video files, and what is refused before any frame."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

import eval_generic
from datasets.images import read_image, write_image, write_mask
from datasets.listing import LISTS, davis_videos, folder_videos, video_with_masks
from datasets.video import Video, fit_mask, inference_size, is_enlarged
from tests.folders import bars, make_testdev
from util.errors import InputError

SIZE = (32, 48)  # H, W


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """H×W×3 uint8: a smooth picture that moves with ``index``."""
    rng = np.random.default_rng(7)
    image = cv2.resize(rng.integers(0, 255, (5, 5, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.roll(image, index, axis=1)


def test_davis_lists_are_the_official_ones():
    listed = {path.stem: path.read_text(encoding="utf-8").split() for path in LISTS.iterdir()}
    assert {name: len(set(videos)) for name, videos in listed.items()} == {
        "davis2016_train": 30, "davis2016_val": 20, "davis2017_train": 60, "davis2017_val": 30, "davis2017_test-dev": 30
    }  # fmt: skip
    assert len(set(sum(listed.values(), []))) == 60 + 30 + 30
    assert set(listed["davis2016_train"]) < set(listed["davis2017_train"])
    assert set(listed["davis2016_val"]) < set(listed["davis2017_val"])


def test_no_object_is_lost_where_many_are_small():
    mask = np.zeros((90, 160), np.uint8)
    mask[::2, ::2] = (np.arange(45 * 80) % 200 + 1).reshape(45, 80)
    mask[40:43, 50:54] = [201, 201, 202, 202]  # side by side, and both without a pixel in the small mask
    small = fit_mask(mask, (9, 25))
    assert set(np.unique(small)) == set(np.unique(mask))
    assert set(np.unique(fit_mask(mask, (3, 4)))) < set(np.unique(mask))  # as many as there are pixels
    assert len(np.unique(fit_mask(mask, (3, 4)))) == 12
    for y, x in ((0, 0), (21, 45), (33, 80), (89, 159)):  # one that vanishes stays where it is
        mask = np.zeros((90, 160), np.uint8)
        mask[y, x] = 1
        assert np.argwhere(fit_mask(mask, (45, 80))).tolist() == [[y // 2, x // 2]]


def test_wanted_videos_are_selected_and_unknown_ones_refused(tmp_path):
    root = make_testdev(tmp_path)
    assert [video.name for video in davis_videos(root, 2017, "testdev", 480)] == ["aa", "bb"]
    assert [video.name for video in davis_videos(root, 2017, "testdev", 480, ["bb"])] == ["bb"]
    with pytest.raises(InputError, match="has no video cc; expected one of aa, bb"):
        davis_videos(root, 2017, "testdev", 480, ["bb", "cc"])


def test_frames_are_resized_and_small_objects_survive(tmp_path):
    mask = np.zeros((96, 144), np.uint8)
    mask[:, 72:], mask[41, 41] = 1, 254
    for t in range(9):
        write_image(tmp_path / f"JPEGImages/v/{t}.png", picture(t, (96, 144)))
    write_mask(tmp_path / "Annotations/v/0.png", mask)
    (video,) = folder_videos(tmp_path, 32)
    frames = list(video)
    assert [frame.name for frame in frames] == [str(t) for t in range(9)]  # in order, although decoded in parallel
    assert video.size == (96, 144) and frames[0].image.shape == (32, 48, 3) and frames[0].mask.shape == (32, 48)
    assert set(np.unique(frames[0].mask)) == {0, 1, 254} and frames[1].mask is None
    for t, frame in enumerate(frames):
        assert np.array_equal(frame.original, picture(t, (96, 144)))
    assert [inference_size(size, 480) for size in ((1080, 1920), (854, 480), (400, 300), (300, 200), (50, 1))] == [
        (480, 853), (854, 480), (640, 480), (600, 400), (100, 2)
    ]  # fmt: skip
    for size, large in (((540, 960), (1080, 1920)), ((240, 5000), (315, 6572)), ((240, 9000), (240, 9000))):
        assert inference_size(size, 1080) == large and is_enlarged(size, 1080) == (large != size)


# --- faulty folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> Path:
    """Two good videos of one object, 0 and a."""
    for name in "0a":
        for t in range(3):
            write_image(tmp_path / f"JPEGImages/{name}/{t:05d}.jpg", picture(t))
        write_mask(tmp_path / f"Annotations/{name}/00000.png", bars(*SIZE, (1,)))
    return tmp_path


MASK, FRAME = "Annotations/a/00000.png", "JPEGImages/a/00000.jpg"


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def remove_frames(data: Path) -> None:
    for path in (data / "JPEGImages/a").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: Image.fromarray(cv2.GaussianBlur(bars(*SIZE, (255,)), (5, 5), 2)).save(d / MASK),
            f"{MASK}: .* different ids found .*scripts/check_masks.py",
        ),
        (lambda d: Image.fromarray(picture(0)).save(d / MASK), f"{MASK}: is a RGB image; expected a mask"),
        (
            lambda d: write_mask(d / MASK, bars(32, 47, (1,))),
            f"{MASK}: the mask is 47×32 pixels, but its frame 00000.jpg is 48×32",
        ),
        (lambda d: write_mask(d / MASK, np.zeros(SIZE, np.uint8)), f"{MASK}: .*expected ids from 1 to 254"),
        (lambda d: cut(d / MASK, 60), f"{MASK}: truncated"),
        (lambda d: (d / MASK).unlink(), "Annotations/a: no mask for video a"),
        (
            lambda d: (d / MASK).rename(d / "Annotations/a/frame7.png"),
            ".*a has no frame frame7",
        ),
        (lambda d: cut(d / FRAME, -200), f"{FRAME}: truncated"),
        (lambda d: cut(d / FRAME, 0), f"{FRAME}: truncated"),
        (remove_frames, "JPEGImages/a: holds no frames"),
        (lambda d: (d / "JPEGImages").rename(d / "Images"), "JPEGImages: no such folder"),
        (
            lambda d: write_image(d / "JPEGImages/a/00000.png", picture(0)),
            ".*a: holds frame 00000 in two formats",
        ),
        (
            lambda d: write_image(d / "Annotations/a/00001.jpg", picture(0)),
            "Annotations/a/00001.jpg: is no mask; expected a PNG",
        ),
    ],
)
def test_faulty_folders_are_named_before_any_frame(data, spoil, message):
    assert len(folder_videos(data, 480)) == 2
    spoil(data)
    with pytest.raises(InputError, match=f"^{data}/{message}") as caught:
        assert [video.sources for video in folder_videos(data, 480)]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["no frames", "damaged mask", "not permitted"])
def test_a_folder_that_cannot_be_read_fails_alone(data, evaluate, monkeypatch, fault):
    if fault == "no frames":
        remove_frames(data)
    elif fault == "damaged mask":
        cut(data / MASK, 60)
    else:
        iterdir = Path.iterdir

        def refused(folder):
            if folder == data / "Annotations/a":
                raise PermissionError(13, "Permission denied", str(folder))
            return iterdir(folder)

        monkeypatch.setattr(Path, "iterdir", refused)
    write_mask(data / "Annotations/b/00000.png", bars(*SIZE, (1,)))
    write_image(data / "JPEGImages/b/00000.jpg", picture(0))
    code, out, error = evaluate(eval_generic, "--data_path", data)
    assert code == 1 and "2 videos segmented, 1 failed: a" in out
    assert error.startswith(f"error: a: {data}/") and error.count("\n") == 1
    assert [len(list((data / "out" / name).glob("*.png"))) for name in "0b"] == [3, 1]
    assert evaluate(eval_generic, "--data_path", data, "--videos", "a")[0] == 2  # all videos of this run failed


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "other size"])
def test_a_damaged_frame_is_named_when_its_turn_comes(data, suffix, damage):
    path = data / f"JPEGImages/a/00002.{suffix}"
    (data / "JPEGImages/a/00002.jpg").unlink()
    write_image(path, picture(2, (32, 47) if damage == "other size" else SIZE))
    if damage != "other size":
        cut(path, path.stat().st_size // 2 if damage == "truncated" else 0)
    frames = iter(folder_videos(data, 480)[1])
    assert [next(frames).name, next(frames).name] == ["00000", "00001"]
    with pytest.raises(InputError, match=f"00002.{suffix}: (truncated|is 47×32 pixels)"):
        next(frames)


# --- video files ------------------------------------------------------------------------------------------------


def write_video_file(path: Path, frames: int, **options) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_mask_file(folder: Path, size: tuple[int, int] = SIZE, name: str = "m.png", value: int = 1) -> Path:
    write_mask(folder / name, bars(*size, (value,)))
    return folder / name


def open_video(path: Path, *masks: Path | str) -> Video:
    (video,) = video_with_masks(path, [str(mask) for mask in masks], min(SIZE))
    return video


def test_a_video_file_gives_its_frames_and_masks(tmp_path):
    mask = write_mask_file(tmp_path)
    video = open_video(write_video_file(tmp_path / "my clip.mp4", 11), mask, f"7:{mask}")
    assert (video.name, video.size, video.num_frames, video.fps) == ("my clip", SIZE, 11, 25)
    for t, frame in enumerate(video):
        assert frame.name == f"{t:05d}" and frame.needed and (frame.mask is not None) == (t in (0, 7))
        assert abs(frame.image.astype(int) - picture(t)).mean() < 12
    assert t == 10


def test_phone_videos_are_turned_upright(tmp_path):
    path = write_video_file(tmp_path / "phone.mp4", 4)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # the display matrix of the track header
    turned = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    frame = next(iter(open_video(path, write_mask_file(tmp_path, SIZE[::-1]))))
    assert abs(frame.image.astype(int) - np.rot90(picture(0), -1)).mean() < 12


def test_a_truncated_video_file_is_an_error_at_its_end(tmp_path):
    path = write_video_file(tmp_path / "cut.mp4", 40, movflags="faststart")
    cut(path, path.stat().st_size * 2 // 3)
    video = open_video(path, write_mask_file(tmp_path))
    with pytest.raises(
        InputError, match="cut.mp4: (ends after .* of 40 frames|frame .* cannot be decoded)"
    ):  # by FFmpeg 7
        list(video)


def test_a_trimmed_video_is_complete(tmp_path):
    """Cut without encoding it again: what lies between a key frame and the cut is in the file, but not shown."""
    path = write_video_file(tmp_path / "long.mp4", 40)
    trimmed = tmp_path / "trimmed.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path)) as whole, av.open(str(trimmed), "w", options=options) as container:
        source = whole.streams.video[0]
        stream = container.add_stream_from_template(source)
        for packet in whole.demux(source):
            if packet.size:
                cut_off = round(15 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - cut_off, packet.dts - cut_off, stream
                container.mux(packet)
    video = open_video(trimmed, write_mask_file(tmp_path))
    assert video.num_frames == 40
    frames = [frame.original for frame in video]
    assert len(frames) == video.frames().length == 25
    assert abs(frames[0].astype(int) - picture(15)).mean() < 12


def test_faulty_video_files_and_masks_are_named_before_any_frame(tmp_path):
    path = write_video_file(tmp_path / "clip.mp4", 11)
    first, later = write_mask_file(tmp_path, name="first.png"), write_mask_file(tmp_path, name="later.png")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "header.mp4").write_bytes(path.read_bytes()[:200])
    for video, masks, says in (
        (tmp_path / "gone.mp4", [first], "gone.mp4: no such file"),
        (tmp_path / "text.mp4", [first], "text.mp4: cannot be opened as a video"),
        (tmp_path / "header.mp4", [first], "header.mp4: cannot be opened as a video"),
        (first, [first], "first.png: is a picture; expected a video"),
        (path, [tmp_path / "gone.png"], "gone.png: no such file"),
        (path, [first, f"5:{write_mask_file(tmp_path, name='other.png', value=255)}"], "other.png: .* 255 beside 1;"),
        (path, [first, later], "frame 0 already has the mask"),
        (path, [first, f"11:{later}"], f"11:{later}: {path} ends with frame 10"),
        (path, [write_mask_file(tmp_path, (32, 47))], "m.png: the mask is 47×32 pixels, but its frame 0 is 48×32"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            open_video(video, *masks)
        assert "\n" not in str(caught.value)


def test_photos_of_phones_are_videos_of_upright_frames(tmp_path):
    """The mask fits the picture as it is seen, not as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "JPEGImages/v").mkdir(parents=True)
    Image.fromarray(picture(0)).save(tmp_path / "JPEGImages/v/0.jpg", exif=exif, quality=95)
    mask = tmp_path / "Annotations/v/0.png"
    write_mask(mask, bars(*SIZE[::-1], (1,)))
    (video,) = folder_videos(tmp_path, min(SIZE))
    assert video.size == SIZE[::-1] and next(iter(video)).image.shape[:2] == SIZE[::-1]
    assert np.array_equal(next(iter(video)).image, read_image(tmp_path / "JPEGImages/v/0.jpg"))
    write_mask(mask, bars(*SIZE, (1,)))
    (video,) = folder_videos(tmp_path, 480)
    with pytest.raises(InputError, match="the mask is 48×32 pixels, but its frame 0.jpg is 32×48"):
        list(video)
