"""Propagation in both directions: equal to the stream and to a fresh session, whatever happens in between."""

import numpy as np
import pytest
import torch

from model.optimized import optimized_copy
from predictor import VideoPredictor
from tests.sessions.conftest import FRAMES, LENGTH, NETWORKS, SIZE, every_memory, mask, results
from util.errors import InputError


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


def test_the_end_of_a_video_is_segmented_from_three_masks(new_session):
    session = new_session()
    for index in (1, 3, 5, 7):
        session.annotate(index, mask(1))
    session.propagate()
    session.annotate(1, mask(1, shift=4))
    assert session.is_current(12) and not session.is_current(0)
    session.annotate(3, mask(1, shift=4))
    assert not session.is_current(12)


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
