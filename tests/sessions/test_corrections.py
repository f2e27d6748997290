"""Corrections: they help the frames around them, redo exactly what they can change, and cost no more."""

import numpy as np

from predictor import VideoPredictor
from propagation import spans
from tests.scenes import discs
from tests.sessions.conftest import LENGTH, every_memory, mask, results
from tests.test_shipped import SHIPPED
from tests.videos import blocks, picture


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
