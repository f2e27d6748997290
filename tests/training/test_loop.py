"""The training loop: it learns, its settings reach the loss, several processes equal one, faults end in one line.

The programs run as their users run them, on tiny networks and generated data.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision  # type: ignore[import-untyped]  # it has no stubs
from PIL import Image

from datasets.clip import Clip
from eval_davis_2016 import main as eval_davis_2016
from inference_memory_bank import make_memory
from model.config import NetworkConfig
from model.losses import compute_losses
from model.network import Network, save_network
from scripts.plot_training import main as plot_training
from tests.conftest import TINY
from tests.scenes import discs
from tests.training.conftest import NETWORK, ROOT, free_port
from training.config import Recipe
from training.logger import overlap, read_log


@pytest.mark.parametrize("preset", ["gsfm", "gc"])
def test_two_clips_are_learned(preset):
    images, ids = (torch.from_numpy(np.stack(arrays)) for arrays in zip(discs(0, 2, 48), discs(1, 2, 48), strict=True))
    masks = torch.stack([ids == 1, ids == 2], dim=2).float()
    clip = Clip(images.permute(0, 1, 4, 2, 3) / 255, masks, torch.ones(2, 2), "")
    torch.manual_seed(0)
    network = Network(NetworkConfig.preset(preset, **TINY)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    best = 0.0
    for _ in range(100):
        prediction = network(clip.frames, clip.masks[:, 0], clip.valid, make_memory(network.config))
        intersection, union = overlap(prediction, clip)
        best = max(best, float(intersection / union))
        if best > 0.9:
            break
        optimizer.zero_grad()
        losses = compute_losses(prediction, clip.masks[:, 1:], clip.valid, 1.0, 0.05)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert best > 0.9


def test_published_commands_end_to_end(run, flags, capsys, tmp_path, data):
    """Stage 0 and on top of it stage 3, by the older launcher, which also gives a flag; resume; evaluate; plot."""
    run("--id", "s0", "--stage", "0", "-i", "1", *NETWORK)
    weights = torch.load(tmp_path / "s0/s0_1.pth", weights_only=True)["network"]
    assert weights["value_encoder.backbone.conv1.weight"].shape[1] == 4
    stage_3 = flags("--id", "s03", "--stage", "3", "-i", "4", "--checkpoint_every", "2", "--image_every", "2")
    launcher = [sys.executable, "-m", "torch.distributed.launch", "--master_port", str(free_port())]
    launcher += ["--nproc_per_node=2", "train.py", "--load_network", str(tmp_path / "s0/s0_1.pth")]
    result = subprocess.run([*launcher, *stage_3], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    run("--id", "s03", "--stage", "3", "-i", "6", "--load_model", tmp_path / "s03/s03_checkpoint.pth")
    assert "6/6" in capsys.readouterr().err
    log = read_log(tmp_path / "s03/s03_log.jsonl")
    assert [entry["iteration"] for entry in log if "iteration" in entry] == [2, 3, 4, 6]
    assert {"loss", "ce", "boundary", "iou", "lr", "seconds", "data_seconds", "peak_gib"} < log[-1].keys()
    config = log[0]["config"]
    assert config["recipe"]["iterations"] == 4 and config["network"]["single_object"] is False
    assert config["processes"] == 2 and "DAVIS 2016" in config["data_found"]
    assert list((tmp_path / "s03/tensorboard").iterdir())

    evaluate = ["--model", tmp_path / "s03/s03_6.pth", "--davis_path", data / "DAVIS/2016", "--split", "train"]
    evaluate += ["--videos", "bear,bus", "--output", tmp_path / "out", "--device", "cpu", "--size", "48"]
    eval_davis_2016([str(flag) for flag in evaluate])
    plot_training([str(tmp_path / "s03"), "--output", str(tmp_path / "curves.png")])
    mask = Image.open(tmp_path / "out/bear/00007.png")
    assert mask.size == (64, 64) and set(np.unique(mask)) <= {0, 255}
    assert Image.open(tmp_path / "curves.png").size[0] > 400


def test_settings_reach_the_loss(run, monkeypatch):
    """The weight of every term, and the fraction of hard pixels as it falls over the iterations."""
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name.endswith("_weight")}
    weights = {name: 0.25 * number for number, name in enumerate(defaults, 1)}
    used = []

    def spy(prediction, masks, valid, *settings):
        used.append(settings)
        return compute_losses(prediction, masks, valid, *settings)

    monkeypatch.setattr("training.loop.compute_losses", spy)
    run("--id", "plain", "--stage", "0", "-i", "1", *NETWORK)
    recipe = ["--start_warm", "1", "--end_warm", "3", "--hard_fraction", "0.5"]
    recipe += [f"--{name}={weight}" for name, weight in weights.items()]
    run("--id", "own", "--stage", "0", "-i", "5", *recipe, *NETWORK)
    fractions = (1.0, 1.0, 0.75, 0.5, 0.5)
    assert used == [(1.0, *defaults.values()), *[(fraction, *weights.values()) for fraction in fractions]]


def test_processes_add_up_to_one(run, call, data, tmp_path):
    """4 clips in one pass, two processes, two backward passes, or two of each: the same gradients and scores."""
    flags = ["--stage", "0", "-i", "1", *NETWORK, "--global_batch_size", "4", "--lr", "0"]
    flags += ["--val_root", data / "DAVIS", "--val_videos", "bear,bus", "--val_every", "1", "--val_size", "48"]
    run("--id", "one", *flags)
    run("--id", "passes", *flags, "--accumulate", "2")
    assert not any(call("--id", "processes", *flags, processes=2))
    assert not any(call("--id", "both", *flags, "--accumulate", "2", processes=2))
    moments = {}
    for name in ("one", "passes", "processes", "both"):
        contents = torch.load(tmp_path / name / f"{name}_checkpoint.pth", weights_only=True)["train"]
        # After one step Adam's first moment is the gradient times 0.1.
        moments[name] = [state["exp_avg"] for state in contents["optimizer"]["state"].values()]
        assert contents["position"] == 4
    logs = [read_log(tmp_path / name / f"{name}_log.jsonl")[-1] for name in moments]
    assert [log["val_jf"] for log in logs] == pytest.approx([logs[0]["val_jf"]] * 4, abs=1e-9)
    size = max(one.norm() for one in moments["one"])
    for name in ("passes", "processes", "both"):
        for ours, one in zip(moments[name], moments["one"], strict=True):
            # Rounding moves a few pixels across the kinks of ReLU; a lost clip or a wrong factor would be of order 1.
            assert (ours - one).norm() < 1e-2 * one.norm() + 1e-6 * size


def test_frozen_layers_stay(run, tmp_path):
    run("--id", "run", "--stage", "0", "-i", "2", "--save_every", "1", "--lr", "1e-2", "--freeze_backbone", *NETWORK)
    first, second = (torch.load(tmp_path / f"run/run_{i}.pth", weights_only=True)["network"] for i in (1, 2))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert not [name for name in moved if name.startswith(("key_encoder.conv1", "key_encoder.layer1"))]
    assert {"key_encoder.layer2.0.conv1.weight", "value_encoder.backbone.conv1.weight"} < moved


def test_backbone_learns_slower_or_not_at_all(run, tmp_path):
    """Adam's first step moves every weight by the learning rate, whatever its gradient."""
    for factor in ("1", "0.1", "0"):
        flags = ["--lr", "1e-3", "--weight_decay", "0", "--backbone_lr", factor, "--save_every", "1", *NETWORK]
        run("--id", factor, "--stage", "0", "-i", "2", *flags)
        first, second = (
            torch.load(tmp_path / f"{factor}/{factor}_{i}.pth", weights_only=True)["network"] for i in (1, 2)
        )
        moved = {name: (second[name] - first[name]).float().abs().mean() for name in first}
        backbone, value = moved["key_encoder.layer2.0.conv1.weight"], moved["value_encoder.backbone.conv1.weight"]
        assert value > 1e-4 and float(backbone / value) == pytest.approx(float(factor), rel=0.6, abs=1e-9)


def test_blend_with_imagenet(run, tmp_path):
    run("--id", "start", "--stage", "0", "-i", "1", *NETWORK)
    start = torch.load(tmp_path / "start/start_1.pth", weights_only=True)["network"]
    resnet = torchvision.models.resnet18().state_dict()
    torch.save(resnet, tmp_path / "resnet18.pth")
    flags = ["--load_network", tmp_path / "start/start_1.pth", "--lr", "0", "--imagenet_blend", "0.25"]
    run("--id", "blend", "--stage", "0", "-i", "1", *flags, "--pretrained", tmp_path / "resnet18.pth")
    blend = torch.load(tmp_path / "blend/blend_1.pth", weights_only=True)["network"]
    for name, value in blend.items():
        expected = start[name]
        if name.startswith("key_encoder.") and value.is_floating_point():
            expected = 0.75 * expected + 0.25 * resnet[name.removeprefix("key_encoder.")]
        torch.testing.assert_close(value, expected)


def started(flags: list[str]) -> subprocess.Popen:
    """A training in a process group of its own, past its third iteration."""
    command = [sys.executable, "train.py", *flags, "-i", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr
    for line in process.stderr:
        if " it 3/" in line:
            break
    return process


def test_stop_signal_saves_and_exits(flags, tmp_path):
    """SIGTERM to the whole group, as launchers send it: the data workers leave the last iteration its batch."""
    process = started(flags("--id", "run", "--stage", "0", *NETWORK, "--num_workers", "1"))
    os.killpg(process.pid, signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 0 and "resume with --load_model" in messages, messages
    assert torch.load(tmp_path / "run/run_checkpoint.pth", weights_only=True)["train"]["iteration"] >= 3
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX terminals")
def test_a_closed_terminal_costs_nothing(flags, tmp_path):
    """As when a connection breaks: the progress bar and the log lines can no longer be written."""
    master, slave = os.openpty()
    command = [sys.executable, "train.py", *flags("--id", "run", "--stage", "0", *NETWORK), "-i", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while b" it 3/" not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    time.sleep(1)  # it goes on without a terminal
    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert torch.load(tmp_path / "run/run_checkpoint.pth", weights_only=True)["train"]["iteration"] >= 3


def test_killed_worker_ends_in_one_line(flags):
    process = started(flags("--id", "run", "--stage", "0", *NETWORK, "--num_workers", "1"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list a process's children")
    workers = [int(pid) for pid in children.read_text(encoding="utf-8").split()]
    workers = [pid for pid in workers if "train.py" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]
    os.kill(workers[0], signal.SIGKILL)
    _, messages = process.communicate(timeout=60)
    last = messages.strip().splitlines()[-1]
    assert process.returncode == 2 and "a data worker died" in last and "Traceback" not in messages, messages


def test_half_precision_that_does_not_pay(run, monkeypatch, capsys, tmp_path):
    """On a CPU without bf16 ``--amp bf16`` trains in float32 and says so."""
    monkeypatch.setattr("util.device.fast_precision", lambda device: torch.float32)
    run("--id", "asked", "--stage", "0", "-i", "1", "--amp", "bf16", *NETWORK)
    messages = capsys.readouterr().err
    assert "--amp bf16: half precision is slower than float32 on this CPU" in messages
    run("--id", "plain", "--stage", "0", "-i", "1", *NETWORK)
    asked, plain = (torch.load(tmp_path / f"{name}/{name}_1.pth", weights_only=True) for name in ("asked", "plain"))
    assert all(torch.equal(asked["network"][name], plain["network"][name]) for name in plain["network"])


FAULTY = {
    "empty folder": (["--static_root", "{tmp}/empty"], "no training data"),
    "another network": (["--no-lfm", "--load_network", "{tmp}/gsfm.pth"], "of another network"),
    "no checkpoint": (["--load_model", "{tmp}/gsfm.pth"], "expected a <id>_checkpoint.pth"),
    "precision": (["--amp", "fp16"], "bf16"),
    "pretrained": (["--pretrained", "{tmp}/gsfm.pth"], "no file holds the ImageNet weights of resnet50"),
    "first step": ([*NETWORK, "--lr", "1e300", "-i", "1"], "has values that are not finite; the file is damaged or tr"),
    "learning rate": ([*NETWORK, "--lr", "1e30", "-i", "6"], "loss is not finite (ce "),
}


@pytest.mark.parametrize("what", FAULTY)
def test_faults_end_in_one_line(what, tiny_network, run, tmp_path, capsys):
    flags, message = FAULTY[what]
    (tmp_path / "empty").mkdir()
    save_network(tmp_path / "gsfm.pth", tiny_network())
    with pytest.raises(SystemExit) as error:
        run("--id", "bad", "--stage", "0", *(flag.replace("{tmp}", str(tmp_path)) for flag in flags))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and message in last, last
    assert not list(tmp_path.glob("bad/*.pth"))
