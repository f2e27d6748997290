"""Segment DAVIS 2017 (val, test-dev or train) from the masks of the first frames.

Example, with the data in data/DAVIS/2017 as in data/README.md:

    python eval_davis.py --model saves/gsfm.pth --output output/davis2017-val

Writes OUTPUT/VIDEO/00000.png, …: PNGs with the DAVIS palette and the object ids of the given mask.
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
    return run_davis(__doc__, year=2017, top_k=50, arguments=arguments)


if __name__ == "__main__":
    main()
