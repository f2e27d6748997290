"""Corrections: both directions, exactly the frames that they can change, absence, removal, cancelling."""

import numpy as np
import pytest
import torch

from datasets.access import open_frames
from datasets.video_file import file_video
from inference_core import InferenceCore
from model.config import MEMORIES
from model.network import Network
from model.optimized import optimized_copy
from predictor import VideoPredictor
from propagation import spans
from session import Session
from tests.scenes import discs
from tests.test_shipped import SHIPPED
from tests.videos import blocks, own_data, picture, write_video
from util.errors import InputError

LENGTH, SIZE = 13, (32, 48)
FRAMES = [picture(index, SIZE) for index in range(LENGTH)]
NETWORKS: dict[str, dict] = {name: {"memory": name} for name in MEMORIES}
every_memory = pytest.mark.parametrize("memory", NETWORKS)


def mask(*ids: int, shift: int = 0) -> np.ndarray:
    return np.roll(blocks(SIZE, *ids), shift, axis=1)


@pytest.fixture
def new_session(tiny_network):
    def new(memory="space_time", **settings) -> Session:
        return VideoPredictor(tiny_network(**NETWORKS[memory]), mem_every=2, **settings).session(FRAMES)

    return new


def results(session: Session) -> np.ndarray:
    """T×H×W"""
    return np.stack([session.result(index).ids for index in range(len(session))])


@pytest.fixture
def encoded(monkeypatch) -> list[torch.Tensor]:
    """The images that go through the key encoder."""
    images, encode_key = [], Network.encode_key

    def spy(network, image):
        images.append(image)
        return encode_key(network, image)

    monkeypatch.setattr(Network, "encode_key", spy)
    return images


@pytest.fixture
def stepped(monkeypatch) -> list[int]:
    """Numbers of the frames that go through the engine."""
    frames, step = [], InferenceCore.step

    def spy(core, *args, **options):
        frames.append(options["frame"])
        return step(core, *args, **options)

    monkeypatch.setattr(InferenceCore, "step", spy)
    return frames


@every_memory
@pytest.mark.parametrize("local", [False, True])
def test_one_mask_forwards_equals_the_stream(tiny_network, memory, local):
    predictor = VideoPredictor(tiny_network(**NETWORKS[memory]), mem_every=2, local=local)
    session = predictor.session(FRAMES)
    session.annotate(0, mask(1, 2))
    assert session.propagate()
    for frame in predictor.segment(FRAMES, {0: mask(1, 2)}):
        np.testing.assert_array_equal(session.result(frame.index).ids, frame.ids)


def test_both_directions_mirror_each_other(tiny_network):
    """A video played backwards has the same results: from its end, and between two masks."""
    for annotated in ([0, 12], [3, 8]):
        one, other = (VideoPredictor(tiny_network(), mem_every=2).session(FRAMES[::step]) for step in (1, -1))
        for index in annotated:
            one.annotate(index, mask(1, shift=index))
            other.annotate(12 - index, mask(1, shift=index))
        one.propagate()
        other.propagate()
        assert (results(one) != results(other)[::-1]).mean() < 5e-3  # ties, and probabilities kept in 8 bits


@every_memory
def test_corrections_redo_what_they_change_and_equal_a_fresh_session(new_session, stepped, memory):
    """Masks given, replaced and taken back in any order: as if only the last ones had ever been given."""
    session = new_session(memory)
    for index in (0, 6, 12):
        session.annotate(index, mask(1, 2))
    session.propagate()
    assert sorted(stepped) == sorted([*range(1, 6), *range(7, 12)] * 2)
    stepped.clear()
    session.annotate(9, mask(1, 2, shift=5))
    assert [session.is_current(i) for i in range(13)] == [i < 7 or i in (9, 12) for i in range(13)]
    session.propagate()
    assert sorted(stepped) == [7, 7, 8, 8, 10, 10, 11, 11]
    stepped.clear()
    session.annotate(9, mask(2, 1))
    session.annotate(1, mask(1, 2, shift=3))
    session.propagate(around=9)
    assert sorted(stepped) == [7, 7, 8, 8, 10, 10, 11, 11]
    assert not session.is_current(2) and session.is_current(8)
    session.forget(12)
    assert not session.is_current(10) and session.is_current(8)
    session.propagate()
    session.annotate(11, mask(1, 2))
    session.propagate()
    session.forget(11)
    session.propagate()
    stepped.clear()
    assert session.propagate() and not stepped
    fresh = new_session(memory)
    for index, ids, shift in ((1, (1, 2), 3), (9, (2, 1), 0), (6, (1, 2), 0), (0, (1, 2), 0)):
        fresh.annotate(index, mask(*ids, shift=shift))
    fresh.propagate()
    np.testing.assert_array_equal(results(session), results(fresh))


def test_a_session_without_objects_is_background(new_session):
    session = new_session()
    session.annotate(6, mask(1), complete=True)
    session.propagate()
    session.remove(1)
    assert session.propagate() and not results(session).any()


def test_the_end_of_a_video_is_segmented_from_three_masks(new_session):
    session = new_session()
    for index in (1, 3, 5, 7):
        session.annotate(index, mask(1))
    session.propagate()
    session.annotate(1, mask(1, shift=4))
    assert session.is_current(12) and not session.is_current(0)
    session.annotate(3, mask(1, shift=4))
    assert not session.is_current(12)


@every_memory
def test_removing_an_object_equals_never_having_had_it(new_session, memory):
    session, fresh = new_session(memory), new_session(memory)
    session.annotate(0, mask(1, 2, 3))
    session.annotate(5, mask(2))
    session.annotate(9, mask(1, 2, 3, shift=4), complete=True)
    session.propagate()
    assert session.object_ids == [1, 2, 3] and (results(session) == 2).any()
    session.remove(2)
    assert session.object_ids == [1, 3] and session.annotated == [0, 9] and not (results(session) == 2).any()
    session.propagate()
    for index, shift, complete in ((0, 0, False), (9, 4, True)):
        ids = mask(1, 2, 3, shift=shift)
        fresh.annotate(index, np.where(ids == 2, 0, ids), complete)
    fresh.propagate()
    np.testing.assert_array_equal(results(session), results(fresh))


def test_absence(new_session):
    """Objects 1 and 2: 2 is absent on 4 and from 8 on, and is given again on 11."""
    session = new_session()
    session.annotate(0, mask(1, 2))
    session.annotate(4, mask(1), complete=True)
    session.annotate(6, np.zeros(SIZE, int), complete=True)
    session.annotate(8, np.zeros(SIZE, int), complete=True)
    session.propagate()
    ids = results(session)
    assert not (ids[4:] == 2).any() and not ids[6:].any()
    assert session.result(12).confidence == {1: 1.0, 2: 1.0}
    assert session.result(5).confidence[2] == 1 > session.result(5).confidence[1]
    session.annotate(11, mask(2))
    session.propagate()
    ids = results(session)
    assert not ids[6:9].any() and (ids[11] == 2).any() and (ids[9:] == 2).any() and not (ids[7] == 2).any()


def test_an_object_that_is_given_later_is_found_before_unless_absent(new_session):
    session = new_session()
    session.annotate(0, mask(1))
    session.annotate(6, mask(5, shift=30))
    session.propagate()
    ids = results(session)
    assert (ids[5] == 5).any() and (ids[6][mask(5, shift=30) > 0] == 5).all() and (ids[7] == 1).any()
    session.annotate(0, mask(1), complete=True)
    session.annotate(3, mask(1), complete=True)
    session.propagate()
    ids = results(session)
    assert not (ids[:4] == 5).any() and (ids[5] == 5).any()


def test_a_mask_decides_where_its_objects_are(tiny_network):
    """Also beside an earlier result, and after propagation at a lower resolution."""
    session = VideoPredictor(tiny_network(), size=16).session(FRAMES)
    session.annotate(0, mask(1, 2))
    for given in (mask(1), np.pad([[1]], ((5, 26), (7, 40)))):
        session.annotate(4, given)
        for _ in range(2):
            ids = session.result(4).ids
            np.testing.assert_array_equal(ids == 1, given == 1)
            session.propagate()


def test_cancelling_keeps_results_and_goes_on(new_session):
    session, whole = new_session(), new_session()
    for each in (session, whole):
        each.annotate(2, mask(1))
        each.annotate(10, mask(1, shift=9))
    whole.propagate()
    reported = []

    def on_frame(progress):
        for probabilities in progress.probabilities.values():  # the caller's own, who may write into them
            probabilities.zero_()
        reported.append(progress)
        return np.less(progress.done, 12)

    assert not session.propagate(on_frame=on_frame)
    assert [progress.done for progress in reported] == list(range(1, 13)) and reported[0].total == 2 + 7 + 7 + 2
    done = [i for i in range(13) if session.is_current(i)]
    assert 0 < len(done) < 13
    for index in done:
        np.testing.assert_array_equal(session.result(index).ids, whole.result(index).ids)
    assert (session.result(4).ids == 1).any()  # what the forward pass has found so far
    assert session.propagate()
    np.testing.assert_array_equal(results(session), results(whole))


CHANGES = {
    "annotate": lambda session: session.annotate(6, mask(1, 2, shift=9)),
    "take back": lambda session: [session.annotate(6, mask(1, 2)), session.forget(6)],
    "forget": lambda session: session.forget(5),
    "remove": lambda session: session.remove(2),
    "new object": lambda session: session.annotate(6, mask(3)),
}


@pytest.mark.parametrize("amid", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_masks_may_change_during_a_propagation(new_session, change, amid):
    """It stops, for what it is made from is the past, and the next one equals that of a fresh session."""
    session, fresh = new_session(), new_session()
    for each in (session, fresh):
        for index, ids in ((0, (1, 2)), (3, (1, 2)), (5, (1,)), (12, (1, 2))):
            each.annotate(index, mask(*ids, shift=index))
    image, reads = session._image, iter(range(1000))

    def on_frame(progress):
        return amid or progress.done != 7 or CHANGES[change](session)

    def read(index):  # as another thread does
        if amid and next(reads) == 6:
            CHANGES[change](session)
        return image(index)

    session._image = read
    assert not session.propagate(on_frame=on_frame)
    assert not all(session.is_current(index) for index in range(LENGTH))
    CHANGES[change](fresh)
    assert session.propagate() and fresh.propagate()
    np.testing.assert_array_equal(results(session), results(fresh))


def test_a_correction_helps_the_frames_around_it():
    """Discs that a trained network loses when the colours of the video are inverted half way."""
    frames, truth = discs(3, 12, size=96, objects=1)
    frames[5:] = 255 - frames[5:]
    session = VideoPredictor.load(SHIPPED, "cpu").session(frames)
    session.annotate(0, truth[0])
    session.propagate()

    def quality() -> np.ndarray:
        ids = results(session)
        return ((ids > 0) & (truth > 0)).sum((1, 2)) / ((ids > 0) | (truth > 0)).sum((1, 2))

    before = quality()
    suggested = session.next_frame()
    session.annotate(8, truth[8])
    session.propagate()
    after = quality()
    for side in ([6, 7], [9, 10]):
        assert 1 - after[side].mean() < 0.75 * (1 - before[side].mean())
    assert suggested >= 5


def test_suggestions_divide_a_still_video(tiny_network):
    """Where no frame is newer or less sure than another, they are those that bring a mask nearest to all frames."""
    session = VideoPredictor(tiny_network()).session(FRAMES[:1] * 13)
    session.annotate(0, mask(1))
    for _ in range(4):
        session.propagate()
        suggested, masks = session.next_frame(), session.annotated
        distances = [sum(min(abs(i - m) for m in (*masks, new)) for i in range(13)) for new in range(13)]
        assert suggested not in masks and distances[suggested] == min(distances)
        session.annotate(suggested, mask(1))


def test_no_frame_is_suggested_where_all_objects_are_absent(new_session):
    """Whatever was there before."""
    used, fresh = new_session(), new_session()
    used.annotate(0, mask(1))
    used.propagate()
    assert used.next_frame() > 0
    for session in (used, fresh):
        session.annotate(0, mask(1))
        session.annotate(1, np.zeros(SIZE, int), complete=True)
        session.propagate()
        with pytest.raises(InputError, match="no frame to suggest"):
            session.next_frame()


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


def test_a_correction_costs_what_it_redoes(tiny_network, stepped, encoded):
    """In 100 frames: the network runs once for each frame and direction, and once for each mask beside a span."""
    session = VideoPredictor(tiny_network(), size=16).session([picture(index, (16, 24)) for index in range(100)])
    for index in (0, 60, 80, 99):
        session.annotate(index, blocks((16, 24), 1))
    session.propagate()
    stepped.clear()
    encoded.clear()
    session.annotate(70, blocks((16, 24), 1))
    session.propagate(around=70)
    assert sorted(stepped) == sorted([*range(61, 70), *range(71, 80)] * 2)
    assert len(encoded) == len(stepped) + 4


def test_asking_what_is_out_of_date_costs_no_new_spans(new_session, monkeypatch):
    made, session = [], new_session()
    monkeypatch.setattr("session.spans", lambda *given: made.append(given) or spans(*given))
    for index in (2, 6):
        session.annotate(index, mask(1))
        assert [session.is_current(i) for i in range(LENGTH)] == [i in session.annotated for i in range(LENGTH)]
    session.forget(6)
    assert not session.is_current(6) and len(made) == 3


def test_output_that_is_not_finite_is_no_result(tiny_network):
    network = tiny_network()
    with torch.no_grad():
        network.key_encoder.conv1.weight *= 1e38
    session = VideoPredictor(network).session(FRAMES)
    session.annotate(3, mask(1))
    with pytest.raises(InputError, match="frame 2: the network's output is not finite"):
        session.propagate()
    assert not session.is_current(2)


def test_bad_calls(new_session):
    session = new_session()
    with pytest.raises(InputError, match="no frame has a mask"):
        session.propagate()
    for index in (-1, 13, "0", 1.5, None):
        with pytest.raises(InputError, match=f"no frame {index!r}; expected a whole number from 0 to 12"):
            session.annotate(index, mask(1))
    with pytest.raises(InputError, match="holds no object; expected one, or complete=True"):
        session.annotate(0, np.zeros(SIZE, int))
    with pytest.raises(InputError, match="frame 0: the mask is 47×32"):
        session.annotate(0, mask(1)[:, 1:])
    with pytest.raises(InputError, match="no object 4"):
        session.remove(4)
    with pytest.raises(InputError, match="frame 2 has no mask"):
        session.forget(2)
    with pytest.raises(InputError, match="no frame to suggest"):
        session.next_frame()
    session.annotate(0, mask(1))
    with pytest.raises(InputError, match="no object '1'; expected one of"):
        session.remove("1")
    with pytest.raises(InputError, match="frame '0' has no mask; expected one of"):
        session.forget("0")
    with pytest.raises(InputError, match="frame 5: the masks hold 255 beside 1;"):
        session.annotate(5, mask(255))
    with pytest.raises(InputError, match="no frame 13; expected a whole number from 0 to 12"):
        session.propagate(around=13)
    for around, direction in ((0, "sideways"), (None, "forward")):
        with pytest.raises(InputError, match=f"direction='{direction}', around={around}: expected one of both"):
            session.propagate(around, direction=direction)
    assert not session.result(3).ids.any()


def test_optimized_network(tiny_network):
    session = VideoPredictor(optimized_copy(tiny_network()), mem_every=2).session(FRAMES)
    session.annotate(0, mask(1))
    session.propagate()
    assert torch.is_inference_mode_enabled() is False and results(session).shape == (13, *SIZE)
