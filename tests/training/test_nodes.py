"""Two launchers of two processes each, on this machine: they equal one, also where one dies and comes back."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import eval_generic
import evaluation
import train
import training.loop
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
                second.join(300)
                assert second.exitcode == -signal.SIGKILL
                meanwhile()
        for node in (first, second):
            node.join(300)
            assert node.exitcode == 0
    finally:
        for node in nodes:
            node.kill()


def dying_train(arguments: list[str]) -> None:
    """The node dies in its third iteration."""
    iterations = 0

    def dying_losses(*values: Any) -> dict[str, torch.Tensor]:
        nonlocal iterations
        iterations += 1
        if iterations == 3:
            os.killpg(0, signal.SIGKILL)
        return compute_losses(*values)

    with mock.patch.object(training.loop, "compute_losses", dying_losses):
        train.main(arguments)


def dying_evaluation(arguments: list[str]) -> None:
    """The node dies when a video is finished, whoever has segmented it."""

    def dying_queue(items: Sequence) -> Iterator:
        while not finished_videos(Path(arguments[-1])):
            time.sleep(0.05)
        os.killpg(0, signal.SIGKILL)
        yield from items

    if os.environ["LOCAL_RANK"] == "0":
        mock.patch.object(evaluation, "as_free", dying_queue).start()
    eval_generic.main(arguments)


def finished_videos(output: Path) -> list[str]:
    records = (output / ".records").glob("*.json")
    return [path.stem for path in records if json.loads(path.read_bytes())["files"]]


def test_training_goes_on_from_the_last_checkpoint(call, flags, tmp_path):
    """The second node dies in iteration 3: two nodes give the same bits as one, before and after."""
    recipe = ["--stage", "0", "-i", "4", "--checkpoint_every", "2", "--save_every", "2", "--log_every", "1", *NETWORK]
    recipe += ["--global_batch_size", "4"]
    assert not any(call("--id", "one", *recipe, processes=4))
    run_nodes(train.main, dying_train, flags("--id", "two", *recipe, "--resume"))
    log = read_log(tmp_path / "two/two_log.jsonl")
    assert [entry.get("iteration") for entry in log] == [None, 1, 2, None, 3, 4]  # None: the settings of a start
    for name in ("2", "4", "checkpoint"):
        assert_same_weights(tmp_path / f"one/one_{name}.pth", tmp_path / f"two/two_{name}.pth")
    one, two = (read_checkpoint(tmp_path / f"{name}/{name}_checkpoint.pth")["train"] for name in ("one", "two"))
    assert one["iteration"] == two["iteration"] == 4 and one["position"] == two["position"] == 16


def test_evaluation_keeps_finished_videos(tiny_weights, tmp_path):
    videos = [f"video{number}" for number in range(8)]
    for shift, video in enumerate(videos):
        for t in range(4):
            write_image(tmp_path / f"data/JPEGImages/{video}/{t:05d}.jpg", frame(t + shift))
        write_mask(tmp_path / f"data/Annotations/{video}/00000.png", ids_at(shift, 1, 2))
    finished: dict[Path, int] = {}

    def remember() -> None:
        for video in finished_videos(tmp_path / "two"):
            path = tmp_path / f"two/{video}/00003.png"
            finished[path] = path.stat().st_mtime_ns

    arguments = ["--model", tiny_weights, "--data_path", tmp_path / "data", "--device", "cpu", "--output"]
    words = [str(word) for word in arguments]
    eval_generic.main([*words, str(tmp_path / "one")])
    run_nodes(eval_generic.main, dying_evaluation, [*words, str(tmp_path / "two")], remember)
    assert finished and all(path.stat().st_mtime_ns == written for path, written in finished.items())
    results = [
        {path.relative_to(folder): path.read_bytes() for path in folder.glob("video*/*.png")}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert len(results[0]) == 32 and results[0] == results[1]
