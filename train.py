"""Train GSFM, STCN or Global Context: stage 0 on static images, stages 1 to 3 on video.

    torchrun --nproc_per_node=8 train.py --id s0-GSFM --stage 0
    python train.py --id try --stage 0 -b 2 -i 100 --device cpu        # one process, no launcher

`python train.py --help` lists every setting; docs: README, section Training.
"""

import dataclasses
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from datasets.clip import Clip
from datasets.images import draw_masks
from datasets.loader import build_dataset, build_loader, parse_extra, worker_errors
from inference_memory_bank import make_memory
from model.config import NetworkConfig, preset_settings
from model.losses import compute_losses, hard_fraction
from model.network import Network, Prediction, load_weights, save_network
from model.weights import FORMAT, read_network_file, read_torch_file, write_network_file
from training.config import TrainConfig, complete, parse_config
from training.logger import NullLogger, TrainLogger, log, setup_console
from util.device import keep_freed_memory, peak_memory, pick_device
from util.distributed import (
    any_process,
    barrier,
    gather,
    local_rank,
    process_group,
    rank,
    sum_over_processes,
    world_size,
)
from util.errors import InputError, exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    config, given = parse_config(arguments)
    setup_console(verbose=rank() == 0)
    resumed = read_training_checkpoint(config.load_model) if config.load_model else None
    config = complete(config, given, resumed and resumed["train"]["settings"], world_size())
    device = pick_device(config.device, local_rank())
    keep_freed_memory(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = config.benchmark
    with process_group(device), worker_errors():
        train(config, given, resumed, device)


def train(config: TrainConfig, given: set[str], resumed: dict[str, Any] | None, device: torch.device) -> None:
    """The whole run, from building the network to the last checkpoint; the loop reads top to bottom."""
    torch.manual_seed(config.seed)
    precision = autocast_type(config, device)
    clips_per_step = config.batch_size * config.accumulate * world_size()
    done = resumed["train"] if resumed else {"iteration": 0, "position": 0}
    start, position = done["iteration"], done["position"]
    if start >= config.iterations:
        raise InputError(f"{config.load_model}: already at iteration {start} of --iterations {config.iterations}")

    # Data first: faulty folders should fail before networks are built.
    dataset = build_dataset(
        config.stage,
        static_root=config.static_root,
        davis_root=config.davis_root,
        yv_root=config.yv_root,
        bl_root=config.bl_root,
        yv_list=config.yv_list,
        extra=[parse_extra(text) for text in config.extra],
        num_frames=config.num_frames,
        size=config.crop,
        synthetic=config.synthetic,
        paste=config.paste,
    )
    loader = build_loader(
        dataset,
        batch_size=config.batch_size,
        start=position,
        stop=position + (config.iterations - start) * clips_per_step,
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
        num_workers=config.num_workers,
        pin_memory=device.type == "cuda",
    )
    folder = config.saves / config.id
    checkpoint = folder / f"{config.id}_checkpoint.pth"
    old = existing_run(config, folder)

    network = build_network(config, given, resumed).to(device, memory_format=torch.channels_last)
    fused = device.type in ("cuda", "cpu")
    optimizer = torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    if resumed:
        optimizer.load_state_dict(done["optimizer"])
        for group in optimizer.param_groups:  # flags may have changed the recipe
            group |= {"initial_lr": config.lr, "weight_decay": config.weight_decay}
        if done["scaler"]:  # a run without fp16 has none
            scaler.load_state_dict(done["scaler"])
        restore_rng(done["rng"])
        resumed.clear()  # as large as network and optimiser together
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: config.gamma ** sum(drop <= step for drop in config.steps), last_epoch=start - 1
    )
    network.checkpoint_activations = config.checkpoint_activations
    if config.compile:
        network.compile()
    model = network
    if world_size() > 1:
        model = DistributedDataParallel(network, [device] if device.type == "cuda" else None)

    start_folder(folder, old)
    parameters = sum(p.numel() for p in network.parameters())
    log.info("%s: %.1f M parameters on %s, %s", network.config, parameters / 1e6, device, precision or "float32")
    logger = TrainLogger(folder, config.id, start, config.iterations) if rank() == 0 else NullLogger()
    meter, stop = Meter(device, config.accumulate), StopRequest()
    batches = iter(loader)
    model.train()
    with logger:
        logger.config(config.to_dict() | {"network": dataclasses.asdict(network.config), "data": str(dataset)})
        for iteration in range(start + 1, config.iterations + 1):
            # Step
            fraction = hard_fraction(iteration - 1, config.start_warm, config.end_warm)
            for part in range(config.accumulate):
                began = time.perf_counter()
                batch = next(batches)
                clip = Clip(*(x.to(device, non_blocking=True) for x in batch[:3]), batch.name)
                meter.data_seconds += time.perf_counter() - began
                last = part == config.accumulate - 1
                with nullcontext() if last or model is network else model.no_sync():
                    with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                        prediction = model(clip.frames, clip.masks[:, 0], clip.valid, make_memory(network.config))
                    losses = compute_losses(prediction, clip.masks[:, 1:], clip.valid, fraction, config.boundary_weight)
                    scaler.scale(sum(losses.values()) / config.accumulate).backward()
                meter.add(losses, *overlap(prediction, clip))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            learning_rate = scheduler.get_last_lr()[0]
            scheduler.step()
            position += clips_per_step
            logger.progress(iteration)

            # Log
            stopping = any_process(stop.requested)
            finished = iteration == config.iterations
            saving = finished or stopping or iteration % config.checkpoint_every == 0
            keeping = finished or iteration % config.save_every == 0
            if saving or keeping or iteration % config.log_every == 0:  # no file after a loss that is not finite
                logger.scalars(iteration, meter.flush(iteration) | {"lr": learning_rate, "hard_fraction": fraction})
            if iteration % config.image_every == 0 or iteration == start + 1:
                logger.image(iteration, "frames | truth | prediction", picture(clip, prediction))

            # Save
            if saving:
                state = {
                    "iteration": iteration,
                    "position": position,
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "scaler": scaler.state_dict(),
                    "rng": gather(rng_state()),
                    "settings": config.to_dict(),
                }
                if rank() == 0:
                    write_network_file(
                        checkpoint, dataclasses.asdict(network.config), network.state_dict(), train=state
                    )
                    log.info("saved %s", checkpoint)
            if keeping and rank() == 0:
                save_network(folder / f"{config.id}_{iteration}.pth", network)
            if stopping and not finished:
                log.warning("stopped at iteration %d; resume with --load_model %s", iteration, checkpoint)
                break
    barrier()


def autocast_type(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """fp16 on CUDA unless told otherwise; half precision on other devices only when asked for."""
    if config.no_amp or (config.amp is None and device.type != "cuda"):
        return None
    if config.amp == "fp16" and device.type == "cpu":
        raise InputError("--amp fp16: needs a GPU; on the CPU use --amp bf16 or none")
    return torch.bfloat16 if config.amp == "bf16" else torch.float16


def build_network(config: TrainConfig, given: set[str], resumed: dict[str, Any] | None) -> Network:
    """A new network, or the one that ``--load_model`` / ``--load_network`` describes, with its weights.

    A file's own settings count unless the command line gives others. Raises `InputError` when the weights do not fit.
    """
    asked = preset_settings(config.model) if "model" in given else {}
    asked |= config.network_settings()
    if resumed:
        network = Network(NetworkConfig.from_file(resumed["config"], config.load_model))
        if wrong := [name for name, value in asked.items() if resumed["config"][name] != value]:
            differ = ", ".join(f"{name} {resumed['config'][name]}, not {asked[name]}" for name in wrong)
            raise InputError(f"{config.load_model}: the run to resume has {differ}")
        network.load_state_dict(resumed["network"])
    elif config.load_network:
        settings, state = read_network_file(config.load_network)
        network = Network(NetworkConfig.from_file(settings | asked, config.load_network))
        load_weights(network, state, config.load_network)
        log.info("weights from %s", config.load_network)
    else:
        network = Network(NetworkConfig.preset(config.model, **asked))
        if config.pretrained != ("none",):
            network.load_imagenet(None if config.pretrained == ("imagenet",) else [Path(p) for p in config.pretrained])
    return network


def existing_run(config: TrainConfig, folder: Path) -> list[Path]:
    """What a run of the same id has left, to be replaced when all else is ready; nothing when it is resumed.

    Raises `InputError` if there is something and neither ``--overwrite`` nor the resumed file allows for it.
    """
    old = [*folder.glob(f"{config.id}_*"), *folder.glob("tensorboard")]
    if config.load_model and config.load_model.resolve().parent == folder.resolve():
        return []
    if old and not config.overwrite:
        raise InputError(
            f"{folder}: holds a run already; resume it with --load_model {folder}/{config.id}_checkpoint.pth, "
            f"choose another --id, or replace it with --overwrite"
        )
    return old


def start_folder(folder: Path, old: list[Path]) -> None:
    """Make the run's folder, without ``old``. Raises `InputError` when it cannot be made."""
    barrier()  # every process has read what it needs before one of them writes
    if rank() == 0:
        try:
            for path in old:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror})") from error


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a ``<id>_checkpoint.pth``. Raises `InputError` for another kind of file."""
    contents = read_torch_file(path)
    if not isinstance(contents, dict) or "train" not in contents or contents.get("format") != FORMAT:
        raise InputError(f"{path}: expected a <id>_checkpoint.pth to resume; for weights alone use --load_network")
    return contents


def rng_state() -> dict[str, torch.Tensor]:
    """This process's generators. Data needs none: position in the stream decides each sample (`datasets.loader`)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(states: list[dict[str, torch.Tensor]]) -> None:
    """Take up this rank's generators; a rank that did not exist before starts from the seed."""
    if rank() < len(states):
        torch.set_rng_state(states[rank()]["cpu"])
        if "cuda" in states[rank()] and torch.cuda.is_available():
            torch.cuda.set_rng_state(states[rank()]["cuda"])


def overlap(prediction: Prediction, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels in the intersection and in the union of predicted and true masks, over all objects and frames."""
    with torch.no_grad():
        predicted = torch.softmax(prediction.logits, dim=2)[:, :, 1:] > 0.5
        true = clip.masks[:, 1:] > 0.5
        return (predicted & true).sum().float(), (predicted | true).sum().float()


class Meter:
    """Collects an interval's numbers on the device; one reduction and one synchronisation when it is flushed."""

    def __init__(self, device: torch.device, accumulate: int):
        self.device, self.accumulate = device, accumulate
        self._clear()

    def _clear(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.data_seconds, self.began = 0.0, time.perf_counter()

    def add(self, losses: dict[str, torch.Tensor], intersection: torch.Tensor, union: torch.Tensor) -> None:
        self.names = list(losses)
        self.rows.append(torch.stack([*(loss.detach() for loss in losses.values()), intersection, union]))

    def flush(self, iteration: int) -> dict[str, float]:
        """Means since the last flush. Raises `InputError` with the parts of the first loss that was not finite."""
        rows = sum_over_processes(torch.stack(self.rows)).cpu()
        losses = rows[:, : len(self.names)] / world_size()
        bad = (~losses.isfinite().all(1)).nonzero()
        if len(bad):
            first = int(bad[0, 0])
            at = iteration - (len(rows) - 1 - first) // self.accumulate
            parts = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, losses[first], strict=True))
            raise InputError(
                f"the loss is not finite ({parts}) at iteration {at}; "
                f"nothing was saved since; lower --lr, or train with --amp bf16 or --no_amp"
            )
        intersection, union = rows[:, -2:].sum(0).tolist()
        seconds = time.perf_counter() - self.began
        values = dict(zip(self.names, losses.mean(0).tolist(), strict=True))
        values = {"loss": sum(values.values())} | values | {"iou": intersection / max(union, 1)}
        iterations = len(rows) / self.accumulate
        values |= {"seconds": seconds / iterations, "data_seconds": self.data_seconds / iterations}
        self._clear()
        return values | {"peak_gib": peak_memory(self.device)}


def picture(clip: Clip, prediction: Prediction) -> np.ndarray:
    """The first clip of the batch, H×W×3 uint8: a row per predicted frame, with frame, truth and prediction."""
    number = torch.arange(1, clip.masks.shape[2] + 1, device=clip.masks.device).view(-1, 1, 1)
    true = (clip.masks[0, 1:] * number).sum(1).byte().cpu().numpy()
    predicted = prediction.logits[0].detach().argmax(1).byte().cpu().numpy()
    frames = (clip.frames[0, 1:].permute(0, 2, 3, 1) * 255).byte().cpu().numpy()
    rows = [
        np.concatenate([frame, draw_masks(frame, t), draw_masks(frame, p)], axis=1)
        for frame, t, p in zip(frames, true, predicted, strict=True)
    ]
    return np.concatenate(rows)


class StopRequest:
    """SIGTERM and Ctrl-C ask for a checkpoint and an end; a second signal ends at once."""

    def __init__(self):
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


if __name__ == "__main__":
    main()
