"""Make the copy of a static data set that training reads: short side 384, masks resized with nearest neighbour.

    python scripts/resize_length.py downloads/BIG data/static/BIG_small

Runs on all cores. Existing files are kept, so an interrupted run can be started again.
Exit code: 0; 1 if some images could not be read; 2 for bad input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
from scripts.resize import resize_program


def main(arguments: list[str] | None = None) -> None:
    resize_program(__doc__, 384, None, arguments)


if __name__ == "__main__":
    main()
