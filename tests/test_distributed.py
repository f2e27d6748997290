"""Several processes of one run: who gets what, and how many threads each has."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys, time, torch
from pathlib import Path
from util.device import divide_cores
from util.distributed import as_free, gather, process_group, rank
cpu = torch.device("cpu")
divide_cores(cpu)
with process_group(cpu):
    for turn in range(2):
        finished, taken = Path(f"{sys.argv[1]}/{turn}"), []
        for item in as_free(range(4)):
            taken.append(item)
            if item == 3:
                finished.touch()
            while item == 0 and not finished.exists():  # a long one
                time.sleep(0.01)
        both = sorted(gather(taken))
        if rank() == 0:
            print("RESULT", torch.get_num_threads(), both)
"""


def test_items_go_to_the_process_that_is_free(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*launcher, str(tmp_path / "program.py"), str(tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert done.stdout.count(f"RESULT {max(1, cores // 2)} [[0], [1, 2, 3]]") == 2, done.stderr[-2000:]
