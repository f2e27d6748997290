"""Two launchers of two processes each, on this machine: they equal one, also where one dies and comes back."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import eval_generic
import evaluation
import train
from datasets.images import write_image, write_mask
from model.losses import compute_losses
from tests.folders import frame, ids_at
from tests.training.conftest import CONTEXT, NETWORK, free_port
from tests.training.test_resume import assert_same_weights
from training.checkpoint import read_checkpoint
from training.logger import read_log

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")


def launcher(port: int, hosts: bool, main: Callable, arguments: list[str]) -> None:
    """What ``torchrun`` is on one of two nodes; it shares a process group with its workers."""
    os.setpgid(0, 0)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as docs/SCALING.md says
    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=2,
        run_id="run",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs={"is_host": hosts, "keep_alive_interval": 1, "keep_alive_max_attempt": 3},
        local_addr="127.0.0.1",
        max_restarts=1,
        start_method="forkserver",
    )
    elastic_launch(config, worker)(os.getpid(), main, arguments)


def worker(group: int, main: Callable, arguments: list[str]) -> None:
    os.setpgid(0, group)
    torch.set_num_threads(1)
    main(arguments)


def run_nodes(main: Callable, dying_main: Callable, arguments: list[str], meanwhile: Callable = lambda: None) -> None:
    """Run a program on two nodes, of which the second dies once; ``meanwhile`` is called before it comes back."""
    port = free_port()
    first = CONTEXT.Process(target=launcher, args=(port, True, main, arguments))
    first.start()
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    nodes = [first]
    try:
        for second_main in (dying_main, main):
            second = CONTEXT.Process(target=launcher, args=(port, False, second_main, arguments))
            nodes.append(second)
            second.start()
            if second_main is dying_main:
                second.join(120)
                assert second.exitcode == -signal.SIGKILL
                meanwhile()
        for node in (first, second):
            node.join(120)
            assert node.exitcode == 0
    finally:
        for node in nodes:
            node.kill()


def die_at_call(number: int, function: Callable) -> Callable:
    """``function``, but the whole node dies at its n-th call."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            os.killpg(0, signal.SIGKILL)
        return function(*arguments, **options)

    return call


def dying_train(arguments: list[str]) -> None:
    with mock.patch.object(train, "compute_losses", die_at_call(3, compute_losses)):
        train.main(arguments)


def dying_evaluation(arguments: list[str]) -> None:
    """The first process of the node begins its second video, and the node dies."""
    begin = evaluation._segment_to_files
    if os.environ["LOCAL_RANK"] == "0":
        begin = die_at_call(2, begin)
    with mock.patch.object(evaluation, "_segment_to_files", begin):
        eval_generic.main(arguments)


def test_training_goes_on_from_the_last_checkpoint(call, flags, tmp_path):
    """The second node dies in iteration 3. Until then two nodes give the same bits as one, then the same up to rounding.

    With more than two processes the first step of a start adds gradients in another order than later steps.
    """
    recipe = ["--stage", "0", "-i", "3", "--checkpoint_every", "2", "--save_every", "2", "--log_every", "1", *NETWORK]
    recipe += ["--global_batch_size", "4"]
    assert not any(call("--id", "one", *recipe, processes=4))
    run_nodes(train.main, dying_train, flags("--id", "two", *recipe, "--resume"))
    log = read_log(tmp_path / "two/two_log.jsonl")
    assert [entry.get("iteration") for entry in log] == [None, 1, 2, None, 3]  # None: the settings of a start
    assert_same_weights(tmp_path / "one/one_2.pth", tmp_path / "two/two_2.pth")
    one, two = (read_checkpoint(tmp_path / f"{name}/{name}_checkpoint.pth")["train"] for name in ("one", "two"))
    assert one["iteration"] == two["iteration"] == 3 and one["position"] == two["position"] == 12
    moments = [[state["exp_avg"] for state in run["optimizer"]["state"].values()] for run in (one, two)]
    size = max(moment.norm() for moment in moments[0])
    for ours, theirs in zip(*moments, strict=True):
        assert (ours - theirs).norm() < 1e-2 * ours.norm() + 1e-6 * size


def test_evaluation_keeps_finished_videos(tiny_weights, tmp_path):
    videos = [f"video{number}" for number in range(8)]
    for shift, video in enumerate(videos):
        for t in range(4):
            write_image(tmp_path / f"data/JPEGImages/{video}/{t:05d}.jpg", frame(t + shift))
        write_mask(tmp_path / f"data/Annotations/{video}/00000.png", ids_at(shift, 1, 2))
    finished: dict[Path, int] = {}

    def remember() -> None:
        finished.update((path, path.stat().st_mtime_ns) for path in (tmp_path / "two").glob("video*/00003.png"))

    arguments = ["--model", tiny_weights, "--data_path", tmp_path / "data", "--device", "cpu", "--output"]
    words = [str(word) for word in arguments]
    eval_generic.main([*words, str(tmp_path / "one")])
    run_nodes(eval_generic.main, dying_evaluation, [*words, str(tmp_path / "two")], remember)
    assert finished and all(path.stat().st_mtime_ns == time for path, time in finished.items())
    results = [
        {path.relative_to(folder): path.read_bytes() for path in folder.glob("video*/*.png")}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert len(results[0]) == 32 and results[0] == results[1]
