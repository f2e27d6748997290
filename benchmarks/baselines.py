"""Two untrained baselines on DAVIS or your own videos, which trained weights must beat.

python benchmarks/baselines.py copy --davis_path data/DAVIS/2016 --output output/copy
python benchmarks/baselines.py nearest --davis_path data/DAVIS/2017 --output output/nearest --pretrained resnet18.pth
python benchmarks/baselines.py nearest --latest 0 --davis_path data/DAVIS/2017 --output output/nearest-first
python benchmarks/baselines.py copy --data_path my_videos --output output/copy    # the layout of eval_generic.py

copy: every frame gets the mask of the first. nearest: label propagation as in evaluations of self-supervised features.
Every position takes the labels of its --top most similar positions in memory, by the features of an ImageNet ResNet;
the memory consists of the first frame with its mask and of the --latest frames with their propagated labels. Both run
in the engine and the loop of the eval scripts, so PNGs and scores are produced in the same way.
"""

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.listing import SPLITS, davis_videos, folder_videos
from eval_flags import at_least, video_names
from eval_program import evaluate_and_report, evaluation_group
from inference_memory_bank import SpaceTimeMemory
from model.config import NetworkConfig
from model.encoders import BACKBONES, backbone_dims
from model.network import FrameFeatures, Network
from model.optimized import optimized_copy
from util.device import DEVICES, divide_cores, pick_device
from util.distributed import local_rank
from util.errors import InputError, Parser, exit_on_input_error
from util.files import sha256_of

STRIDE = 16
NEVER = 10**9  # as mem_every: no frame after the first becomes memory


class CopyNetwork(torch.nn.Module):
    """The interface of `Network` that the engine uses, without features: value and prediction are the mask itself."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def encode_key(self, image: torch.Tensor) -> FrameFeatures:
        return no_features_but(image.new_empty(0))

    def encode_value(self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """masks B×K×H×W in [0, 1] → B×K×1×H×W."""
        return masks.unsqueeze(2)

    def decode(self, readout: torch.Tensor, features: FrameFeatures) -> tuple[torch.Tensor, None]:
        """readout B×K×1×H×W in [0, 1] → logits B×K×H×W, no boundary."""
        return torch.logit(readout.squeeze(2), eps=1e-6), None


class LastValue:
    """A memory of a single value, which every read returns."""

    def __init__(self, reserve: int = 0):
        self.value = torch.empty(0)

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False, **options: Any) -> None:
        self.value = value

    def read(self, query: torch.Tensor) -> torch.Tensor:
        return self.value


class LabelMemory(SpaceTimeMemory):
    """A memory whose values are labels; the labels of a later frame are those that were read for it.

    The engine's masks would be worse values: they have been interpolated to full size, which blurs them when they are
    pooled again, and have passed the soft aggregation. With them, J is 78.3 instead of 81.9 on five sequences of
    DAVIS 2016.
    """

    labels: torch.Tensor | None = None

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False, **options: Any) -> None:
        super().add(key, value if self.labels is None else self.labels, temporary, **options)

    def read(self, query: torch.Tensor) -> torch.Tensor:
        self.labels = super().read(query)
        return self.labels


class NearestNetwork(Network):
    """Keys are the f16 features of the key encoder, scaled to equal length; a memory read then propagates labels.

    With the right length, the similarity of `SpaceTimeMemory`, ``(2 k·q − ‖k‖²) / √C``, is the cosine divided by
    ``temperature``, up to a constant that cancels in the softmax.
    """

    def __init__(self, backbone: str, temperature: float):
        super().__init__(NetworkConfig.preset("stcn", backbone=backbone))
        self.length = math.sqrt(math.sqrt(backbone_dims(backbone)[2]) / (2 * temperature))

    def encode_key(self, image: torch.Tensor) -> FrameFeatures:
        """Normalised frames N×3×H×W → features with only a key N×C×H/16×W/16."""
        f16 = self.key_encoder(image)[2]
        return no_features_but(self.length * F.normalize(f16, dim=1))

    def encode_value(self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """masks B×K×H×W in [0, 1] → their means per cell, B×K×1×H/16×W/16."""
        return F.avg_pool2d(masks, STRIDE).unsqueeze(2)

    def decode(
        self, readout: torch.Tensor, features: FrameFeatures, with_boundary: bool = False
    ) -> tuple[torch.Tensor, None]:
        """readout B×K×1×h×w in [0, 1] → logits of the labels at full size B×K×16h×16w, no boundary."""
        labels = F.interpolate(readout.squeeze(2), scale_factor=STRIDE, mode="bilinear")
        return torch.logit(labels, eps=1e-6), None


def no_features_but(key: torch.Tensor) -> FrameFeatures:
    """`FrameFeatures` of which only the key is used."""
    nothing = key.new_empty(0)
    return FrameFeatures(key, nothing, nothing, nothing, nothing)


def nearest_network(args: argparse.Namespace, device: torch.device) -> Network:
    """The network of the method ``nearest``, in eval mode. Raises `InputError` for unreadable weights."""
    network = NearestNetwork(args.backbone, args.temperature)
    network.key_encoder.load_imagenet(args.pretrained)
    return optimized_copy(network.to(device).eval())


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    default = "(default %(default)s)"
    add("method", choices=("copy", "nearest"))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--davis_path", type=Path, metavar="FOLDER", help="DAVIS 2016 (JPEGImages/ in it) or 2017")
    source.add_argument("--data_path", type=Path, metavar="FOLDER", help="your own videos, as for eval_generic.py")
    add("--split", choices=SPLITS[2017], default="val", help=f"set of videos of DAVIS {default}")
    add("--output", type=Path, required=True, metavar="FOLDER", help="results; finished videos in it are skipped")
    add("--videos", type=video_names, metavar="A,B", help="only these videos")
    add("--size", type=at_least(1), default=480, metavar="N", help=f"shorter side at inference {default}")
    add("--backbone", choices=tuple(BACKBONES), default="resnet18", help=default)
    add("--pretrained", type=Path, nargs="+", metavar="FILE", help="local ImageNet weights (default: download them)")
    add("--latest", type=at_least(0), default=7, metavar="N", help=f"frames in memory besides the first {default}")
    add("--top", type=at_least(1), default=10, dest="top_k", metavar="K", help=f"positions that each reads {default}")
    add("--temperature", type=float, default=0.07, help=f"of the softmax over cosines {default}")
    add("--device", choices=DEVICES, default="auto")
    add("--overwrite", action="store_true", help="segment finished videos again")
    args = parser.parse_args(arguments)
    if args.temperature <= 0:
        raise InputError(f"--temperature {args.temperature}: expected a number above 0")
    binary = False
    if args.data_path:
        videos = folder_videos(args.data_path, args.size, args.videos, first_masks=True)
    else:
        year = 2016 if (args.davis_path / "JPEGImages").is_dir() else 2017
        if args.split not in SPLITS[year]:
            raise InputError(f"{args.davis_path}: is DAVIS {year}; expected --split {' or '.join(SPLITS[year])}")
        binary = year == 2016
        videos = davis_videos(args.davis_path, year, args.split, args.size, args.videos)
    device = pick_device(args.device, local_rank())
    divide_cores(device)

    nearest = args.method == "nearest"
    make_memory: Callable[..., LastValue | LabelMemory] = LastValue
    names = ["method", "size"]
    if nearest:
        make_memory = partial(LabelMemory, args.top_k, args.latest + 1 if args.latest else None)
        names += ["backbone", "pretrained", "latest", "top_k", "temperature"]
    settings = {name: str(getattr(args, name)) for name in names}
    if nearest and args.pretrained:
        settings["pretrained"] = " ".join(map(sha256_of, args.pretrained))
    with evaluation_group(device):
        return evaluate_and_report(
            nearest_network(args, device) if nearest else CopyNetwork(),
            videos,
            args.output,
            make_memory=make_memory,
            device=device,
            mem_every=1 if nearest and args.latest else NEVER,
            binary=binary,
            overwrite=args.overwrite,
            settings=settings,
        )


if __name__ == "__main__":
    main()
