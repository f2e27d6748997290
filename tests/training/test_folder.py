"""The folder of a run: nobody else's files are replaced, nobody else writes, and a full or read-only disk is named."""

import errno
import subprocess
import sys
from unittest import mock

import pytest
import torch

from model.weights import write_torch_file
from tests.training.conftest import NETWORK, ROOT
from training.config import parse_config
from training.folder import earlier_run, run_folder
from training.logger import TrainLogger
from util.errors import InputError


def test_overwrite_replaces_a_run_only_when_the_new_one_is_ready(run, tmp_path):
    run("--id", "run", "--stage", "0", "-i", "2", *NETWORK)
    with pytest.raises(SystemExit):
        run("--id", "run", "--stage", "0", "--overwrite", "--pretrained", tmp_path / "none.pth")
    assert (tmp_path / "run/run_2.pth").exists()
    run("--id", "run", "--stage", "3", "-i", "1", "--overwrite", "--load_network", tmp_path / "run/run_2.pth")
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["run_1.pth", "run_checkpoint.pth"]


def test_existing_run_is_not_replaced(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine_100.pth").touch()
    with pytest.raises(SystemExit):
        run("--id", "mine", "--stage", "0")
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "mine" / "mine_100.pth").exists()


def test_resume_replaces_only_a_run_without_results(tmp_path):
    """What died before its first checkpoint left a log; weights without a checkpoint are not to be lost."""
    config = parse_config(["--id", "x", "--stage", "0", "--saves", str(tmp_path), "--resume"])
    (tmp_path / "x").mkdir()
    (tmp_path / "x/x_log.jsonl").touch()
    assert earlier_run(config) == [tmp_path / "x/x_log.jsonl"]
    (tmp_path / "x/x_100.pth").touch()
    with pytest.raises(InputError, match="holds a run already"):
        earlier_run(config)


def test_one_training_per_folder(tmp_path):
    """A second one is refused while the first lives; a killed one leaves the folder free."""
    code = f"""
import sys, time
from pathlib import Path
from training.config import parse_config
from training.folder import earlier_run, run_folder
from training.logger import TrainLogger
with run_folder(Path({str(tmp_path)!r}), []):
    print("held", flush=True)
    time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout and first.stdout.readline() == "held\n"
    replaced = tmp_path / "run_1.pth"
    replaced.touch()
    with pytest.raises(InputError, match="another process"), run_folder(tmp_path, [replaced]):
        pass
    assert replaced.exists()
    first.kill()
    first.wait()
    with run_folder(tmp_path, [replaced]):
        assert not replaced.exists()


@pytest.mark.parametrize("obstacle", ["saves", "saves/run"])
def test_folder_that_cannot_be_written(obstacle, run, tmp_path, capsys):
    """A file is in the place of a folder."""
    (tmp_path / obstacle).parent.mkdir(exist_ok=True)
    (tmp_path / obstacle).touch()
    with pytest.raises(SystemExit) as error:
        run("--id", "run", "--stage", "0", "-i", "1", *NETWORK, "--saves", tmp_path / "saves")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and f"{tmp_path}/saves/run: cannot be written" in last, last


def test_log_that_cannot_be_written(tmp_path):
    (tmp_path / "run_log.jsonl").mkdir()
    with pytest.raises(InputError, match="run_log.jsonl: is a folder; expected a training log"):
        TrainLogger(tmp_path, "run", 0, 1)
    with TrainLogger(tmp_path, "full", 0, 1) as logger:
        logger.file = mock.Mock(**{"write.side_effect": OSError(errno.ENOSPC, "full")})
        for write in (lambda: logger.config({}), lambda: logger.scalars(1, {})):
            with pytest.raises(InputError, match=f"{tmp_path}: records cannot be written"):
                write()


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    """A disk that fills up while saving: the old checkpoint survives, the message names the file."""
    path = tmp_path / "run_checkpoint.pth"
    write_torch_file(path, {"iteration": 1})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    code = f"""
import signal, torch
{limit}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from model.weights import write_torch_file
from util.errors import exit_on_input_error
exit_on_input_error(write_torch_file)({str(path)!r}, {{"weights": torch.zeros(1_000_000)}})
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and str(path) in result.stderr and len(result.stderr.splitlines()) == 1
    assert torch.load(path, weights_only=True)["iteration"] == 1 and len(list(tmp_path.iterdir())) == 1
