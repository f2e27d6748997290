"""Download published weights and store them in this project's format.

python scripts/download_weights.py                     # list them
python scripts/download_weights.py stcn                # saves/stcn_original.pth and saves/stcn.pth
python eval_davis.py --model stcn --output output/d17
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
from typing import NamedTuple

from scripts.download import download
from util.errors import InputError, Parser, exit_on_input_error

EPILOG = """
The weights are those that the authors of STCN (H. K. Cheng, Y.-W. Tai, C.-K. Tang, NeurIPS 2021) share at
https://github.com/hkchengrex/STCN, under their terms and those of the data sets they were trained on.
An interrupted download continues when the program is started again. Google limits the downloads of a file: if it
refuses one, try again a day later, or open the address in a browser and save the file as SAVES/NAME_original.pth.

weights:
"""
DRIVE = "https://drive.google.com/uc?id="
RELEASE = "https://github.com/hkchengrex/STCN/releases/download/1.0"


class Published(NamedTuple):
    url: str
    description: str


WEIGHTS = {
    "stcn": Published(
        f"{DRIVE}1mRrE0uCI2ktdWlUgapJI_KmgeIiF2eOm", "stages 0, 1 and 2; DAVIS 2017 val: 85.4 J&F as published"
    ),
    "stcn-s03": Published(f"{DRIVE}1JllXPJZola0G-g1aUQfXe9nLMBioj-aH", "stages 0 and 3 (without BL30K)"),
    "stcn-s0": Published(f"{RELEASE}/stcn_s0.pth", "stage 0: still images; to start stage 1 or 3 from"),
    "stcn-s01": Published(f"{RELEASE}/stcn_s01.pth", "stages 0 and 1: still images and BL30K; to start stage 2 from"),
}


def fetch(name: str, url: str, saves: Path) -> Path:
    """Download weights of the STCN program as ``saves/NAME_original.pth``, and write ``saves/NAME.pth`` in own format.

    Nothing happens if the latter exists. Raises `InputError` if the download fails, if it cannot be read, or if it is
    not such a file: then it is deleted.
    """
    from model.network import load_network  # late: PyTorch takes seconds to import
    from model.weights import read_network_file, write_network_file

    target, original = saves / f"{name}.pth", saves / f"{name}_original.pth"
    if target.exists():
        return target
    download(url, original)
    try:
        load_network(original)  # all weights are there and have possible values
    except InputError as error:
        if isinstance(error.__cause__, OSError):  # says nothing about the contents
            raise
        original.unlink()
        raise InputError(f"{url}: sent something else than the weights; it was deleted ({error})") from error
    settings, state, _ = read_network_file(original)
    write_network_file(target, settings, state)
    return target


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    listing = "\n".join(f"  {name}: {weights.description}\n    {weights.url}" for name, weights in WEIGHTS.items())
    parser = Parser(__doc__, EPILOG + listing)
    parser.add_argument("name", nargs="?", choices=WEIGHTS, help="the weights to download (default: list them)")
    parser.add_argument("--saves", type=Path, help="where to put them (default: saves)")
    parser.add_argument("--mirror", metavar="URL", help="download URL/NAME.pth instead of the authors' file")
    args = parser.parse_args(arguments)
    if args.name is None:
        print(listing)
        return
    from model.weights import SAVES  # late: PyTorch

    url = f"{args.mirror.rstrip('/')}/{args.name}.pth" if args.mirror else WEIGHTS[args.name].url
    print(f"{args.name}: {WEIGHTS[args.name].description}\n  {url}", flush=True)
    print(f"{fetch(args.name, url, args.saves or SAVES)}: complete")


if __name__ == "__main__":
    main()
