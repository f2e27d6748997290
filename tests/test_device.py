"""Devices: what half precision each gets, which GPU a process selects, and systems without POSIX modules."""

import importlib.util
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from util import device
from util.device import fast_precision, pick_device
from util.errors import InputError, is_out_of_memory

ROOT = Path(__file__).parents[1]


def test_each_process_selects_its_own_gpu(monkeypatch):
    selected = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    assert pick_device("auto", local_rank=1) == torch.device("cuda", 1)
    assert selected == [torch.device("cuda", 1)]


def test_unknown_devices_are_refused():
    with pytest.raises(InputError, match="--device gpu: not available"):
        pick_device("gpu")


@pytest.mark.parametrize(("cost", "expected"), [(0.5, torch.bfloat16), (6, torch.float32)])
def test_the_cpu_gets_bfloat16_only_where_it_is_faster(monkeypatch, cost, expected):
    """``cost``: time of a bfloat16 convolution relative to float32; one measurement in three is disturbed."""
    now, calls = [0.0], []

    def convolution(x, w, padding):
        calls.append(x.dtype)
        disturbed = 10 if len(calls) % 3 == 0 else 1
        now[0] += disturbed * (cost if x.dtype is torch.bfloat16 else 1)

    monkeypatch.setattr(device.F, "conv2d", convolution)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    device._bfloat16_pays.cache_clear()
    assert fast_precision(torch.device("cpu")) is expected
    measured = len(calls)
    assert fast_precision(torch.device("cpu")) is expected and len(calls) == measured
    device._bfloat16_pays.cache_clear()


def test_gpus_get_float16():
    assert fast_precision(torch.device("cuda", 0)) is fast_precision(torch.device("mps")) is torch.float16


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="x86 instruction sets")
def test_a_processor_with_only_avx2_gets_no_half_precision():
    environment = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    code = "import torch, util.device; print(util.device.fast_precision(torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "torch.float32", done.stderr


def test_memory_that_ran_out_is_recognised():
    with pytest.raises(RuntimeError) as allocation:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError) as mistake:
        torch.ones(2) @ torch.ones(3)
    assert is_out_of_memory(allocation.value) and is_out_of_memory(MemoryError())
    with pytest.raises(cv2.error) as image:
        cv2.resize(np.zeros((1, 1), np.uint8), (2**30, 2**30))
    assert is_out_of_memory(image.value)
    assert not is_out_of_memory(mistake.value)


def test_windows_has_no_resource_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    spec = importlib.util.spec_from_file_location("device_on_windows", device.__file__)
    windows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(windows)
    assert math.isnan(windows.peak_memory(torch.device("cpu"))) and device.peak_memory(torch.device("cpu")) > 0
