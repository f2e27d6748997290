"""Settings of the training data."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataConfig:
    """What a run trains on and how a clip is cut from it. Each field is a flag of ``train.py``."""

    static_root: Path = Path("data/static")
    """Static image sets, one folder each."""
    bl_root: Path = Path("data/BL30K")
    """BL30K."""
    yv_root: Path = Path("data/YouTube")
    """YouTube-VOS, with train_480p/."""
    davis_root: Path = Path("data/DAVIS")
    """DAVIS in the layout of 2017 or 2016."""
    yv_list: Path | None = None
    """Text file that limits YouTube-VOS to the listed videos."""
    extra: tuple[str, ...] = ()
    """More data, each IMAGES:MASKS[:REPEAT[:DIVISOR]]: two folders of still images or, from stage 1 on, of videos, how
    often they enter an epoch, and by how much to divide the frame distance."""
    synthetic: int = 0
    """Generated clips in each epoch, beside the other data."""
    paste: float = 0.0
    """Probability that a video clip with one object gets a second one, cut from an image of static_root."""
    num_frames: int = 3
    """Frames of a clip."""
    crop: int = 384
    """Side of the training crop in pixels, a multiple of 16."""
