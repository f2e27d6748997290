"""The backbones against torchvision's."""

import pytest
import torch
import torchvision  # type: ignore[import-untyped]  # it has no stubs
from torch import nn

from model.encoders import BACKBONES, Backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_equal_to_torchvision(name):
    theirs, own = torchvision.models.get_model(name).eval(), Backbone(name).eval()
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1), nn.init.uniform_(norm.running_var, 0.5, 1.5)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(("layer4", "fc"))}
    own.load_state_dict(state)
    x = torch.randn(2, 3, 64, 80)
    with torch.inference_mode():
        f4 = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        f8 = theirs.layer2(f4)
        expected = f4, f8, theirs.layer3(f8)
        assert all(torch.equal(ours, feature) for ours, feature in zip(own(x), expected, strict=True))


@pytest.mark.parametrize("name", BACKBONES)
def test_initial_weights_are_distributed_like_torchvision(name):
    theirs, backbone = torchvision.models.get_model(name).state_dict(), Backbone(name)
    backbone.initialize()
    own = backbone.state_dict()
    for key, value in own.items():
        if value.numel() > 1000:
            assert float(value.std()) == pytest.approx(float(theirs[key].std()), rel=0.05)
