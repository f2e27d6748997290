"""Train GSFM, STCN or Global Context: stage 0 on static images, stages 1 to 3 on video.

    torchrun --nproc_per_node=8 train.py --id s0-GSFM --stage 0
    python train.py --id try --stage 0 -b 2 -i 100 --device cpu        # one process, no launcher

`python train.py --stage 0 --help` lists every setting with its default; README, section Training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which `python -P` leaves out

import util.interrupt  # noqa: F401

# isort: split
from collections.abc import Sequence

from training.config import parse_config
from util.distributed import world_size
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    config = parse_config(arguments, world_size())
    from training.loop import start  # late: PyTorch takes seconds to import

    start(config)


if __name__ == "__main__":
    main()
