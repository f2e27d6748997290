"""The engine: equal to the training pass, and right at every size, order of appearance and kind of memory."""

import functools

import pytest
import torch
import torch.nn.functional as F

from inference_core import InferenceCore
from inference_memory_bank import SpaceTimeMemory, make_memory
from model.network import FrameFeatures
from model.tensor import soft_aggregate
from tests.conftest import every_kind


def clip(length, height, width, ids=(1,)):
    """Frames and a mask with one vertical stripe for each id."""
    mask = torch.zeros(height, width, dtype=torch.int64)
    for n, i in enumerate(ids):
        mask[:, n * width // (len(ids) + 1) : (n + 1) * width // (len(ids) + 1)] = i
    return torch.rand(length, 3, height, width), mask


def run(core, frames, masks):
    return [core.step(frame, masks.get(t)) for t, frame in enumerate(frames)]


@pytest.mark.parametrize("preset", ["gsfm", "stcn", "gc"])
@pytest.mark.parametrize("objects", [1, 2])
def test_training_pass_equals_engine(tiny_network, preset, objects):
    """The tie between training and evaluation: forward(clip) == engine with mem_every=1 and all positions."""
    network = tiny_network(preset)
    frames, mask = clip(4, 48, 64, range(1, objects + 1))
    masks = torch.stack([mask == i for i in range(1, objects + 1)]).float()
    # Training memorises the given masks themselves, the engine their aggregation (the same to 1e-6).
    masks = masks.clamp(1e-7, 1 - 1e-7)
    memory = make_memory(network.config)
    with torch.no_grad():
        prediction = network(frames[None], masks[None], torch.ones(1, objects), memory)
    core = InferenceCore(network, functools.partial(make_memory, network.config), mem_every=1)
    probs = run(core, frames, {0: mask})
    for t in range(1, 4):
        assert torch.allclose(torch.softmax(prediction.logits[0, t - 1], 0), probs[t], atol=2e-5)  # spread 6e-7
    assert (prediction.boundary is not None) == (preset == "gsfm")


def test_a_slot_without_an_object_changes_nothing_in_training(tiny_network):
    network = tiny_network()
    frames, mask = clip(3, 32, 48)
    masks = torch.stack([mask == 1, mask == 2]).float()[None]  # there is no object 2
    with torch.no_grad():
        one = network(frames[None], masks[:, :1], torch.ones(1, 1), make_memory(network.config))
        two = network(frames[None], masks, torch.tensor([[1.0, 0.0]]), make_memory(network.config))
    assert torch.allclose(one.logits, two.logits[:, :, :2], atol=1e-4)
    assert (two.logits[:, :, 2] < -15).all()


@every_kind
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 1), (17, 31), (32, 48), (50, 47)])
def test_any_size(make_core, kind, size):
    frames, mask = clip(3, *size, ids=(5,))
    mask[0, 0] = 5
    for prob in run(make_core(kind, mem_every=1), frames, {0: mask}):
        assert prob.shape == (2, *size) and prob.isfinite().all()
        assert torch.allclose(prob.sum(0), torch.ones(size), atol=1e-5)


@every_kind
def test_padding_does_not_shift(make_core, kind):
    """A frame of 40×56, padded by the engine, equals the same frame with that padding in the mean colour."""
    frames, mask = clip(3, 40, 56)
    core = make_core(kind)
    mean = core.network.mean[:, 0, 0]
    wide = mean.view(1, 3, 1, 1).repeat(3, 1, 48, 64)
    wide[:, :, 4:44, 4:60] = frames
    wide_mask = torch.zeros(48, 64, dtype=torch.int64)
    wide_mask[4:44, 4:60] = mask
    for small, large in zip(run(core, frames, {0: mask}), run(make_core(kind), wide, {0: wide_mask}), strict=True):
        assert torch.allclose(small, large[:, 4:44, 4:60], atol=1e-6)


@every_kind
@pytest.mark.parametrize("count", [1, 20])
def test_one_to_twenty_objects_with_any_ids(make_core, kind, count):
    ids = [254, 1, 5, *range(30, 47)][:count]
    frames, mask = clip(3, 32, 64, ids)
    core = make_core(kind, mem_every=1, include_last=True)
    probs = run(core, frames, {0: mask})
    assert core.object_ids == sorted(ids)
    assert all(prob.shape == (count + 1, 32, 64) and prob.isfinite().all() for prob in probs)
    assert torch.equal(torch.tensor([0, *core.object_ids])[probs[0].argmax(0)], mask)


@every_kind
@pytest.mark.parametrize("include_last", [False, True])
def test_late_objects(make_core, kind, include_last):
    """Before the first mask all is background; a later object wins its pixels and does not disturb old memories."""
    frames, mask = clip(7, 32, 48)
    late = torch.zeros_like(mask)
    late[:8, :20] = 9
    core = make_core(kind, mem_every=2, include_last=include_last)
    probs = run(core, frames, {1: mask, 4: late})
    assert core.object_ids == [1, 9]
    assert [len(prob) for prob in probs] == [1, 2, 2, 2, 3, 3, 3]
    assert (probs[0] == 1).all()
    assert (probs[4][2][late == 9] > 0.99).all() and (probs[4][1][late == 9] < 0.01).all()
    alone = run(make_core(kind, mem_every=2, include_last=include_last), frames[:4], {1: mask})
    assert all(torch.equal(a, b) for a, b in zip(alone, probs, strict=False))


@every_kind
def test_include_last_reads_the_previous_frame(make_core, kind):
    """Equal to a memory made by hand of the given frame and, as a temporary entry, the frame before."""
    frames, mask = clip(4, 32, 48, ids=(1, 2))
    core = make_core(kind, mem_every=10, include_last=True)
    probs, network = run(core, frames, {0: mask}), core.network
    with torch.no_grad():
        images = network.normalize(frames)
        features = [network.encode_key(image[None]) for image in images]
        values = [
            network.encode_value(image[None], feature.f16, prob[None, 1:])
            for image, feature, prob in zip(images, features, probs, strict=True)
        ]
        for t in range(1, 4):
            memory = core.make_memory()
            memory.add(features[0].key, values[0])
            if t > 1:
                memory.add(features[t - 1].key, values[t - 1], temporary=True)
            logits, _ = network.decode(memory.read(features[t].key), features[t])
            expected = torch.softmax(soft_aggregate(torch.sigmoid(logits)), dim=1)[0]
            assert torch.allclose(probs[t], expected, atol=1e-5)


@every_kind
def test_reannotation(make_core, kind):
    """A known id that is given again takes exactly the new mask; one that is not given keeps what is left."""
    frames, mask = clip(5, 32, 48, ids=(3, 4))
    again = torch.zeros_like(mask)
    again[10:20, 30:40] = 3
    core = make_core(kind)
    probs = run(core, frames, {0: mask, 2: again})
    assert core.object_ids == [3, 4] and len(probs[2]) == 3
    assert torch.equal(probs[2][1] > 0.5, again == 3)
    assert (probs[2][2][again == 3] < 0.01).all()
    untouched = run(make_core(kind), frames[:3], {0: mask})[2]
    expected = torch.stack([(again == 3).float(), untouched[2].masked_fill(again > 0, 0)])
    assert torch.allclose(probs[2], torch.softmax(soft_aggregate(expected[None]), 1)[0], atol=1e-6)


def test_a_given_mask_outweighs_a_certain_prediction(make_core):
    frames, mask = clip(2, 32, 48)
    core = make_core()
    core.network.decoder.pred.bias.data += 50  # object 1 is everywhere, with probability 1
    late = torch.zeros_like(mask)
    late[8:, 20:] = 9
    prob = run(core, frames, {0: mask, 1: late})[1]
    assert (prob[2][late == 9] > 0.99).all() and (prob[1][late == 0] > 0.99).all()


@every_kind
def test_skipped_frames_change_nothing(make_core, kind):
    """Frames that nobody needs are skipped unless the memory wants them; the others do not notice."""
    frames, mask = clip(9, 32, 48)
    every = run(make_core(kind, mem_every=3), frames, {0: mask})
    core = make_core(kind, mem_every=3)
    some = [core.step(frame, mask if t == 0 else None, needed=t in (0, 5, 8)) for t, frame in enumerate(frames)]
    assert [t for t, prob in enumerate(some) if prob is None] == [1, 2, 4, 7]
    assert all(torch.equal(some[t], every[t]) for t in (5, 8))


def test_last_frame_is_never_memorised(make_core, monkeypatch):
    core = make_core(mem_every=2)
    encoded = []
    encode = core.network.encode_value
    monkeypatch.setattr(core.network, "encode_value", lambda *args: encoded.append(core._last_memory) or encode(*args))
    frames, mask = clip(5, 32, 32)
    run(core, frames, {0: mask})
    assert encoded == [0, 2]  # each when the next frame came; frame 4 would be the third


@every_kind
@pytest.mark.parametrize("include_last", [False, True])
def test_autocast(make_core, kind, include_last):
    """Half precision stays near float32, with an object that appears later, too; results are float32 themselves."""
    frames, mask = clip(6, 48, 64, ids=(1, 2))
    late = torch.zeros_like(mask)
    late[:16, 40:] = 3
    options = {"mem_every": 2, "include_last": include_last}
    exact = run(make_core(kind, **options), frames, {0: mask, 3: late})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(make_core(kind, **options), frames, {0: mask, 3: late})
    assert all(prob.dtype == torch.float32 for prob in half)
    assert all((a - b).abs().mean() < 0.02 for a, b in zip(exact, half, strict=True))


@every_kind
def test_complete_masks(make_core, kind):
    """Objects that a complete mask does not hold have no pixel until one holds them; an empty one ends them all."""
    frames, mask = clip(8, 32, 48, ids=(3, 4))
    only = torch.where(mask == 4, 4, 0)
    core = make_core(kind, mem_every=2)
    labels = []
    for t, frame in enumerate(frames):
        given = {0: mask, 2: only, 4: torch.zeros_like(mask), 6: mask}.get(t)
        labels.append(set(core.step(frame, given, complete=True).argmax(0).unique().tolist()) - {0})
    assert labels[0] == {1, 2} and labels[2] == {2} and labels[4] == labels[5] == set() and labels[6] == {1, 2}
    assert 1 not in labels[3]


def test_reading_has_no_side_effects(make_core):
    frames, mask = clip(4, 32, 48, ids=(1, 2))
    core, other = (make_core(mem_every=2, include_last=True) for _ in range(2))
    for t, frame in enumerate(frames):
        read = core.read(frame)
        core.read(1 - frame)
        prob = core.step(frame, mask if t == 0 else None)
        assert t == 0 or torch.equal(read, prob)
        assert torch.equal(prob, other.step(frame, mask if t == 0 else None))


@every_kind
def test_memorised_masks(make_core, kind):
    """Replaced, forgotten and removed: as if never given. A mask of some objects leaves the memory of the others."""
    frames, mask = clip(6, 32, 48, ids=(1, 2))
    other = mask.flip(1)
    core, fresh = make_core(kind), make_core(kind)
    core.memorise(frames[0], other, 0)
    core.memorise(frames[3], mask, 3)
    core.memorise(frames[0], mask, 0)
    fresh.memorise(frames[0], mask, 0)
    if kind in ("anchored", "space_time"):
        core.forget(3)
    else:
        fresh.memorise(frames[3], mask, 3)
    assert torch.allclose(core.read(frames[5]), fresh.read(frames[5]), atol=1e-4)
    core.memorise(frames[4], torch.where(other == 2, 2, 0), 4)  # says nothing of object 1
    assert core.object_ids == [2, 1]
    alone = core.read(frames[5])[2]
    core.restart(4, absent=[2])
    assert not (core.step(frames[5]).argmax(0) == 1).any() and alone.isfinite().all()
    core.remove(2)
    assert core.object_ids == [1] and core.read(frames[5]).shape[0] == 2
    with pytest.raises(KeyError):
        core.remove(2)


class PoolingNetwork:
    """Pooled colours are keys, pooled masks values: as little work as an engine can have."""

    def normalize(self, image):
        return image

    def encode_key(self, image):
        return FrameFeatures(*[100 * F.avg_pool2d(image, 16)] * 5)

    def encode_value(self, image, f16, masks):
        return F.avg_pool2d(masks, 16).unsqueeze(2)

    def decode(self, readout, features):
        return F.interpolate(8 * readout[:, :, 0] - 4, scale_factor=16), None


def test_a_thousand_frames_in_bounded_memory():
    """With 3 permanent and 5 recent frames the bytes are flat, and the object of the first mask is still known."""
    core = InferenceCore(PoolingNetwork(), lambda: SpaceTimeMemory(max_frames=8), mem_every=1)
    image = torch.rand(3, 2, 3).repeat_interleave(16, 1).repeat_interleave(16, 2)
    mask = torch.zeros(32, 48, dtype=torch.int64)
    mask[16:, 32:] = 1
    masks, sizes = {0: mask, 300: mask, 600: mask}, set()
    for t in range(1000):
        prob = core.step(image + t / 20_000, masks.get(t))
        memory = core._groups[0][1] if core._groups else None
        if t > 601:
            sizes.add(memory.nbytes)
    frames = {entry.frame: entry.permanent for entry in memory._entries}
    assert frames == {0: True, 300: True, 600: True, 994: False, 995: False, 996: False, 997: False, 998: False}
    assert len(sizes) == 1 and torch.equal(prob.argmax(0), mask)


# What is passed instead of a good image and mask, and what the error says.
REFUSED = {
    "another size": (lambda image, mask: (image[:, 1:], mask), r"39, 56\)"),
    "mask of another size": (lambda image, mask: (image, mask[:, 1:]), r"mask of \(40, 55\).* image of \(40, 56\)"),
    "two channels": (lambda image, mask: (image[:2], mask), r"\(2, 40, 56\).*expected 3×H×W"),
    "bytes": (lambda image, mask: ((255 * image).byte(), mask), "uint8: expected 3×H×W of floats in"),
    "0 to 255": (lambda image, mask: (255 * image, None), r"to 25\d.*: expected RGB in \[0, 1\]"),
    "normalised": (lambda image, mask: (8 * image - 4, mask), r"expected RGB in \[0, 1\]"),
    "NaN": (lambda image, mask: (image.where(image > 0.01, torch.nan), None), "nan: expected RGB"),
    "mask on another device": (lambda image, mask: (image, mask.to("meta")), "mask on meta: expected .* cpu"),
    "floats": (lambda image, mask: (image, mask.float()), "float32: expected integer object ids"),
    "negative": (lambda image, mask: (image, mask - 1), "id -1: expected object ids from 1"),
    "large": (lambda image, mask: (image, mask + 255), "id 256: expected object ids from 1 to 255"),
}


@every_kind
def test_refused_calls_change_nothing(make_core, kind):
    """Bad calls before every frame, the first included: each is refused, and the results stay the same bit by bit."""
    frames, mask = clip(6, 40, 56, ids=(1, 2))
    masks = {1: mask, 3: torch.where(mask == 2, 7, 0)}
    undisturbed = run(make_core(kind, mem_every=2), frames, masks)
    core = make_core(kind, mem_every=2)
    for t, frame in enumerate(frames):
        for spoil, message in REFUSED.values():
            with pytest.raises(ValueError, match=message):
                core.step(*spoil(frame, mask))
        assert torch.equal(core.step(frame, masks.get(t)), undisturbed[t])
