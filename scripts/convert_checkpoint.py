"""Convert weights between this project's format and that of the GSFM and STCN reference programs.

    python scripts/convert_checkpoint.py stcn.pth saves/stcn.pth                 # reference format → own
    python scripts/convert_checkpoint.py saves/s03.pth s03_reference.pth --to reference
    python scripts/convert_checkpoint.py saves/s03.pth saves/s03_fp16.pth --half  # half the size, for sharing

Files in the own format hold their configuration. All programs of this project read both formats.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.weights import export_reference, read_network_file, write_network_file, write_torch_file
from util.errors import InputError, exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="checkpoint in either format")
    parser.add_argument("target", type=Path, help="file to write")
    parser.add_argument("--to", choices=["own", "reference"], default="own", help="format to write (default: own)")
    parser.add_argument("--half", action="store_true", help="store fp16 weights (own format only)")
    args = parser.parse_args(arguments)
    if args.half and args.to == "reference":
        raise InputError("--half: the reference programs read float32 files only")
    if args.target.resolve() == args.source.resolve():
        raise InputError(f"{args.target}: is the source as well; expected another file to write")
    settings, state = read_network_file(args.source)
    if args.to == "own":
        write_network_file(args.target, settings, state, half=args.half)
    else:
        write_torch_file(args.target, export_reference(settings, state))
    print(f"{args.target}: {args.to} format, {args.target.stat().st_size / 2**20:.1f} MiB, {settings}")


if __name__ == "__main__":
    main()
