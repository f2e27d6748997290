"""Set-up of a training: data, network, optimiser, resuming, records. The loop itself is in ``train.py``."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from datasets.clip import Clip
from datasets.loader import clip_batches
from datasets.mixture import build_dataset
from datasets.video import is_enlarged
from model.config import NetworkConfig
from model.network import Network, empty_state, load_weights, save_network
from model.weights import State, fit_weights, read_network_file
from training.checkpoint import TrainingState, read_checkpoint
from training.config import TrainConfig
from training.folder import earlier_run, run_folder
from training.logger import Meter, TrainLogger, log
from training.validation import held_out_videos, validate
from util.device import shared_precision
from util.distributed import broadcast, gather, rank, world_size
from util.errors import InputError
from util.settings import to_plain


class Run:
    """A training that is ready to go on: what the loop in ``train.py`` works with.

    Raises `InputError` for faulty data and for files that do not fit, before anything is written.
    """

    logger: TrainLogger | None = None  # only in rank 0
    stop_requested: Callable[[], bool]  # whether a signal has asked for a checkpoint and an end

    def __init__(self, config: TrainConfig, device: torch.device):
        recipe = config.recipe
        torch.manual_seed(recipe.seed)
        self.config, self.device, self.folder = config, device, config.saves / config.id
        self.precision = training_precision(recipe.amp, device)  # of the forward pass
        # Data first: faulty folders should fail before networks are built.
        self.held_out = held_out_videos(config.validation)
        self.dataset = build_dataset(config.stage, config.data)
        self.replaced = earlier_run(config)
        scored = ", ".join(sorted(held_out.video.name for held_out in self.held_out))
        val_size = config.validation.val_size
        small = sorted(held.video.name for held in self.held_out if is_enlarged(held.video.size, val_size))
        enlarged = f", {', '.join(small)} enlarged" if small else ""
        self.found = {"data": str(self.dataset), "scored": f"{scored} at {val_size}{enlarged}"}
        self.state = build_state(config, device, self.precision, self.found)
        if len(set(gather(self.state.iteration))) > 1:
            raise InputError(f"{self.folder}: not the same on all machines; expected --saves on a shared file system")
        batch_size = config.clips_per_pass(world_size())
        self.clips_per_step = batch_size * recipe.accumulate * world_size()  # of all processes
        self.batches = clip_batches(
            self.dataset,
            batch_size=batch_size,
            start=self.state.position,
            stop=self.state.position + (recipe.iterations - self.state.iteration) * self.clips_per_step,
            seed=recipe.seed,
            rank=rank(),
            world_size=world_size(),
            num_workers=config.machine.num_workers,
            pin_memory=device.type == "cuda",
        )
        self.meter = Meter(device, recipe.accumulate)
        if config.machine.compile:
            self.state.network.compile()

    def next_clip(self) -> Clip:
        """The next batch, on the device."""
        with self.meter.loading():
            return next(self.batches).unpack(self.device)

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
        self.state.save(path, self.config.saved_settings() | {"found": self.found})
        log.info("saved %s", path)
        return path


@contextmanager
def start_run(config: TrainConfig, device: torch.device) -> Iterator[Run]:
    """Set up a new or resumed run, and hold its folder until the end.

    Raises `InputError` as `Run` does, and for a folder that another run holds or that cannot be written.
    """
    run = Run(config, device)
    parameters = sum(parameter.numel() for parameter in run.state.network.parameters()) / 1e6
    log.info("%s: %.1f M parameters on %s, %s", config.network, parameters, device, run.precision)
    with ExitStack() as stack:
        stack.enter_context(run_folder(run.folder, run.replaced))
        run.stop_requested = stack.enter_context(stop_signals())
        if rank() == 0:
            run.logger = TrainLogger(run.folder, config.id, run.state.iteration, config.recipe.iterations)
            stack.enter_context(run.logger)
            run.logger.config(to_plain(config) | {"data_found": run.found["data"], "processes": world_size()})
        yield run


def training_precision(amp: str, device: torch.device) -> torch.dtype:
    """The type that ``--amp`` asks for, see `autocast`; float32, too, where half precision would only be slower."""
    if amp == "none" or (amp == "auto" and device.type != "cuda"):
        return torch.float32
    if device.type == "cpu" and amp == "fp16":
        raise InputError("--amp fp16: needs a GPU; on the CPU use --amp bf16 or none")
    if device.type == "cpu" and shared_precision(device) is torch.float32:
        log.info("--amp %s: half precision is slower than float32 on this CPU; training in float32", amp)
        return torch.float32
    return torch.bfloat16 if amp == "bf16" else torch.float16


def build_state(
    config: TrainConfig, device: torch.device, precision: torch.dtype, found: dict[str, str]
) -> TrainingState:
    """Network and optimiser on the device: new, from the weights of a file, or as the resumed checkpoint holds them.

    ``found`` describes the data and the validation videos: if the checkpoint has other ones, warns or forgets the best
    score.
    """
    recipe = config.recipe
    imagenet = None if config.pretrained == ("imagenet",) else [Path(name) for name in config.pretrained]
    if config.load_model:
        checkpoint = read_checkpoint(config.load_model)
        for name, value in vars(config.network).items():
            if (stored := checkpoint["config"].get(name, value)) != value:
                raise InputError(f"{config.load_model}: the run to resume has {name} {stored}, not {value}")
        network = build_network(config.network, checkpoint["network"], config.load_model)
    elif config.load_network:
        weights = read_network_file(config.load_network).state
        network = build_network(config.network, weights, config.load_network)
        load_weights(network, weights, config.load_network)
        log.info("weights from %s", config.load_network)
        if config.imagenet_blend:
            blend_backbone(network, imagenet, config.imagenet_blend)
    else:
        network = Network(config.network)
        if config.pretrained != ("none",):
            network.load_imagenet(imagenet)
    network.to(device).to(memory_format=torch.channels_last).train()
    broadcast(network.state_dict().values())
    network.checkpoint_activations = config.machine.checkpoint_activations
    if recipe.freeze_backbone:
        for module in (network.key_encoder.conv1, network.key_encoder.bn1, network.key_encoder.layer1):
            module.requires_grad_(False)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if recipe.backbone_lr == 0:
        network.key_encoder.requires_grad_(False)
    elif recipe.backbone_lr != 1:
        backbone = set(network.key_encoder.parameters())
        groups = [{"params": [p for p in network.parameters() if p not in backbone]}]
        groups.append({"params": list(network.key_encoder.parameters()), "lr_factor": recipe.backbone_lr})
    fused = device.type in ("cuda", "cpu")
    optimizer = torch.optim.Adam(groups, recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    state = TrainingState(network, optimizer, scaler, recipe.ema)
    if config.load_model:
        state.load(checkpoint, config.load_model)
        if state.iteration >= recipe.iterations and not config.resume:
            raise InputError(f"{config.load_model}: already at iteration {state.iteration} of {recipe.iterations} (-i)")
        before = checkpoint["train"]["settings"].get("found", found)
        if before["scored"] != found["scored"]:
            state.best = -1.0
        if before["data"] != found["data"]:
            log.warning("%s: trained on %s; from here on the data are others", config.load_model, before["data"])
    return state


def build_network(config: NetworkConfig, weights: State, path: Path) -> Network:
    """A new network for the ``weights`` of ``path``. Raises `InputError` before it is allocated if they do not fit."""
    fit_weights(empty_state(config), weights, path, new_channel="zero")
    return Network(config)


def blend_backbone(network: Network, imagenet: list[Path] | None, share: float) -> None:
    """Move the key encoder's ResNet by ``share`` towards ImageNet weights (weight-space ensembles, CVPR 2022)."""
    trained = {name: value.clone() for name, value in network.key_encoder.state_dict().items()}
    network.key_encoder.load_imagenet(imagenet)
    for name, value in network.key_encoder.state_dict().items():
        if value.is_floating_point():
            value.lerp_(trained[name], 1 - share)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields whether SIGTERM, Ctrl-C or the end of the terminal has come; a second signal raises KeyboardInterrupt.

    Not that of the terminal, which its shell may send once more. Under nohup, which has it ignored, it stays so.
    """
    received: list[int] = []
    hang_up = getattr(signal, "SIGHUP", None)  # POSIX only

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number != hang_up:
            raise KeyboardInterrupt
        received.append(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if hang_up and signal.getsignal(hang_up) is not signal.SIG_IGN:
        numbers.append(hang_up)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
