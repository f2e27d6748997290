"""What only GPUs can show: fp16 with its scaler, pinned memory, compilation, NCCL, and a GPU for each process."""

import math

import pytest
import torch

import train
from datasets.config import DataConfig
from datasets.loader import clip_batches
from datasets.mixture import build_dataset
from tests.training.conftest import NETWORK
from training.checkpoint import read_checkpoint
from training.logger import read_log
from util.device import pick_device
from util.errors import InputError

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS < 1, reason="needs a CUDA device")]
CUDA = ["--stage", "0", "--device", "cuda", *NETWORK]


def test_the_scaler_of_fp16_goes_on(run, tmp_path):
    """Each step without an overflow counts towards a larger scale; an overflow halves it."""
    run("--id", "run", *CUDA, "--amp", "fp16", "-i", "3")
    path = tmp_path / "run/run_checkpoint.pth"
    before = read_checkpoint(path)["train"]["scaler"]
    assert 0 < before["scale"] <= 2**16
    run("--id", "run", *CUDA, "--amp", "fp16", "-i", "4", "--load_model", path)
    after = read_checkpoint(path)["train"]["scaler"]
    grown = {**before, "_growth_tracker": before["_growth_tracker"] + 1}
    assert after in (grown, {**before, "_growth_tracker": 0, "scale": before["scale"] / 2})
    assert math.isfinite(read_log(tmp_path / "run/run_log.jsonl")[-1]["loss"])


def test_batches_are_in_pinned_memory(data):
    dataset = build_dataset(0, DataConfig(static_root=data / "static", crop=48))
    batch = next(clip_batches(dataset, batch_size=2, stop=4, pin_memory=True))
    assert all(value.is_pinned() for value in batch if isinstance(value, torch.Tensor))


def test_a_compiled_network_computes_the_same(run, tmp_path):
    for name, flags in (("plain", []), ("compiled", ["--compile"])):
        run("--id", name, *CUDA, "--amp", "none", "-i", "1", "--log_every", "1", *flags)
    plain, compiled = (read_log(tmp_path / f"{name}/{name}_log.jsonl")[-1]["loss"] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_a_process_without_a_gpu_of_its_own_is_refused():
    with pytest.raises(InputError, match=f"needs a GPU of its own, but this machine has {GPUS}"):
        pick_device("cuda", local_rank=GPUS)


def main_on_own_gpu(arguments: list[str]) -> None:
    train.main(arguments)
    used = [torch.cuda.max_memory_allocated(device) > 0 for device in range(GPUS)]
    assert used == [device == torch.cuda.current_device() for device in range(GPUS)]


@pytest.mark.skipif(GPUS < 2, reason=f"needs two CUDA devices; found {GPUS}")
def test_two_gpus_add_up_to_one(run, call, tmp_path):
    """NCCL; each process uses its own GPU alone."""
    flags = [*CUDA, "--amp", "none", "-i", "1", "--lr", "0", "--global_batch_size", "4"]
    run("--id", "one", *flags)
    assert not any(call("--id", "two", *flags, processes=2, main=main_on_own_gpu))
    one, two = (
        read_checkpoint(tmp_path / f"{name}/{name}_checkpoint.pth")["train"]["optimizer"]["state"]
        for name in ("one", "two")
    )
    size = max(state["exp_avg"].norm() for state in one.values())
    for index, state in one.items():
        difference = state["exp_avg"] - two[index]["exp_avg"]
        assert difference.norm() < 1e-2 * state["exp_avg"].norm() + 1e-6 * size
