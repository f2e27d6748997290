"""Validation during training: held-out videos through the evaluation engine, scored in memory."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets.frames import list_frames
from datasets.images import check_mask_size, image_size
from datasets.listing import davis_names, find_davis, first_masks_of
from datasets.video import Video, frames_video
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.network import Network
from model.optimized import optimized_copy
from predictor import segment
from scoring.folders import ObjectScore, object_scores, read_objects
from scoring.metrics import score_masks
from training.config import Validation
from util.device import autocast
from util.distributed import as_free, gather
from util.errors import InputError
from util.parallel import parallel_map

TOP_K, MEM_EVERY = 50, 3  # as published for DAVIS


class HeldOutVideo(NamedTuple):
    """A video whose objects are given on the frames where they first appear, and its true masks."""

    video: Video
    truth: dict[str, Path]  # name of each frame that has a mask → its file, in order


def held_out_videos(settings: Validation) -> list[HeldOutVideo]:
    """The videos that ``--val_root`` and ``--val_videos`` name; none without them.

    Raises `InputError` for missing and faulty files: all masks and the first frame of each video are read.
    """
    if settings.val_root is None:
        return []
    root = settings.val_root
    names = list(dict.fromkeys(name.strip() for name in settings.val_videos.split(",") if name.strip()))
    images, masks = root / "JPEGImages", root / "Annotations"
    if davis := find_davis(root):
        base, year = davis
        images, masks = base / "JPEGImages/480p", base / "Annotations/480p"
        names = names or davis_names(base, year, "val")
    names = names or sorted(path.name for path in images.glob("[!.]*") if path.is_dir())
    if not names:
        raise InputError(f"{images}: no videos; expected --val_root to hold JPEGImages/VIDEO and Annotations/VIDEO")
    return parallel_map(
        lambda name: _held_out(name, images / name, masks / name, settings.val_size), names, "Validation videos"
    )


def _held_out(name: str, images: Path, masks: Path, short_side: int) -> HeldOutVideo:
    frames = list_frames(images)
    truth = {frame.stem: path for frame in frames if (path := masks / f"{frame.stem}.png").is_file()}
    if len(truth) < 3:
        raise InputError(f"{masks}: {len(truth)} masks; expected one for every frame of the video, at least 3")
    size = image_size(frames[0])

    def read(path: Path) -> np.ndarray:
        ids = read_objects(path)
        check_mask_size(path, ids.shape, path.stem, size)
        return ids

    given, read_given = first_masks_of(truth, read)
    if not given.keys() & list(truth)[:-2]:
        raise InputError(f"{masks}: no object to score; expected one before the last two masks, ids from 1 on or 255")
    video = frames_video(name, frames, given, short_side, read=read_given, needed=list(truth)[1:-1])
    return HeldOutVideo(video, truth)


def validate(
    network: Network, videos: list[HeldOutVideo], device: torch.device, precision: torch.dtype
) -> dict[str, float]:
    """``val_jf``, ``val_j`` and ``val_f`` in [0, 1]: means over all objects of all videos, as `scoring.folders` has it.

    Every process has to call this; the videos are split across them. Generators and the network stay as they were.

    Args:
        network: on ``device``, in training mode.
        precision: see `autocast`.
    """
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(generators), autocast(device, precision):
        optimized = optimized_copy(network.eval(), precision=precision)
        network.train()
        longest_first = sorted(videos, key=lambda held_out: -held_out.video.num_frames)
        mine = [_score_video(optimized, held_out, device) for held_out in as_free(longest_first)]
    objects = [score for own in gather(mine) for scores in own for score in scores]
    j, f = (float(np.mean([getattr(score, name).mean() for score in objects])) for name in "jf")
    return {"val_jf": (j + f) / 2, "val_j": j, "val_f": f}


def _score_video(network: Network, held_out: HeldOutVideo, device: torch.device) -> list[ObjectScore]:
    video, truth = held_out
    memory = partial(make_memory, network.config, TOP_K, reserve=video.num_frames // MEM_EVERY + 2)
    core = InferenceCore(network, memory, MEM_EVERY)
    first = read_objects(next(iter(truth.values())))
    scores = [score_masks(first, first)]
    for frame, ids, *_ in segment(core, video, device):
        if frame.needed:  # without ids where no object has appeared yet
            scores.append({} if ids is None else score_masks(read_objects(truth[frame.name]), ids))
    return object_scores(video.name, list(truth), scores)[0]
