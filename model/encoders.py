"""Key encoder and value encoder on ResNets.

B frames, K objects, H×W image (multiples of 16); ``f4``, ``f8``, ``f16`` are features at 1/4, 1/8, 1/16.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from model.blocks import FeatureFusion
from model.resnet import BasicBlock, Bottleneck, stage
from model.weights import extend_input_channels, read_backbone
from util.errors import InputError

# Type and numbers of the blocks of layer1, layer2, layer3.
BACKBONES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int]]] = {
    "resnet50": (Bottleneck, (3, 4, 6)),
    "resnet18": (BasicBlock, (2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6)),
    "resnet101": (Bottleneck, (3, 4, 23)),
}


def backbone_dims(name: str) -> tuple[int, int, int]:
    """Channels of f4, f8 and f16."""
    expansion = BACKBONES[name][0].expansion
    return 64 * expansion, 128 * expansion, 256 * expansion


class Backbone(nn.Module):
    """A ResNet up to ``layer3``, optionally with extra input channels.

    Its batch norms use their running statistics in training, too; only their affine weights are trained.
    """

    def __init__(self, name: str, extra_channels: int = 0):
        super().__init__()
        self.name = name
        block, numbers = BACKBONES[name]
        f4_dim, f8_dim, _ = backbone_dims(name)
        self.conv1 = nn.Conv2d(3 + extra_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(block, 64, 64, numbers[0], stride=1)
        self.layer2 = stage(block, f4_dim, 128, numbers[1], stride=2)
        self.layer3 = stage(block, f8_dim, 256, numbers[2], stride=2)
        self.train()

    def initialize(self) -> None:
        """Random weights, distributed like torchvision's; those of extra input channels are orthogonal."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.conv1.in_channels > 3:
            nn.init.orthogonal_(self.conv1.weight[:, 3:])

    def train(self, mode: bool = True) -> "Backbone":
        """Keep the batch norms in eval mode: small batches of video would spoil their statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """N×(3+extra)×H×W, normalised → f4 N×C₄×H/4×W/4, f8 N×C₈×H/8×W/8, f16 N×C₁₆×H/16×W/16."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f4 = self.layer1(F.max_pool2d(x, 3, stride=2, padding=1))
        f8 = self.layer2(f4)
        return f4, f8, self.layer3(f8)

    def load_imagenet(self, files: list[Path] | None) -> None:
        """Load ImageNet weights: from torchvision (``files=None``), else from the one of the files that fits.

        Extra input channels start orthogonal. Raises `InputError` if no file fits or torchvision cannot download.
        """
        own = self.state_dict()
        extra = self.conv1.in_channels - 3
        if files is not None:
            state = read_backbone(self.name, own | {"conv1.weight": own["conv1.weight"][:, :3]}, files)
        else:
            import torchvision  # type: ignore[import-untyped]  # it has no stubs; imported here, because it takes 1.5 s

            try:
                state = torchvision.models.get_model_weights(self.name).DEFAULT.get_state_dict()
            except OSError as error:
                way_out = "give files with --pretrained PATH, or --pretrained none to start from random weights"
                raise InputError(f"ImageNet weights of {self.name}: download failed ({error}); {way_out}") from error
        if extra:
            state["conv1.weight"] = extend_input_channels(state["conv1.weight"], extra, "orthogonal")
        self.load_state_dict({name: state.get(name, value) for name, value in own.items()})


class ValueEncoder(nn.Module):
    """Frame, object masks and key features → one memory value per object (STCN section 3.2).

    The input has the object's mask as its fourth channel, and unless ``single_object`` the sum of the other objects'
    masks as its fifth. ``f16_dim`` are the channels of the key encoder's f16.
    """

    def __init__(self, f16_dim: int, value_dim: int, single_object: bool):
        super().__init__()
        self.single_object = single_object
        self.backbone = Backbone("resnet18", extra_channels=1 if single_object else 2)
        self.fuser = FeatureFusion(backbone_dims("resnet18")[2], f16_dim, value_dim)

    def forward(
        self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor, others: torch.Tensor
    ) -> torch.Tensor:
        """image B×3×H×W normalised, f16 B×C×h×w, masks and sums of the others' B×K×H×W → value B×K×Cv×h×w."""
        channels = torch.stack([masks] if self.single_object else [masks, others], dim=2)
        image = image.unsqueeze(1).expand(-1, masks.shape[1], -1, -1, -1)
        _, _, own16 = self.backbone(torch.cat([image, channels], dim=2).flatten(0, 1))
        return self.fuser(own16, f16).unflatten(0, masks.shape[:2])
