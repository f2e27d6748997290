"""Set-up of a training: data, network, optimiser, resuming, records. The loop itself is in ``train.py``."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datasets.clip import Clip, PackedClip
from datasets.loader import clip_batches
from datasets.mixture import build_dataset
from model.network import Network, load_weights, save_network
from model.weights import read_network_file
from training.averaging import WeightAverage
from training.checkpoint import TrainingState, read_checkpoint
from training.config import TrainConfig
from training.folder import earlier_run, run_folder
from training.logger import Meter, NullLogger, TrainLogger, log
from training.validation import HeldOutVideo, held_out_videos, validate
from util.device import half_precision
from util.distributed import any_process, rank, world_size
from util.errors import InputError
from util.settings import to_plain


@dataclass
class Run:
    """A training that is ready to go on: what the loop in ``train.py`` works with.

    Attributes:
        state: network, optimiser and what else the checkpoint holds.
        model: the network, wrapped for several processes where there are several.
        precision: autocast type of the forward pass; None: float32.
        batches: this process's batches, from the first that is left to the last.
        clips_per_step: of all processes.
    """

    config: TrainConfig
    device: torch.device
    precision: torch.dtype | None
    state: TrainingState
    model: nn.Module
    batches: Iterator[PackedClip]
    clips_per_step: int
    held_out: list[HeldOutVideo]
    meter: Meter
    logger: TrainLogger | NullLogger
    stop: "StopRequest"

    @property
    def folder(self) -> Path:
        return self.config.saves / self.config.id

    def next_clip(self) -> Clip:
        """The next batch, on the device."""
        with self.meter.loading():
            return next(self.batches).unpack(self.device)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.precision, self.precision is not None)

    def gradient_sync(self, last: bool) -> AbstractContextManager:
        """Processes exchange gradients in the ``last`` backward pass of a step."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def validate(self) -> dict[str, float]:
        """Scores of the held-out videos; the weights are kept as ``<id>_best.pth`` if they are the best so far."""
        scores = validate(self.state.evaluated, self.held_out, self.device, self.precision)
        if scores["val_jf"] > self.state.best:
            self.state.best = scores["val_jf"]
            self.save_weights("best")
        return scores

    def save_weights(self, name: str | int) -> None:
        """Write ``<id>_<name>.pth``, for evaluation and for further training: averaged weights if there are any."""
        if rank() == 0:
            save_network(self.folder / f"{self.config.id}_{name}.pth", self.state.evaluated)

    def save_checkpoint(self) -> Path:
        """Write ``<id>_checkpoint.pth``; every process has to call this."""
        path = self.folder / f"{self.config.id}_checkpoint.pth"
        self.state.save(path, self.config.saved_settings())
        log.info("saved %s", path)
        return path


@contextmanager
def start_run(config: TrainConfig, device: torch.device) -> Iterator[Run]:
    """Set up a new or resumed run, and hold its folder until the end.

    Raises `InputError` for faulty data, files that do not fit, and a folder that another run has or that cannot be
    written; nothing is written before all of that is checked.
    """
    torch.manual_seed(config.recipe.seed)
    recipe, machine = config.recipe, config.machine
    precision = training_precision(config, device)
    # Data first: faulty folders should fail before networks are built.
    held_out = held_out_videos(config.validation)
    dataset = build_dataset(config.stage, config.data)
    replaced = earlier_run(config)
    state = build_state(config, device, precision)
    clips_per_pass = config.clips_per_pass(world_size())
    clips_per_step = clips_per_pass * recipe.accumulate * world_size()
    batches = clip_batches(
        dataset,
        batch_size=clips_per_pass,
        start=state.position,
        stop=state.position + (recipe.iterations - state.iteration) * clips_per_step,
        seed=recipe.seed,
        rank=rank(),
        world_size=world_size(),
        num_workers=machine.num_workers,
        pin_memory=device.type == "cuda",
    )
    model: nn.Module = state.network
    if machine.compile:
        state.network.compile()
    if world_size() > 1:
        model = DistributedDataParallel(state.network, [device] if device.type == "cuda" else None)

    folder = config.saves / config.id
    with run_folder(folder, replaced):
        parameters = sum(parameter.numel() for parameter in state.network.parameters()) / 1e6
        log.info("%s: %.1f M parameters on %s, %s", config.network, parameters, device, precision or "float32")
        logger: TrainLogger | NullLogger = NullLogger()
        if rank() == 0:
            logger = TrainLogger(folder, config.id, state.iteration, recipe.iterations)
        with logger, StopRequest() as stop:
            logger.config(to_plain(config) | {"data_found": str(dataset), "processes": world_size()})
            yield Run(
                config=config,
                device=device,
                precision=precision,
                state=state,
                model=model,
                batches=batches,
                clips_per_step=clips_per_step,
                held_out=held_out,
                meter=Meter(device, recipe.accumulate),
                logger=logger,
                stop=stop,
            )


def training_precision(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The autocast type that ``--amp`` asks for; None for float32, also where half precision would only be slower."""
    amp = config.recipe.amp
    if amp == "none" or (amp == "auto" and device.type != "cuda"):
        return None
    if device.type == "cpu" and amp == "fp16":
        raise InputError("--amp fp16: needs a GPU; on the CPU use --amp bf16 or none")
    if device.type == "cpu" and any_process(half_precision(device) is None):
        log.info("--amp %s: half precision is slower than float32 on this CPU; training in float32", amp)
        return None
    return torch.bfloat16 if amp == "bf16" else torch.float16


def build_state(config: TrainConfig, device: torch.device, precision: torch.dtype | None) -> TrainingState:
    """Network and optimiser on the device: new, from the weights of a file, or as the resumed checkpoint holds them.

    Raises `InputError` for files that do not fit.
    """
    recipe, resumed = config.recipe, None
    network = Network(config.network)
    if config.load_model:
        resumed = read_checkpoint(config.load_model)
        if resumed["train"]["iteration"] >= recipe.iterations:
            raise InputError(
                f"{config.load_model}: already at iteration {resumed['train']['iteration']} of "
                f"--iterations {recipe.iterations}"
            )
    elif config.load_network:
        load_weights(network, read_network_file(config.load_network)[1], config.load_network)
        log.info("weights from %s", config.load_network)
    elif config.pretrained != ("none",):
        files = None if config.pretrained == ("imagenet",) else [Path(name) for name in config.pretrained]
        network.load_imagenet(files)

    network.to(device).to(memory_format=torch.channels_last).train()
    network.checkpoint_activations = config.machine.checkpoint_activations
    if recipe.freeze_backbone:
        for module in (network.key_encoder.conv1, network.key_encoder.bn1, network.key_encoder.layer1):
            module.requires_grad_(False)
    fused = device.type in ("cuda", "cpu")
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    average = WeightAverage(network, recipe.ema) if recipe.ema else None
    state = TrainingState(network, optimizer, scaler, average)
    if resumed and config.load_model:
        state.load(resumed, config.load_model)
        for group in optimizer.param_groups:  # the command line may have changed it
            group["weight_decay"] = recipe.weight_decay
    return state


class StopRequest:
    """SIGTERM and Ctrl-C ask for a checkpoint and an end; a second signal ends at once.

    A context manager: outside it, signals do what they did before.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
