"""Segment DAVIS 2016 (val or train): one object per video, from the mask of the first frame.

Example, with the data in data/DAVIS/2016 as in data/README.md:

    python eval_davis_2016.py --model saves/gsfm.pth --output output/davis2016-val

Writes OUTPUT/VIDEO/00000.png, …: grey PNGs, 0 background and 255 object.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which `python -P` leaves out

import util.interrupt  # noqa: F401

# isort: split
from eval_flags import run_davis
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    return run_davis(__doc__, year=2016, top_k=20, arguments=arguments)


if __name__ == "__main__":
    main()
