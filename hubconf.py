"""Entry points for `torch.hub`: each returns a `predictor.VideoPredictor`, for ``settings`` see there.

predictor = torch.hub.load(PATH_OR_REPO, "gsfm_small", source="local")
predictor = torch.hub.load(PATH_OR_REPO, "gsfm", weights="saves/gsfm.pth", source="local")
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "av"]

ROOT = Path(__file__).resolve().parent
# The project's modules have plain names; callers may have modules of their own under the same ones.
OWN = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}


@contextmanager
def _own_modules() -> Iterator[None]:
    """Within the block, imports find the project's modules; behind it, the caller's are as they were before."""

    def own() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in OWN and name != "hubconf"]

    callers = {name: sys.modules.pop(name) for name in own()}
    path = sys.path
    sys.path = [str(ROOT), *path]
    sys.modules.update(_loaded)
    try:
        yield
    finally:
        sys.path = path
        _loaded.update({name: sys.modules.pop(name) for name in own()})
        sys.modules.update(callers)


_loaded: dict[str, ModuleType] = {}  # the project's modules


def _predictor(preset: str, weights: str | PathLike | None, device: str, settings: dict[str, Any]) -> Any:
    with _own_modules():
        from datasets.access import video_files
        from model.config import NetworkConfig
        from model.network import Network
        from model.optimized import optimized_copy
        from predictor import VideoPredictor
        from util.device import pick_device

        video_files()  # later, its name may be that of a caller's module
        if weights is not None:
            predictor = VideoPredictor.load(weights, device, **settings)
            predictor.trainable = _own_modules()(predictor.trainable)  # reads the file again, which looks up types
            return predictor
        predictor = VideoPredictor(Network(NetworkConfig.preset(preset)).to(pick_device(device)).eval(), **settings)
        predictor.network = optimized_copy(predictor.network, precision=predictor.precision)
        return predictor


def gsfm_small(weights: str | PathLike | None = None, device: str = "auto", **settings: Any) -> Any:
    """The small GSFM network with the weights that come with the project, or others."""
    return _predictor("gsfm-small", ROOT / "saves" / "gsfm-small.pth" if weights is None else weights, device, settings)


def gsfm(weights: str | PathLike | None = None, device: str = "auto", **settings: Any) -> Any:
    """GSFM; untrained without a file of ``weights``."""
    return _predictor("gsfm", weights, device, settings)


def stcn(weights: str | PathLike | None = None, device: str = "auto", **settings: Any) -> Any:
    """STCN; untrained without a file of ``weights``."""
    return _predictor("stcn", weights, device, settings)


def gc(weights: str | PathLike | None = None, device: str = "auto", **settings: Any) -> Any:
    """Global Context; untrained without a file of ``weights``."""
    return _predictor("gc", weights, device, settings)
