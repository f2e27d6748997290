"""Small data set folders for tests, in the layouts of the benchmarks."""

import json
from pathlib import Path

import numpy as np

from datasets.images import write_image, write_mask

SIZE = (36, 52)  # H, W
ASKED = {2: ["00002", "00005", "00007", "00012"], 3: ["00002", "00005"], 9: ["00007", "00008", "00012"]}
WANTED = ["00002", "00005", "00007", "00008", "00012"]  # all of them


def frame(t: int, size=SIZE) -> np.ndarray:
    """H×W×3 uint8: a picture that moves with ``t``."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([(x * 5 + t * 9) % 256, (y * 7) % 256, (x * y + t) % 256], axis=2).astype(np.uint8)


def ids_at(t: int, *object_ids: int, size=SIZE) -> np.ndarray:
    """H×W uint8: a moving block for each id, beside each other."""
    mask = np.zeros(size, np.uint8)
    for place, object_id in enumerate(object_ids):
        mask[5 + t : 15 + t, 4 + 15 * place : 15 + 15 * place] = object_id
    return mask


def make_youtube(root: Path, videos=("aa", "bb"), repeat: bool = False) -> Path:
    """YouTube-VOS valid, 16 frames a video: objects 2 and 3 are given at frame 2, object 9 at frame 7.

    ``repeat``: the later mask holds the earlier objects, too.
    """
    for video in videos:
        for t in range(16):
            write_image(root / f"all_frames/valid_all_frames/JPEGImages/{video}/{t:05d}.jpg", frame(t))
        for name in WANTED:
            write_image(root / f"valid/JPEGImages/{video}/{name}.jpg", frame(int(name)))
        late = ids_at(7, 2, 3, 9)
        write_mask(root / f"valid/Annotations/{video}/00002.png", ids_at(2, 2, 3))
        write_mask(root / f"valid/Annotations/{video}/00007.png", late if repeat else np.where(late == 9, late, 0))
    objects = {str(i): {"category": "dog", "frames": frames} for i, frames in ASKED.items()}
    meta = {"videos": {video: {"objects": objects} for video in videos}}
    (root / "valid/meta.json").write_text(json.dumps(meta))
    return root


def make_testdev(root: Path, videos=("aa", "bb")) -> Path:
    """DAVIS 2017 test-dev with a list of its own, 4 frames a video, objects 1 and 2 in the first mask."""
    base = root / "test-dev"
    for video in videos:
        for t in range(4):
            write_image(base / f"JPEGImages/480p/{video}/{t:05d}.jpg", frame(t))
        write_mask(base / f"Annotations/480p/{video}/00000.png", ids_at(0, 1, 2))
    listed = base / "ImageSets/2017/test-dev.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(videos) + "\n")
    return root
