"""Convert weights between this project's format and that of the GSFM and STCN reference programs, or average them.

    python scripts/convert_checkpoint.py stcn.pth saves/stcn.pth                 # reference format → own
    python scripts/convert_checkpoint.py saves/s03.pth s03_reference.pth --to reference
    python scripts/convert_checkpoint.py saves/s03.pth saves/s03_fp16.pth --half  # half the size, for sharing
    python scripts/convert_checkpoint.py saves/s03.pth saves/shared.pth --half --mem_every 5 --include_last
    python scripts/convert_checkpoint.py saves/s03.pth saves/soup.pth --average saves/s03_more.pth

Files in the own format hold the configuration of their network and may hold recommended evaluation settings, which
eval_generic.py and the demo use unless they are given others. All programs of this project read both formats.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import dataclasses

from eval_flags import add_inference_flags
from model.config import InferenceSettings, NetworkConfig
from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_output


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("source", type=Path, help="checkpoint in either format")
    parser.add_argument("target", type=Path, help="file to write")
    parser.add_argument("--to", choices=["own", "reference"], default="own", help="format to write (default: own)")
    parser.add_argument("--half", action="store_true", help="store fp16 weights (own format only)")
    average_help = "write the mean of the source and weights trained further from it (model soups, ICML 2022)"
    parser.add_argument("--average", type=Path, nargs="+", default=[], metavar="FILE", help=average_help)
    advice = parser.add_argument_group("evaluation settings to recommend (own format only; default: keep the source's)")
    add_inference_flags(advice, {})
    args = parser.parse_args(arguments)
    advised = InferenceSettings.of(args).given()
    if args.to == "reference" and (args.half or advised):
        raise InputError("--to reference: files of the reference programs hold float32 weights and nothing else")
    check_output(args.target, [])
    import torch  # late: it takes seconds

    from model.network import empty_state
    from model.weights import export_reference, fit_weights, read_network_file, write_network_file, write_torch_file

    files = {path: read_network_file(path) for path in (args.source, *args.average)}
    configs = {path: NetworkConfig.from_file(file.settings, path) for path, file in files.items()}
    config = configs[args.source]
    if other := [path for path in configs if configs[path] != config]:
        raise InputError(f"{other[0]}: is of another network than {args.source}; expected the same settings")
    settings, own = dataclasses.asdict(config), empty_state(config)
    soup = [fit_weights(own, files[path].state, path, "zero") for path in (args.source, *args.average)]
    state = soup[0]
    for name, value in state.items():
        if args.average and value.is_floating_point():
            state[name] = torch.stack([weights[name] for weights in soup]).mean(0)
    recommended = dataclasses.replace(files[args.source].recommended, **advised).given()
    if args.to == "own":
        write_network_file(args.target, settings, state, half=args.half, recommended=recommended)
    else:
        write_torch_file(args.target, export_reference(settings, state))
    print(f"{args.target}: {args.to} format, {args.target.stat().st_size / 2**20:.1f} MiB, {settings}")
    if recommended and args.to == "own":
        print(f"recommended for evaluation: {recommended}")


if __name__ == "__main__":
    main()
