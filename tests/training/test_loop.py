"""Training: it learns, it resumes bit for bit, several processes equal one, and bad input ends in one line.

The programs run as their users run them, on tiny networks and generated data.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.clip import Clip, make_clip
from inference_memory_bank import make_memory
from model.config import NetworkConfig
from model.losses import compute_losses
from model.network import Network
from model.weights import write_torch_file
from tests.conftest import TINY
from tests.scenes import discs, write_davis_2016, write_static
from train import overlap
from training.config import complete, parse_config
from training.logger import read_log

ROOT = Path(__file__).resolve().parents[1]
NETWORK = [f"--{name}={value}" for name, value in TINY.items()] + ["--pretrained", "none"]
SMALL = ["--crop", "48", "--global_batch_size", "2", "--num_workers", "0", "--device", "cpu", "--log_every", "3"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_static(root / "static" / "ours")
    write_davis_2016(root / "DAVIS" / "2016", {"bear": 1, "bus": 2})
    return root


@pytest.fixture
def call(data, tmp_path):
    """``call(*flags, launcher=[…])``: run train.py in a process of its own, with its saves in tmp_path."""

    def run(*flags, launcher=(), program=("train.py",), check=True, **options):
        folders = ["--static_root", data / "static", "--davis_root", data / "DAVIS", "--saves", tmp_path]
        command = [sys.executable, *launcher, *program, *SMALL, *folders, *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, **options
        )
        assert not check or result.returncode == 0, result.stderr[-3000:]
        return result

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["network"]


def assert_same_weights(first: Path, second: Path) -> None:
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("preset", ["gsfm", "gc"])
def test_two_clips_are_learned(preset):
    clips = []
    for seed in range(2):
        frames, ids = discs(seed, 3)
        clips.append(make_clip((frames.transpose(0, 3, 1, 2) / 255).astype(np.float32), ids, [1, 2], 2, ""))
    clip = Clip(*(torch.stack(part) for part in zip(*[clip[:3] for clip in clips], strict=True)), "")
    torch.manual_seed(0)
    network = Network(NetworkConfig.preset(preset, **TINY)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    best = 0.0
    for _ in range(150):
        prediction = network(clip.frames, clip.masks[:, 0], clip.valid, make_memory(network.config))
        intersection, union = overlap(prediction, clip)
        best = max(best, float(intersection / union))
        if best > 0.93:
            break
        optimizer.zero_grad()
        sum(compute_losses(prediction, clip.masks[:, 1:], clip.valid, 1.0, 0.05).values()).backward()
        optimizer.step()
    assert best > 0.9


def test_published_commands_end_to_end(call, tmp_path, data):
    """Stage 0 and on top of it stage 3, each by the published launcher; resume; evaluate; plot."""
    launcher = ["-m", "torch.distributed.launch", "--master_port", free_port(), "--nproc_per_node=2"]
    call("--id", "s0", "--stage", "0", "-i", "4", *NETWORK, launcher=launcher)
    assert weights(tmp_path / "s0/s0_4.pth")["value_encoder.backbone.conv1.weight"].shape[1] == 4
    stage_3 = ["--id", "s03", "--stage", "3", "-i", "4", "--checkpoint_every", "2", "--image_every", "2"]
    call(*stage_3, "--load_network", tmp_path / "s0/s0_4.pth", launcher=launcher)
    resumed = call("--id", "s03", "--stage", "3", "-i", "6", "--load_model", tmp_path / "s03/s03_checkpoint.pth")
    assert "6/6" in resumed.stderr
    log = read_log(tmp_path / "s03/s03_log.jsonl")
    assert [entry["iteration"] for entry in log if "iteration" in entry] == [2, 3, 4, 6]
    assert {"loss", "ce", "boundary", "iou", "lr", "seconds", "data_seconds", "peak_gib"} < log[-1].keys()
    assert log[0]["config"]["iterations"] == 4 and log[0]["config"]["network"]["single_object"] is False
    assert list((tmp_path / "s03/tensorboard").iterdir())

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    evaluate = ["eval_davis_2016.py", "--model", tmp_path / "s03/s03_6.pth", "--davis_path", data / "DAVIS/2016"]
    evaluate += ["--split", "train", "--videos", "bear,bus", "--output", tmp_path / "out", "--device", "cpu"]
    for program in (evaluate, ["scripts/plot_training.py", tmp_path / "s03", "--output", tmp_path / "curves.png"]):
        result = subprocess.run(
            [sys.executable, *map(str, program)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    mask = Image.open(tmp_path / "out/bear/00007.png")
    assert mask.size == (64, 64) and set(np.unique(mask)) <= {0, 255}
    assert Image.open(tmp_path / "curves.png").size[0] > 400


# Runs train.py and dies with the second checkpoint: in the middle of writing it, or right after.
KILLER = """
import os, signal, sys, torch, train
inside, save, checkpoints = {inside}, torch.save, 0
def killed(contents, file, **options):
    global checkpoints
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
torch.save = killed
if __name__ == "__main__":
    train.main()
"""


@pytest.mark.parametrize("processes, inside", [(1, True), (2, False)])
def test_resume_is_exact(call, tmp_path, processes, inside):
    """12 iterations straight, and 12 with a kill −9 at 6 and a resume, give the same bits."""
    launcher = {1: [], 2: TORCHRUN}[processes]
    flags = ["--stage", "3", "--checkpoint_every", "3", "--save_every", "3", "-i", "12"]
    flags += ["--num_workers", str(2 * (processes - 1))]
    call("--id", "straight", *flags, *NETWORK, launcher=launcher)
    (tmp_path / "killer.py").write_text(KILLER.format(inside=inside))
    program = [tmp_path / "killer.py"]
    assert call("--id", "killed", *flags, *NETWORK, launcher=launcher, program=program, check=False).returncode != 0
    checkpoint = tmp_path / "killed/killed_checkpoint.pth"
    assert torch.load(checkpoint, weights_only=True)["train"]["iteration"] == (3 if inside else 6)
    call("--id", "killed", "--stage", "3", *flags[-2:], "--load_model", checkpoint, launcher=launcher)
    assert_same_weights(tmp_path / "straight/straight_12.pth", tmp_path / "killed/killed_12.pth")


def test_processes_add_up_to_one(call, tmp_path):
    """2 processes × 1 clip, 1 process × 2 clips, and 2 backward passes of 1 clip give the same gradients."""
    flags = ["--stage", "0", "-i", "1", *NETWORK]
    call("--id", "one", *flags)
    call("--id", "two", *flags, launcher=TORCHRUN)
    call("--id", "parts", *flags, "--accumulate", "2")
    moments = {}
    for run in ("one", "two", "parts"):
        contents = torch.load(tmp_path / run / f"{run}_checkpoint.pth", weights_only=True)["train"]
        # After one step Adam's first moment is the gradient times 0.1.
        moments[run] = [state["exp_avg"] for state in contents["optimizer"]["state"].values()]
        assert contents["position"] == 2
    size = max(one.norm() for one in moments["one"])
    for run in ("two", "parts"):
        for ours, one in zip(moments[run], moments["one"], strict=True):
            # Rounding moves a few pixels across the kinks of ReLU; a lost clip or a wrong factor would be of order 1.
            assert (ours - one).norm() < 1e-2 * one.norm() + 1e-6 * size


def test_resume_takes_a_changed_recipe(call, tmp_path):
    flags = ["--stage", "0", "--log_every", "1"]
    call("--id", "run", *flags, *NETWORK, "-i", "2", "--lr", "1e-4", "--steps", "1")
    checkpoint = tmp_path / "run/run_checkpoint.pth"
    # The records of a killed run: an entry after the checkpoint, and half a line.
    with (tmp_path / "run/run_log.jsonl").open("a") as log:
        log.write('{"iteration": 3, "lr": 7}\n{"iteration": 4, "lo')
    changed = [
        "-i",
        "6",
        "--lr",
        "1e-3",
        "--steps",
        "1",
        "4",
        "--gamma",
        "0.5",
        "--weight_decay",
        "0.1",
        "--amp",
        "bf16",
    ]
    call("--id", "run", *flags, "--load_model", checkpoint, *changed)
    rates = {entry["iteration"]: entry["lr"] for entry in read_log(tmp_path / "run/run_log.jsonl") if "lr" in entry}
    assert rates == pytest.approx({1: 1e-4, 2: 1e-5, 3: 5e-4, 4: 5e-4, 5: 2.5e-4, 6: 2.5e-4})
    saved = torch.load(checkpoint, weights_only=True)["train"]
    assert saved["optimizer"]["param_groups"][0]["weight_decay"] == 0.1 and saved["settings"]["gamma"] == 0.5


def test_stop_signal_saves_and_exits(data, tmp_path):
    """SIGTERM to the whole group, as launchers send it: the data workers leave the last iteration its batch."""
    command = [sys.executable, "train.py", *SMALL, "--static_root", data / "static", "--saves", tmp_path]
    command += ["--id", "run", "--stage", "0", "-i", "100000", *NETWORK, "--num_workers", "1"]
    run = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in run.stderr:
        if " it 3/" in line:
            break
    os.killpg(run.pid, signal.SIGTERM)
    _, messages = run.communicate(timeout=60)
    assert run.returncode == 0 and "resume with --load_model" in messages, messages
    assert torch.load(tmp_path / "run/run_checkpoint.pth", weights_only=True)["train"]["iteration"] >= 3
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(run.pid, 0)


def test_killed_worker_ends_in_one_line(data, tmp_path):
    command = [sys.executable, "train.py", *SMALL, "--static_root", data / "static", "--saves", tmp_path]
    command += ["--id", "run", "--stage", "0", "-i", "100000", *NETWORK, "--num_workers", "1"]
    run = subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in run.stderr:
        if " it 3/" in line:
            break
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.exists():
        run.kill()
        pytest.skip("this system does not list a process's children")
    workers = [int(pid) for pid in children.read_text().split()]
    workers = [pid for pid in workers if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    _, messages = run.communicate(timeout=60)
    last = messages.strip().splitlines()[-1]
    assert run.returncode == 2 and "a data worker died" in last and "Traceback" not in messages, messages


BAD = {
    "empty folder": (["--stage", "0", "--static_root", "{tmp}/empty"], "no training data"),
    "unknown stage": (["--stage", "7"], "invalid choice: 7"),
    "another run": (["--stage", "0", "--load_model", "{tmp}/run_checkpoint.pth", "-i", "9"], "holds a run already"),
    "another network": (["--stage", "0", "--model", "stcn", "--load_network", "{tmp}/gsfm.pth"], "of another network"),
    "no checkpoint": (["--stage", "0", "--load_model", "{tmp}/gsfm.pth"], "expected a <id>_checkpoint.pth"),
    "two batch sizes": (["--stage", "0", "-b", "2"], "give one of them"),
    "crop": (["--stage", "0", "--crop", "50"], "multiple of 16"),
    "global batch": (["--stage", "0", "--accumulate", "4"], "expected a multiple of 4"),
    "precision": (["--stage", "0", "--amp", "fp16"], "bf16"),
    "pretrained": (
        ["--stage", "0", "--pretrained", "{tmp}/gsfm.pth"],
        "no file holds the ImageNet weights of resnet50",
    ),
    "learning rate": (["--stage", "0", *NETWORK, "--lr", "1e30", "-i", "6"], "loss is not finite (ce "),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_ends_in_one_line(what, tiny_network, data, tmp_path, monkeypatch, capsys):
    import train
    from model.network import save_network

    flags, message = BAD[what]
    (tmp_path / "empty").mkdir()
    if what == "another run":
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "bad_1.pt").touch()
        train_state = {"iteration": 1, "position": 2, "settings": {"stage": 0}}
        write_torch_file(tmp_path / "run_checkpoint.pth", {"format": 1, "train": train_state})
    save_network(tmp_path / "gsfm.pth", tiny_network())
    monkeypatch.setattr(train, "StopRequest", lambda: type("Never", (), {"requested": False})())
    base = ["--id", "bad", *SMALL, "--static_root", str(data / "static"), "--saves", str(tmp_path)]
    with pytest.raises(SystemExit) as error:
        train.main([*base, *(flag.replace("{tmp}", str(tmp_path)) for flag in flags)])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and message in last, last
    assert not list(tmp_path.glob("bad/*.pth"))


def test_overwrite_replaces_a_run_only_when_the_new_one_is_ready(call, tmp_path):
    call("--id", "run", "--stage", "0", "-i", "2", *NETWORK)
    failed = call("--id", "run", "--stage", "0", "--overwrite", "--load_network", tmp_path / "none.pth", check=False)
    assert failed.returncode == 2 and (tmp_path / "run/run_2.pth").exists()
    call("--id", "run", "--stage", "3", "-i", "1", "--overwrite", "--load_network", tmp_path / "run/run_2.pth")
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["run_1.pth", "run_checkpoint.pth"]


def test_existing_run_is_not_replaced(data, tmp_path, capsys):
    import train

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine_100.pth").touch()
    flags = ["--id", "mine", "--stage", "0", *SMALL, "--static_root", str(data / "static"), "--saves", str(tmp_path)]
    with pytest.raises(SystemExit):
        train.main(flags)
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "mine" / "mine_100.pth").exists()


def test_full_disk_keeps_the_previous_checkpoint(tiny_network, tmp_path):
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


def test_stage_presets_and_resumed_settings():
    """Every value of the published table, and what a resumed run keeps."""
    table = {0: (4e-5, 16, 40_000, 20_000, 3000, 10_000), 1: (6e-5, 8, 65_000, 50_000, 5000, 20_000)}
    table |= {2: (6e-5, 8, 40_000, 30_000, 3000, 10_000), 3: (4e-5, 8, 30_000, 25_000, 3000, 15_000)}
    for stage, (lr, batch, iterations, step, start, end) in table.items():
        config = complete(*parse_config(["--id", "x", "--stage", str(stage), "--local-rank=0"]), None, 1)
        assert (config.lr, config.batch_size, config.iterations) == (lr, batch, iterations)
        assert (config.steps, config.start_warm, config.end_warm) == ((step,), start, end)
        assert (config.weight_decay, config.gamma, config.boundary_weight) == (1e-7, 0.1, 0.05)
    first = complete(*parse_config(["--id", "x", "--stage", "3", "-b", "4", "--lr", "1e-3", "--steps", "5"]), None, 1)
    saved = json.loads(json.dumps(first.to_dict()))
    resumed = ["--id", "y", "--stage", "3", "--local_rank", "1", "--load_model", "x.pth", "--lr", "1e-4"]
    second = complete(*parse_config(resumed), saved, 2)
    assert (second.batch_size, second.lr, second.steps, second.id) == (4, 1e-4, (5,), "y")
