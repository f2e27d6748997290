"""The setting ``local``: parts of an object that are apart from its place in the frame before are dropped."""

import torch

from labels import strays
from tests.conftest import every_kind


def test_strays_are_parts_apart_from_where_the_object_was():
    def cells(*rows):  # a digit for each cell of 16×16 pixels
        return torch.tensor([list(map(int, row)) for row in rows]).repeat_interleave(16, 0).repeat_interleave(16, 1)

    before = cells("7000000", "0000009", "0000000")
    # Object 7 has moved by a cell; a part is connected to it, others are not. 9 has jumped, and 4 is new.
    now, apart = cells("0777000", "0004070", "4990000"), cells("0000000", "0000070", "0000000")
    nothing = torch.zeros(2, 48, 112, dtype=torch.bool)
    assert torch.equal(strays(now, before, [7, 9, 4]), torch.cat([apart[None] == 7, nothing]))
    now[0, 111] = 7  # a cell counts whole if it holds any pixel of the object
    assert strays(now, before, [7, 9, 4])[0].sum() == 2 * 16**2
    now[32:, 64:] = 7  # more than what is connected
    assert not strays(now, before, [7, 9, 4]).any()


@every_kind
def test_local_objects_stay_in_one_place(make_core, kind):
    """What is found elsewhere is neither in the result nor in the memory, unless nothing is left around the place."""
    core = make_core(kind, mem_every=1, local=True)
    frames, mask = torch.rand(6, 3, 48, 160), torch.zeros(48, 160, dtype=torch.int64)
    mask[:, :20] = 3
    # Columns of the object, as the network finds it: moved, and a second one at the right.
    found = {1: [(0, 30), (130, 160)], 2: [(30, 44), (130, 150)], 3: [], 4: [(120, 160)], 5: [(0, 30), (120, 160)]}
    memorised, encode = [], core.network.encode_value

    def decode(readout, features):
        logits = torch.full((1, 1, 48, 160), -9.0)
        for left, right in found[core._time]:
            logits[..., left:right] = 9
        return logits, None

    def encode_value(image, f16, masks):
        memorised.append(masks[0, 0, 0] > 0.5)
        return encode(image, f16, masks)

    core.network.decode, core.network.encode_value = decode, encode_value
    probs = [core.step(frame, {0: mask}.get(t), needed=t != 1) for t, frame in enumerate(frames)]
    for t, columns in {1: (0, 30), 2: (30, 44), 4: (120, 160), 5: (120, 160)}.items():
        expected = torch.zeros(160, dtype=torch.bool)
        expected[slice(*columns)] = True
        assert torch.equal(probs[t][1, 0] > 0.5, expected), t
        assert t == 5 or torch.equal(memorised[t], expected)  # the last frame is never memorised
    core.restart(0, mask=mask)
    assert core.step(frames[1])[1, 0, 120:].max() < 0.5
    core.memorise(frames[0], mask.flip(1), 0)
    assert core.step(frames[1])[1, 0, :30].max() < 0.5
    core.restart(0)
    assert (core.step(frames[1])[1, 0] > 0.5).sum() == 60
    core = make_core(kind, mem_every=9, local=True)
    core.step(frames[0], mask)
    assert core.step(frames[1], needed=False) is not None  # the next frame depends on it


@every_kind
def test_what_one_local_object_loses_no_other_wins(make_core, kind):
    core = make_core(kind, mem_every=1, local=True)
    frames, mask = torch.rand(3, 3, 48, 160), torch.zeros(48, 160, dtype=torch.int64)
    mask[:, :20], mask[:, 40:60] = 1, 2

    def decode(readout, features):
        logits = torch.full((1, 2, 48, 160), -9.0)
        logits[0, 0, :, :20] = logits[0, 1, :, 40:60] = 9
        logits[0, 0, :, 130:140] = 3 if core._time == 1 else -9  # something similar, more so to the first
        logits[0, 1, :, 130:140] = 1.5
        return logits, None

    core.network.decode = decode
    for prob in (core.step(frame, {0: mask}.get(t)) for t, frame in enumerate(frames)):
        assert torch.equal(prob.argmax(0), mask)
