"""Resuming: the same bits as without a stop, a changed recipe, generators, memory, and files that do not fit."""

import os
import shutil
import signal
import sys
import weakref
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

import train
from model.losses import compute_losses
from model.weights import read_torch_file, write_torch_file
from tests.training.conftest import NETWORK
from training import checkpoint
from training.checkpoint import TrainingState, read_checkpoint
from training.logger import read_log
from training.run import stop_signals
from util.errors import InputError


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["network"]


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def killed_main(arguments: list[str], inside: bool) -> None:
    """Train, and die with the second checkpoint: in the middle of writing it (``inside``), or right after."""
    save, checkpoints = torch.save, 0

    def killing_save(contents, file, **options):
        nonlocal checkpoints
        is_file = isinstance(contents, dict)
        if is_file and "train" in contents:
            checkpoints += 1
            if checkpoints == 2 and inside:
                file.write(b"half of a checkpoint")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        elif is_file and checkpoints == 2:  # the file after the second checkpoint
            os.kill(os.getpid(), signal.SIGKILL)
        save(contents, file, **options)

    with mock.patch.object(torch, "save", killing_save):
        train.main(arguments)


@pytest.mark.parametrize("processes, inside", [(1, True), (2, False)])
def test_resume_is_exact(call, data, tmp_path, processes, inside):
    """6 iterations without a stop, and 6 with a SIGKILL at the second checkpoint and a resume, give the same bits."""
    flags = ["--stage", "3", "--checkpoint_every", "2", "--save_every", "2", "--num_workers", str(2 * (processes - 1))]
    flags += ["--schedule", "cosine", "--warm_up", "4", "--ema", "0.9", "-i", "6"]
    flags += ["--val_root", data / "DAVIS", "--val_videos", "bear,bus", "--val_every", "3", "--val_size", "48"]
    assert not any(call("--id", "straight", *flags, *NETWORK, processes=processes))
    killed = call("--id", "killed", *flags, *NETWORK, processes=processes, main=partial(killed_main, inside=inside))
    assert killed[0] == -signal.SIGKILL
    path = tmp_path / "killed/killed_checkpoint.pth"
    assert read_checkpoint(path)["train"]["iteration"] == (2 if inside else 4)
    assert not any(call("--id", "killed", "--stage", "3", "--load_model", path, processes=processes))
    for name in ("6", "best", "checkpoint"):
        assert_same_weights(tmp_path / f"straight/straight_{name}.pth", tmp_path / f"killed/killed_{name}.pth")
    straight, resumed = (read_checkpoint(tmp_path / f"{run}/{run}_checkpoint.pth") for run in ("straight", "killed"))
    assert straight["train"]["best"] == resumed["train"]["best"] > 0
    logs = [read_log(tmp_path / f"{run}/{run}_log.jsonl")[-1] for run in ("straight", "killed")]
    assert logs[0]["val_jf"] == logs[1]["val_jf"] and logs[0]["iteration"] == 6
    assert not torch.equal(weights(path)["key_proj.weight"], resumed["train"]["average"]["network"]["key_proj.weight"])


def test_resume_takes_a_changed_recipe(run, tmp_path):
    flags = ["--stage", "0", "--log_every", "1"]
    run("--id", "run", *flags, *NETWORK, "-i", "2", "--lr", "1e-4", "--steps", "1")
    path = tmp_path / "run/run_checkpoint.pth"
    # The records of a killed run: an entry after the checkpoint, and half a line.
    with (tmp_path / "run/run_log.jsonl").open("a") as log:
        log.write('{"iteration": 3, "lr": 7}\n{"iteration": 4, "lo')
    changed = "-i 6 --lr 1e-3 --steps 1 4 --gamma 0.5 --weight_decay 0.1 --ema 0.9"
    run("--id", "run", *flags, "--load_model", path, *changed.split())
    rates = {entry["iteration"]: entry["lr"] for entry in read_log(tmp_path / "run/run_log.jsonl") if "lr" in entry}
    assert rates == pytest.approx({1: 1e-4, 2: 1e-5, 3: 5e-4, 4: 5e-4, 5: 2.5e-4, 6: 2.5e-4})
    saved = read_checkpoint(path)["train"]
    assert saved["optimizer"]["param_groups"][0]["weight_decay"] == 0.1
    assert saved["settings"]["recipe"]["gamma"] == 0.5 and saved["average"]["updates"] == 4


def test_resume_refuses_another_network_and_a_finished_run(run, tmp_path, capsys):
    run("--id", "run", "--stage", "0", *NETWORK, "-i", "1")
    again = ["--id", "run", "--stage", "0", "--load_model", tmp_path / "run/run_checkpoint.pth"]
    for flags, message in (
        (["-i", "2", "--no-lfm"], "the run to resume has lfm True, not False"),
        (["-i", "2", "--backbone_lr", "0.1"], "run_checkpoint.pth: the optimiser has other groups of parameters; exp"),
        ([], "already at"),
    ):
        with pytest.raises(SystemExit) as error:
            run(*again, *flags)
        assert error.value.code == 2 and message in capsys.readouterr().err
    checkpoint = (tmp_path / "run/run_checkpoint.pth").read_bytes()
    run("--id", "run", "--stage", "0", *NETWORK, "-i", "1", "--resume")  # as launchers repeat it
    assert "nothing is left to do" in capsys.readouterr().err
    assert (tmp_path / "run/run_checkpoint.pth").read_bytes() == checkpoint


def test_resume_with_other_data(run, data, tmp_path, capsys):
    """The order of the samples is another, which is said; the best score counts for the same videos only."""
    shutil.copytree(data / "static", tmp_path / "fewer")
    next((tmp_path / "fewer/ours").glob("*.jpg")).unlink()
    flags = ["--id", "run", "--stage", "0", *NETWORK, "--resume", "--val_root", data / "DAVIS", "--val_every", "1"]
    path, others = tmp_path / "run/run_checkpoint.pth", ["--static_root", tmp_path / "fewer"]
    with mock.patch("training.run.validate", side_effect=[{"val_jf": score} for score in (0.9, 0.5, 0.3, 0.7)]):
        run(*flags, "--val_videos", "bear", "-i", "2")
        run(
            *flags, "--val_videos", "bear", "-i", "3", "--val_root", shutil.copytree(data / "DAVIS", tmp_path / "DAVIS")
        )
        assert read_checkpoint(path)["train"]["best"] == 0.9 and f"{path}: trained" not in capsys.readouterr().err
        run(*flags, "--val_videos", "bus", "-i", "4", *others)
    assert read_checkpoint(path)["train"]["best"] == 0.7 and f"{path}: trained on ours " in capsys.readouterr().err


def state_of(network) -> TrainingState:
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    return TrainingState(network, optimizer, torch.amp.GradScaler("cpu", enabled=False), 0.9)


def test_generators_go_on(tiny_network, tmp_path):
    state, path = state_of(tiny_network()), tmp_path / "checkpoint.pth"
    state.save(path, {})
    expected = torch.rand(3)
    torch.manual_seed(5)
    state.load(read_checkpoint(path), path)
    assert torch.equal(torch.rand(3), expected)


def test_the_average_soon_forgets_the_start_and_then_follows_slowly(tiny_network):
    network = tiny_network()
    state, weight = state_of(network), network.key_proj.weight
    expected = weight.detach().clone()
    for updates, decay in ((0, 1 / 10), (1, 2 / 11), (1000, 0.9)):
        state.updates, weight.grad = updates, torch.ones_like(weight)
        state.step(1e-2)
        expected.lerp_(weight.detach(), 1 - decay)
        assert torch.allclose(state.average.key_proj.weight, expected)


def test_moments_of_another_shape_are_refused(tiny_network, tmp_path):
    """Fused Adam would write past them."""
    network, path = tiny_network(), tmp_path / "checkpoint.pth"
    state = state_of(network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.step(1e-3)
    state.save(path, {})
    contents = read_checkpoint(path)
    good = contents["train"]["optimizer"]
    moments = good["state"][3]
    for name, value, message in (
        ("exp_avg_sq", torch.zeros(1), "the optimiser's exp_avg_sq of parameter 3 does not fit"),
        ("exp_avg", None, "the optimiser's exp_avg of parameter 3 does not fit"),
        ("exp_avg_sq", -moments["exp_avg_sq"], "the optimiser's exp_avg_sq of parameter 3 has impossible values"),
        ("step", torch.tensor(torch.nan), "the optimiser's step of parameter 3 has impossible values"),
    ):
        good["state"][3] = moments | {name: value}
        with pytest.raises(InputError, match=f"checkpoint.pth: {message}"):
            state.load(contents, path)
    good["state"][3] = moments
    for entry, value in (("optimizer", {"state": {}}), ("average", {"network": 3}), ("rng", [3])):
        with pytest.raises(InputError, match="checkpoint.pth: (is damaged|holds no weights)"):
            state.load(contents | {"train": contents["train"] | {entry: value}}, path)
    state.load(contents, path)


NUMBERS = {"iteration": 1, "position": 2, "best": 0.5, "optimizer": {}, "rng": [], "settings": {}}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (3, "expected a <id>_checkpoint.pth to resume"),
        (NUMBERS | {"position": "2"}, "its entry position is missing or no int"),
        (NUMBERS | {"iteration": True}, "its entry iteration is missing or no int"),
        (NUMBERS | {"position": -1}, "its entry position is -1; expected at least 0"),
        (NUMBERS | {"best": float("nan")}, "its entry best is nan; expected at least -1"),
        (NUMBERS | {"rng": {}}, "its entry rng is missing or no list"),
    ],
)
def test_damaged_checkpoint_is_named(tmp_path, train, message):
    path = tmp_path / "checkpoint.pth"
    write_torch_file(path, {"format": 1, "config": {}, "network": {}, "train": train})
    with pytest.raises(InputError, match=f"checkpoint.pth: {message}"):
        read_checkpoint(path)
    write_torch_file(path, {"format": 2, "config": {}, "network": {}, "train": NUMBERS})
    with pytest.raises(InputError, match="checkpoint.pth: checkpoint format '2'"):
        read_checkpoint(path)


def test_second_stop_signal_does_not_wait():
    """The first asks for a checkpoint; the handlers of before are back afterwards."""
    before = signal.getsignal(signal.SIGINT)
    with stop_signals() as stop_requested:
        assert not stop_requested()
        signal.raise_signal(signal.SIGINT)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_end_of_a_terminal_stops_and_nohup_does_not():
    """A shell sends SIGHUP once more to what the system has sent it already."""

    def others(number, frame):
        pass

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop_requested:
            signal.raise_signal(signal.SIGHUP)
            assert not stop_requested()
        signal.signal(signal.SIGHUP, others)
        with stop_signals() as stop_requested:
            for _ in range(2):
                signal.raise_signal(signal.SIGHUP)
                assert stop_requested()
        assert signal.getsignal(signal.SIGHUP) is others
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_of_the_checkpoint_stays_in_memory(run, tmp_path, monkeypatch):
    """When the loop runs, the contents of the file, half a gigabyte for the full network, are gone."""
    run("--id", "run", "--stage", "0", *NETWORK, "-i", "1")
    alive = []

    class Contents(dict):
        """A dict that can be referred to weakly."""

    def read(path):
        contents = Contents(read_torch_file(path))
        contents["train"] = Contents(contents["train"])
        contents["train"]["optimizer"] = Contents(contents["train"]["optimizer"])
        held = (contents, contents["train"], contents["train"]["optimizer"], contents["network"]["key_proj.weight"])
        alive.extend(weakref.ref(value) for value in held)
        return contents

    def spy(*arguments):
        assert alive and not [reference() for reference in alive if reference() is not None]
        return compute_losses(*arguments)

    monkeypatch.setattr(checkpoint, "read_torch_file", read)
    monkeypatch.setattr(checkpoint, "ENTRIES", {})
    monkeypatch.setattr("training.loop.compute_losses", spy)
    run("--id", "run", "--stage", "0", "--load_model", tmp_path / "run/run_checkpoint.pth", "-i", "2")
    assert alive
