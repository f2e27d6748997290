"""Settings of the training data."""

from dataclasses import dataclass
from pathlib import Path

from util.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """What a run trains on, and how a clip is cut from it."""

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

    def check(self, stage: int) -> None:
        """Raises `InputError` for settings that no clip can have, or that ``stage`` does not know."""
        if not 16 <= self.crop <= 4096 or self.crop % 16:
            raise InputError(f"--crop {self.crop}: expected a multiple of 16, up to 4096")
        if not 0 <= self.synthetic <= 10**9:
            raise InputError(f"--synthetic {self.synthetic}: expected a number of clips, 0 for none")
        if not 0 <= self.paste <= 1 or self.paste and stage == 0:
            raise InputError(f"--paste {self.paste}: expected a probability, 0 to 1, in the video stages")
        if not 2 <= self.num_frames <= 1000:
            raise InputError(f"--num_frames {self.num_frames}: expected 2 to 1000 (the first is given)")
