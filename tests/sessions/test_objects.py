"""Objects: where a mask says that they are, absent, given later, and removed."""

import numpy as np

from predictor import VideoPredictor
from tests.sessions.conftest import FRAMES, SIZE, every_memory, mask, results


def test_a_session_without_objects_is_background(new_session):
    session = new_session()
    session.annotate(6, mask(1), complete=True)
    session.propagate()
    session.remove(1)
    assert session.propagate() and not results(session).any()


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
