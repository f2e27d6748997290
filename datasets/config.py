"""Settings of the training data."""

import re
from dataclasses import dataclass
from pathlib import Path

from util.errors import InputError

MAX_FRAMES = 25  # the shortest training video of DAVIS has as many; longer clips would repeat frames
MAX_DEFORM = 4  # ±80° of rotation, ±40° of shear
MAX_SYNTHETIC, MAX_CROP = 10**9, 16_000  # only keep slips of the keyboard from allocating without end


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
    """Text file that limits YouTube-VOS to the listed videos, one per line."""
    extra: tuple[str, ...] = ()
    """More data, each IMAGES:MASKS[:REPEAT[:DIVISOR]]: two folders of still images or, from stage 1 on, of videos.
    REPEAT: how often they enter an epoch (default 1).
    DIVISOR: divides the frame distance (5 for videos of which every fifth frame is annotated; default 1)."""
    synthetic: int = 0
    """Generated clips in each epoch, in addition to the other data."""
    paste: float = 0.0
    """Probability that a video clip with one object gets a second one, cut from an image of static_root."""
    distract: float = 0.0
    """Probability that a copy of an object is painted into a clip's background, to be told apart from the object."""
    reveal: float = 0.0
    """Probability that a part of an object is hidden in the first frame of a clip, so that later frames reveal it."""
    blur: float = 0.0
    """Probability that a clip is blurred: by motion, or because its resolution is low."""
    deform: float = 1.0
    """Factor of the rotation, shear and zoom that differ between the frames of a still image's clip."""
    num_frames: int = 3
    """Frames of a clip, 2 to 25."""
    crop: int = 384
    """Side of the training crop in pixels, a multiple of 16."""

    def check(self, stage: int) -> None:
        """Raise `InputError` for a value that makes no sense in ``stage``. Looks at no files."""
        for text in self.extra:
            parse_extra(text)
        for flag, valid, expected in (
            ("paste", 0 <= self.paste <= 1, "a probability, 0 to 1"),
            ("paste", stage or not self.paste, "in the video stages only, not in stage 0"),
            ("distract", 0 <= self.distract <= 1, "a probability, 0 to 1"),
            ("reveal", 0 <= self.reveal <= 1, "a probability, 0 to 1"),
            ("blur", 0 <= self.blur <= 1, "a probability, 0 to 1"),
            ("synthetic", 0 <= self.synthetic <= MAX_SYNTHETIC, f"a number of clips, 0 (none) to {MAX_SYNTHETIC}"),
            ("deform", 0 <= self.deform <= MAX_DEFORM, f"a factor, 0 to {MAX_DEFORM}"),
            ("num_frames", 2 <= self.num_frames <= MAX_FRAMES, f"2 (one given, one learned) to {MAX_FRAMES}"),
            ("crop", 16 <= self.crop <= MAX_CROP and self.crop % 16 == 0, f"a multiple of 16, up to {MAX_CROP}"),
        ):
            if not valid:
                raise InputError(f"--{flag} {getattr(self, flag)}: expected {expected}")


def parse_extra(text: str) -> tuple[Path, Path, int, int]:
    """Parse ``IMAGES:MASKS[:REPEAT[:DIVISOR]]``. Folders may begin with a drive letter. Raises `InputError`."""
    folder, number = r"((?:[A-Za-z]:(?=[\\/]))??[^:]+)", "(0*[1-9][0-9]{0,8})"
    match = re.fullmatch(f"{folder}:{folder}(?::{number}(?::{number})?)?", text)
    if match is None:
        raise InputError(f"--extra {text}: expected IMAGES:MASKS[:REPEAT[:DIVISOR]], two folders and numbers from 1 on")
    images, masks, repeat, divisor = match.groups()
    return Path(images), Path(masks), int(repeat or 1), int(divisor or 1)
