"""util/distributed.py: what launchers leave out, and launchers that die."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.training.conftest import free_port
from util.distributed import process_group, world_size
from util.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: RANK and MASTER_ADDR and MASTER_PORT not set; expected a launcher"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "WORLD_SIZE=2: RANK=2"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "http"}, "MASTER_PORT=http: expected"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: expected a whole number of at least 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: expected a whole number of at least 1"),
        ({"WORLD_SIZE": "9" * 5000}, "expected a whole number of at least 1"),
        ({"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK=-1: expected"),
    ],
)
def test_environment_that_describes_no_group(monkeypatch, environment, message):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        world_size()
        with process_group(torch.device("cpu")):
            pytest.fail("joined a group")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
def test_processes_end_with_their_launcher():
    """It is killed in a way that leaves it no time to end them."""
    rank = "import os, time, torch; from util.distributed import process_group\n"  # print may write a line in two parts
    rank += "with process_group(torch.device('cpu')): os.write(1, b'joined\\n'); time.sleep(600)"
    launcher = "import os, subprocess, sys\nfor rank in '01':\n"
    launcher += f"    subprocess.Popen([sys.executable, '-c', {rank!r}], env=os.environ | {{'RANK': rank}})\n"
    launcher += "os.wait()"
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = os.environ | address | {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}
    command = [sys.executable, "-c", launcher]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout
        assert [process.stdout.readline() for _ in "01"] == [b"joined\n"] * 2
        process.kill()
        end = time.monotonic() + 30
        assert process.stdout.read() == b"" and time.monotonic() < end  # the pipe closes with the last of them
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
