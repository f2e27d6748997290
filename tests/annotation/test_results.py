"""Results: what the user says stays, how sure they are, and what they depend on."""

import numpy as np
import torch

from annotate import list_videos, session_opener
from annotation.runs import pack
from model.network import save_network
from tests.annotation.conftest import FRAMES, MASK, SIZE, propagated, shown, wait


def test_what_the_user_erases_stays_erased(begin):
    server, both = begin(), MASK.copy()
    both[70:90, 90:120] = 2
    propagated(server, both)
    erased = np.where(np.arange(SIZE[1]) < 64, shown(server, 4), 0) % 2  # of object 1, the left half
    assert 0 < erased.sum() < (shown(server, 4) == 1).sum()
    server.ask("PUT", "mask/4", pack(erased))
    np.testing.assert_array_equal(shown(server, 4) == 1, erased)
    propagated(server, both)
    np.testing.assert_array_equal(shown(server, 4) == 1, erased)
    propagated(server)  # object 2 is in no mask any more: the user's frames need no network, but new results
    np.testing.assert_array_equal(shown(server, 4), erased)


def test_mattes_hold_what_is_there(begin):
    server = begin()
    workspace = server.annotator.opened.workspace
    server.ask("PUT", "mask/7", pack(MASK))
    propagated(server)
    server.ask("PUT", "mask/4?complete=1", pack(MASK * 0))
    server.ask("DELETE", "mask/7")
    propagated(server)
    assert [workspace.mattes(t)[1].any() for t in range(FRAMES)] == [t < 4 for t in range(FRAMES)]
    server.ask("DELETE", "object/1")
    server.ask("PUT", "object/1", b"another of the same number")
    assert not any(workspace.mattes(t)[1].any() for t in range(FRAMES))


def test_what_is_lost_is_uncertain_and_what_is_absent_is_not(begin, monkeypatch):
    monkeypatch.setattr("session.object_map", lambda prob, size, *_: np.zeros(size, np.uint8))
    server = begin()
    server.ask("PUT", "mask/4?complete=1", pack(MASK * 0))
    assert propagated(server)["confidence"] == {"1": 0, "2": 0, "3": 0, "5": 1, "6": 1, "7": 1}


def test_results_depend_on_precision_and_size(clip, tiny_weights, monkeypatch):
    """Earlier versions recorded neither, because all was in float32 and nothing was enlarged."""
    monkeypatch.setattr("predictor.fast_precision", lambda device: torch.bfloat16)
    (source,) = list_videos(clip).values()
    made_with = [
        session_opener(tiny_weights, "cpu", amp, size=size)(source)[1]
        for amp, size in ((False, min(SIZE)), (False, 480), (True, min(SIZE)))
    ]
    assert [made.keys() - {"model", "size"} for made in made_with] == [set(), {"enlarged"}, {"precision"}]


def test_results_of_other_weights_are_out_of_date(begin, tmp_path, tiny_network):
    server = begin()
    propagated(server)
    server.stop()
    save_network(tmp_path / "other.pth", tiny_network("stcn"))
    state = wait(begin(model=tmp_path / "other.pth"))
    assert sorted(map(int, state["confidence"])) == state["stale"] == list(range(1, FRAMES))
