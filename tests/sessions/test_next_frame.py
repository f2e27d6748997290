"""The frame that a session suggests for the next correction."""

import numpy as np
import pytest

from predictor import VideoPredictor
from tests.sessions.conftest import FRAMES, SIZE, mask
from util.errors import InputError


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
