"""Memories: equal to the plain definitions for all shapes, orders and numbers of frames.

Float32 differs from the float64 definitions by 1e-6 or less with every kernel (AVX-512, AVX2, SSE), hence 1e-5 below.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import attention
from inference_memory_bank import GlobalContextMemory, SpaceTimeMemory, make_memory
from model.config import MEMORIES as CONFIGURED
from model.config import NetworkConfig

MEMORIES: dict[str, Callable] = {
    **{name: partial(make_memory, NetworkConfig.preset("stcn", memory=name)) for name in CONFIGURED},
    "top_k": lambda: SpaceTimeMemory(top_k=7),
    "bounded": lambda: SpaceTimeMemory(top_k=7, max_frames=3),
    "biased": lambda: SpaceTimeMemory(given_bias=1.5),
    "context_mean": lambda: GlobalContextMemory(norm="mean"),
    "context_anchored": lambda: GlobalContextMemory(update="anchored"),
}
every_memory = pytest.mark.parametrize("kind", MEMORIES)


def frame(batch=1, objects=2, size=(3, 4), key_dim=8, value_dim=5):
    """A random key B×Ck×h×w and value B×K×Cv×h×w."""
    return torch.randn(batch, key_dim, *size), torch.randn(batch, objects, value_dim, *size)


def plain_space_time(frames, query, top_k=None):
    """The definition, one dense matrix: S(i, j) = (2 kᵢ·qⱼ − ‖kᵢ‖²)/√C, softmax over i, weighted sum of values."""
    key = torch.cat([k.flatten(2) for k, _ in frames], 2).double()
    value = torch.cat([v.flatten(3) for _, v in frames], 3).double()
    q = query.flatten(2).double()
    similarity = (2 * key.transpose(1, 2) @ q - key.square().sum(1)[:, :, None]) / key.shape[1] ** 0.5
    if top_k is not None and top_k < similarity.shape[1]:
        smallest = similarity.topk(top_k, dim=1).values[:, -1:]
        similarity = similarity.masked_fill(similarity < smallest, -torch.inf)
    weights = similarity.softmax(1)
    return torch.einsum("bkcn,bnq->bkcq", value, weights).unflatten(3, query.shape[-2:]).float()


@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("batch, objects, frames", [(1, 1, 1), (1, 3, 4), (2, 2, 3)])
def test_space_time_equals_definition(top_k, batch, objects, frames, monkeypatch):
    memory, history = SpaceTimeMemory(top_k), [frame(batch, objects) for _ in range(frames)]
    for key, value in history:
        memory.add(key, value)
    query = torch.randn(batch, 8, 3, 4)
    expected = plain_space_time(history, query, top_k)
    assert torch.allclose(memory.read(query), expected, atol=1e-5)
    monkeypatch.setattr(attention, "AFFINITY_BUDGET", 1)  # one query at a time
    assert torch.allclose(memory.read(query), expected, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 300, 2**24])
def test_devices_without_embedding_bag(budget, monkeypatch):
    """Gathered values, in chunks of 1, 4 and all queries: the same readout as `F.embedding_bag`'s."""
    memory, history = SpaceTimeMemory(top_k=7), [frame(2, 2) for _ in range(4)]
    for key, value in history:
        memory.add(key, value)
    query = torch.randn(2, 8, 3, 4)
    expected = plain_space_time(history, query, 7)
    monkeypatch.setattr(F, "embedding_bag", lambda *_, **__: pytest.fail("embedding_bag was called"))
    monkeypatch.setattr(attention, "GATHER_DEVICES", ("cpu",))
    monkeypatch.setattr(attention, "AFFINITY_BUDGET", budget)
    assert torch.allclose(memory.read(query), expected, atol=1e-5)


def test_given_masks_count_several_times():
    """With a bias of ln 3, a permanent frame counts three times, also where it replaces another; others count once."""
    memory, query, (first, given, other) = (
        SpaceTimeMemory(given_bias=math.log(3)),
        torch.randn(1, 8, 3, 4),
        [frame() for _ in range(3)],
    )
    memory.add(*first, frame=0, permanent=True)
    memory.add(*frame(), frame=4, permanent=True)
    memory.add(*given, frame=4)
    memory.add(*other, frame=5)
    memory.add(*other, temporary=True)
    assert torch.allclose(memory.read(query), plain_space_time([first, given] * 3 + [other] * 2, query), atol=1e-5)


def test_large_similarities_stay_finite():
    memory = SpaceTimeMemory(top_k=5)
    key, value = frame()
    memory.add(100 * key, value)
    assert memory.read(100 * key).isfinite().all()


@every_memory
def test_empty_memory_says_so(kind):
    with pytest.raises(RuntimeError, match="memory is empty"):
        MEMORIES[kind]().read(torch.randn(1, 8, 3, 4))


@every_memory
def test_temporary_entries_leave_no_trace(kind):
    plain, disturbed, query = MEMORIES[kind](), MEMORIES[kind](), torch.randn(1, 8, 3, 4)
    for _ in range(5):
        key, value = frame()
        plain.add(key, value)
        before = plain.read(query)
        disturbed.add(*frame(), temporary=True)
        disturbed.add(key, value)
        disturbed.add(*frame(), temporary=True)
        assert not torch.allclose(disturbed.read(query), before, atol=1e-3)
    disturbed.add(key, value)
    plain.add(key, value)
    assert torch.allclose(disturbed.read(query), plain.read(query), atol=1e-6)


@every_memory
def test_objects_do_not_mix(kind):
    """An object's readout is the same alone and among 1 to 20 others."""
    key, value = frame(objects=20)
    query = torch.randn(1, 8, 3, 4)
    together = MEMORIES[kind]()
    together.add(key, value)
    for objects in (slice(0, 1), slice(4, 9)):
        alone = MEMORIES[kind]()
        alone.add(key, value[:, objects])
        assert torch.allclose(alone.read(query), together.read(query)[:, objects], atol=1e-6)


@every_memory
def test_gradients_reach_keys_and_values(kind):
    memory = MEMORIES[kind]()
    inputs = [[part.requires_grad_() for part in frame()] for _ in range(2)]
    for key, value in inputs:
        memory.add(key, value)
    memory.read(torch.randn(1, 8, 3, 4)).square().sum().backward()
    assert all(part.grad.abs().sum() > 0 for pair in inputs for part in pair)


def test_buffers_grow_without_changing_what_they_hold():
    """Allocated at once, grown, and concatenated under autograd: the same readout."""
    history, query = [frame() for _ in range(12)], torch.randn(1, 8, 3, 4)
    memories = [SpaceTimeMemory(5), SpaceTimeMemory(5, reserve=12), SpaceTimeMemory(5)]
    for key, value in history:
        with torch.no_grad():
            memories[0].add(key, value)
            memories[1].add(key, value)
        memories[2].add(key, value)
    first, *others = [memory.read(query) for memory in memories]
    assert all(torch.allclose(first, other, atol=1e-6) for other in others)


@pytest.mark.parametrize("grad", [False, True])
def test_bounded_memory_keeps_first_and_most_recent(grad):
    history, query = [frame() for _ in range(9)], torch.randn(1, 8, 3, 4)
    memory = SpaceTimeMemory(top_k=None, max_frames=4)
    for count, (key, value) in enumerate(history, 1):
        with torch.set_grad_enabled(grad):
            memory.add(key, value)
        kept = history[:count] if count <= 4 else [history[0], *history[count - 3 : count]]
        assert torch.allclose(memory.read(query), plain_space_time(kept, query), atol=1e-5)
        extra = frame()
        with torch.set_grad_enabled(grad):
            memory.add(*extra, temporary=True)
        assert torch.allclose(memory.read(query), plain_space_time([*kept, extra], query), atol=1e-5)


@every_memory
def test_replacing_forgetting_and_dropping_equal_never_having_had(kind):
    """Bit by bit in a space-time memory, to rounding in a global context."""
    memory, fresh, query = MEMORIES[kind](), MEMORIES[kind](), torch.randn(1, 8, 3, 4)
    history = [frame(objects=3) for _ in range(3)]
    with torch.no_grad():
        for number in (0, 5, 7):
            memory.add(*frame(objects=3), frame=number, permanent=True)
        memory.add(*history[0], frame=0)
        memory.add(*history[1], frame=7, permanent=True)
        memory.forget(5)
        memory.keep([2, 0])
        for number, (key, value) in zip((0, 7), history, strict=False):
            fresh.add(key, value[:, [2, 0]], frame=number, permanent=True)
        for each in (memory, fresh):
            each.add(history[2][0], history[2][1][:, [2, 0]], temporary=True)
        assert torch.allclose(memory.read(query), fresh.read(query), atol=1e-5)
        assert "context" in kind or torch.equal(memory.read(query), fresh.read(query))
        for each in (memory, fresh):
            each.add(*frame(objects=2), frame=8)
            each.forget()
        assert torch.allclose(memory.read(query), fresh.read(query), atol=1e-5)


def test_a_global_context_refuses_to_forget_what_it_does_not_keep():
    for kind in ("global_context", "context_anchored"):
        memory = MEMORIES[kind]()
        memory.add(*frame(), frame=0)
        with pytest.raises(ValueError, match="frame 0 is mixed into the global context; expected a permanent frame"):
            memory.forget(0)


def test_permanent_frames_survive_in_a_bounded_memory():
    """3 permanent and 5 recent frames over 1,000 frames: bytes flat, and the read is that of those 8."""
    memory, query, kept, sizes = SpaceTimeMemory(max_frames=8), torch.randn(1, 8, 3, 4), {}, set()
    with torch.no_grad():
        for t in range(1000):
            kept[t] = frame()
            memory.add(*kept[t], frame=t, permanent=t in (0, 300, 301))
            others = [i for i in kept if i not in (0, 300, 301)]
            permanent = len(kept) - len(others)
            for old in others[: max(0, len(others) - 8 + permanent)]:
                del kept[old]
            if t >= 302:
                sizes.add(memory.nbytes)
            if t in (5, 100, 302, 999):
                assert torch.allclose(memory.read(query), plain_space_time(list(kept.values()), query), atol=1e-5)
    assert len(kept) == 8 and {0, 300, 301} <= kept.keys() and len(sizes) == 1


@pytest.mark.parametrize("seed", range(12))
def test_global_context_is_attention_over_all_frames(seed):
    """The paper's equivalence: with norm=mean the read is dot-product attention Q Kᵀ V / (t·n) over all past frames."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    batch, objects, count, size = draw(1, 3), draw(1, 20), draw(1, 9), (draw(1, 7), draw(1, 7))
    key_dim, value_dim = draw(1, 16), draw(1, 16)
    history = [frame(batch, objects, size, key_dim, value_dim) for _ in range(count)]
    query = torch.randn(batch, key_dim, *size)
    keys = torch.stack([k.flatten(2) for k, _ in history]).double()
    values = torch.stack([v.flatten(3) for _, v in history]).double()
    attention = torch.einsum("bcq,tbcn->btqn", query.flatten(2).double(), keys) / (count * size[0] * size[1])
    expected = torch.einsum("btqn,tbkvn->bkvq", attention, values).unflatten(3, size).float()
    for order in (range(count), torch.randperm(count, generator=generator).tolist()):
        memory = GlobalContextMemory(norm="mean")
        for i in order:
            memory.add(*history[i])
        assert torch.allclose(memory.read(query), expected, atol=1e-5 * expected.abs().max().item() + 1e-6)


@pytest.mark.parametrize("batch, objects, count", [(1, 1, 1), (1, 3, 4), (2, 2, 3)])
def test_global_context_with_softmax_equals_definition(batch, objects, count):
    """Each key channel attends over the positions of a frame, each query position over the channels."""
    history, query = [frame(batch, objects) for _ in range(count)], 2 * torch.randn(batch, 8, 3, 4)
    memory = GlobalContextMemory()
    for key, value in history:
        memory.add(key, value)
    readout = memory.read(query).double()
    for b in range(batch):
        for k in range(objects):
            context = torch.zeros(8, 5, dtype=torch.float64)
            for key, value in history:
                attention = key[b].double().flatten(1).exp()  # channels × positions
                attention /= attention.sum(1, keepdim=True)
                context += attention @ value[b, k].double().flatten(1).T / count
            weights = query[b].double().flatten(1).T.exp()  # positions × channels
            weights /= weights.sum(1, keepdim=True)
            assert torch.allclose(readout[b, k].flatten(1).T, weights @ context, atol=1e-5)


def test_anchored_context_keeps_half_for_the_first_frame():
    history, query = [frame() for _ in range(4)], torch.randn(1, 8, 3, 4)
    memory = GlobalContextMemory(norm="mean", update="anchored")
    for key, value in history:
        memory.add(key, value)
    reads = []
    for key, value in history:
        alone = GlobalContextMemory(norm="mean")
        alone.add(key, value)
        reads.append(alone.read(query))
    expected = reads[0] / 2 + sum(reads[1:]) / 6
    assert torch.allclose(memory.read(query), expected, atol=1e-5)


def test_an_hour_of_video_neither_drifts_nor_grows():
    """90 000 frames (25 a second) of drifting statistics: equal to a float64 mean, in the bytes of the first frame."""
    memory, block, channels = GlobalContextMemory(norm="mean"), 1000, 4
    one_hot = torch.eye(channels).view(1, channels, 1, channels)  # reads the state itself
    total = torch.zeros(3, channels, dtype=torch.float64)
    sizes = set()
    with torch.inference_mode():
        for start in range(0, 90_000, block):
            keys = 1 + torch.randn(block, channels, 2, 3) * (1 + start / 30_000)
            values = torch.randn(block, 3, 2, 3) + 5 * math.sin(start / 10_000)
            total += torch.einsum("tchw,tvhw->vc", keys.double(), values.double()) / 6
            for key, value in zip(keys.split(1), values[:, None].split(1), strict=True):
                memory.add(key, value)
            sizes.add(memory.nbytes)
        state = memory.read(one_hot)[0, 0, :, 0]
    assert sizes == {4 * channels * 3}
    assert torch.allclose(state.double(), total / 90_000, rtol=0, atol=5e-5)  # 1.2e-5 measured


@pytest.mark.parametrize("grad", [False, True])
def test_bytes_held_follow_the_kind(grad):
    """The space-time memory grows with the frames, a bounded one stops, the global context is a matrix per object."""
    held = {}
    for kind in ("space_time", "bounded", "global_context", "context_anchored"):
        memory, sizes = MEMORIES[kind](), []
        assert memory.nbytes == 0
        for _ in range(40):
            with torch.set_grad_enabled(grad):
                memory.add(*frame())
            sizes.append(memory.nbytes)
        held[kind] = sizes
    positions, channels = 3 * 4, 8 + 2 * 5
    assert all(size >= 4 * (t + 1) * positions * channels for t, size in enumerate(held["space_time"]))
    assert len(set(held["bounded"][4:])) == 1 and held["bounded"][-1] <= 4 * 5 * positions * channels
    assert set(held["global_context"]) == {4 * 2 * 8 * 5}
    assert set(held["context_anchored"][1:]) == {2 * 4 * 2 * 8 * 5}


@every_memory
def test_half_precision_input_float32_state(kind):
    memory, exact = MEMORIES[kind](), MEMORIES[kind]()
    query = torch.randn(1, 8, 3, 4)
    for _ in range(4):
        key, value = frame()
        memory.add(key.bfloat16(), value.bfloat16())
        exact.add(key.bfloat16().float(), value.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readout = memory.read(query.bfloat16())
    assert readout.dtype == torch.bfloat16
    assert torch.allclose(readout.float(), exact.read(query.bfloat16().float()), atol=0.05)
