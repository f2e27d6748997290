"""Memory on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import resource, {program}, torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
torch.empty(1 << 26, dtype=torch.uint8).fill_(1)
print(faults() - before)
"""


@pytest.mark.skipif(
    not SWITCH.is_file() or "[never]" in SWITCH.read_text(), reason="the system offers no huge pages to programs"
)
@pytest.mark.parametrize("program", ["train", "evaluation"])
def test_large_tensors_come_in_huge_pages(program):
    root = Path(__file__).resolve().parents[1]
    code = PROGRAM.format(program=program)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2000  # 16,384 small pages in 64 MiB
