"""The training loop."""

import torch

from inference_memory_bank import make_memory
from model.losses import compute_losses, hard_fraction
from training.config import TrainConfig
from training.logger import log, picture, setup_console
from training.run import Run, start_run
from util.device import autocast, divide_cores, keep_freed_memory, pick_device
from util.distributed import barrier, gather, local_rank, process_group, rank


def start(config: TrainConfig) -> None:
    """Set up the process and train. Raises `InputError` as `Run` does."""
    setup_console(verbose=rank() == 0)
    device = pick_device(config.machine.device, local_rank())
    divide_cores(device)
    keep_freed_memory(device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = config.machine.benchmark
    with process_group(device), start_run(config, device) as run:
        train(config, run)
        barrier()


def train(config: TrainConfig, run: Run) -> None:
    """The loop: each iteration is one optimiser step of ``accumulate`` batches in every process."""
    recipe, records, state = config.recipe, config.records, run.state
    start = state.iteration
    if start >= recipe.iterations:  # a launcher has restarted the command
        log.info("nothing is left to do: already at iteration %d of %d", start, recipe.iterations)
    for iteration in range(start + 1, recipe.iterations + 1):
        # Forward and backward
        fraction = hard_fraction(iteration - 1, recipe.start_warm, recipe.end_warm, recipe.hard_fraction)
        for _ in range(recipe.accumulate):
            clip = run.next_clip()
            with autocast(run.device, run.precision):
                prediction = state.network(clip.frames, clip.masks[:, 0], clip.valid, make_memory(config.network))
            losses = compute_losses(
                prediction, clip.masks[:, 1:], clip.valid, fraction, recipe.boundary_weight, recipe.dice_weight
            )
            loss = torch.stack(list(losses.values())).sum() / recipe.accumulate
            state.scaler.scale(loss).backward()
            run.meter.add(losses, prediction, clip)

        # Step
        learning_rate = recipe.learning_rate(iteration - 1)
        state.step(learning_rate)
        state.iteration, state.position = iteration, state.position + run.clips_per_step

        # Validate and log
        stopping = any(gather(run.stop_requested()))
        finished = iteration == recipe.iterations
        saving = finished or stopping or iteration % records.checkpoint_every == 0
        publishing = finished or iteration % records.save_every == 0
        validating = bool(run.held_out) and (finished or iteration % config.validation.val_every == 0)
        if saving or publishing or validating or iteration % records.log_every == 0:
            values = run.meter.flush(iteration)  # stops at a loss that is not finite, before anything is saved
            values |= {"lr": learning_rate, "hard_fraction": fraction}
            if validating:
                values |= run.validate()
            if run.logger:
                run.logger.scalars(iteration, values)
        if run.logger:
            run.logger.bar.update(iteration)
            if iteration % records.image_every == 0 or iteration == start + 1:
                run.logger.image(iteration, "frames | truth | prediction", picture(clip, prediction))

        # Save
        if saving:
            checkpoint = run.save_checkpoint()
        if publishing:
            run.save_weights(iteration)
        if stopping and not finished:
            log.warning("stopped at iteration %d; resume with --load_model %s", iteration, checkpoint)
            break
