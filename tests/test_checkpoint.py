"""Checkpoint files: rebuild their network, convert to the reference programs' format and back, refuse the rest."""

import dataclasses
import errno
from pathlib import Path
from unittest import mock

import pytest
import torch
import torchvision  # type: ignore[import-untyped]  # it has no stubs

from model.config import InferenceSettings, NetworkConfig
from model.network import Network, load_network, load_weights, save_network
from model.weights import read_network_file, write_torch_file
from scripts.convert_checkpoint import main as convert
from tests.reference import state_dict, stored_json
from training.checkpoint import TrainingState, read_checkpoint
from training.run import build_network
from util.errors import InputError


def test_own_file_rebuilds_its_network(tiny_network, tmp_path):
    for overrides in ({}, {"preset": "stcn"}, {"preset": "gc", "gc_norm": "mean"}, {"filter": "relative"}):
        network = tiny_network(**overrides)
        save_network(tmp_path / "own.pth", network)
        loaded = load_network(tmp_path / "own.pth")
        assert loaded.config == network.config and not loaded.training
        for (name, ours), theirs in zip(network.state_dict().items(), loaded.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), name


def test_older_files_lack_settings_and_counters(tiny_network, tmp_path):
    network, paths = tiny_network(), [str(tmp_path / f"{name}.pth") for name in ("old", "new", "mean")]
    config = dataclasses.asdict(network.config)
    del config["filter"]
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"format": 1, "config": config, "network": state}, paths[0])
    convert(paths[:2])
    convert([paths[0], paths[2], "--average", paths[1]])
    for path in paths:
        loaded = load_network(Path(path))
        assert loaded.config == network.config
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


def test_averaged_weights_are_those_of_a_training_checkpoint(tiny_network, tmp_path):
    network, path = tiny_network(), tmp_path / "x_checkpoint.pth"
    optimizer = torch.optim.Adam(network.parameters())
    state = TrainingState(network, optimizer, torch.amp.GradScaler("cpu", enabled=False), ema=0.9)
    with torch.no_grad():
        state.average.key_proj.bias += 1
    state.save(path, {})
    assert torch.equal(load_network(path).key_proj.bias, state.average.key_proj.bias)
    assert torch.equal(read_checkpoint(path)["network"]["key_proj.bias"], network.key_proj.bias)


def test_half_precision_file(tiny_network, tmp_path):
    network = tiny_network()
    save_network(tmp_path / "own.pth", network)
    convert([str(tmp_path / "own.pth"), str(tmp_path / "half.pth"), "--half"])
    assert (tmp_path / "half.pth").stat().st_size < 0.55 * (tmp_path / "own.pth").stat().st_size
    loaded = load_network(tmp_path / "half.pth")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert torch.allclose(loaded.key_proj.weight, network.key_proj.weight, rtol=1e-3, atol=1e-6)


def test_average_of_weights(tiny_network, tmp_path, capsys):
    one, two, other, soup = (str(tmp_path / f"{name}.pth") for name in ("one", "two", "other", "soup"))
    networks = [tiny_network(), tiny_network()]
    with torch.no_grad():
        networks[1].key_proj.weight += 1
    save_network(tmp_path / "one.pth", networks[0])
    save_network(tmp_path / "two.pth", networks[1])
    save_network(tmp_path / "other.pth", tiny_network(filter="relative"))
    convert([one, soup, "--average", two])
    for name, value in load_network(tmp_path / "soup.pth").state_dict().items():
        shift = 0.5 if name == "key_proj.weight" else 0
        assert torch.allclose(value, networks[0].state_dict()[name] + shift), name
    with pytest.raises(SystemExit) as end:
        convert([one, str(tmp_path / "wrong.pth"), "--average", other])
    assert end.value.code == 2 and f"{other}: is of another network than {one}" in capsys.readouterr().err


def test_recommended_settings_are_stored_with_the_weights(tiny_network, tmp_path):
    own, advised, half = (str(tmp_path / name) for name in ("own.pth", "advised.pth", "half.pth"))
    save_network(tmp_path / "own.pth", tiny_network())
    convert([own, advised, "--top", "30", "--include_last", "--local"])
    assert load_network(tmp_path / "own.pth").recommended == InferenceSettings()
    assert load_network(tmp_path / "advised.pth").recommended == InferenceSettings(
        top_k=30, include_last=True, local=True
    )
    flags = ["--half", "--mem_every", "5", "--no-include_last", "--given_bias", "1.5"]
    convert([advised, half, *flags])  # keeps what it does not change
    recommended = InferenceSettings(top_k=30, mem_every=5, include_last=False, local=True, given_bias=1.5)
    network = load_network(tmp_path / "half.pth")
    assert network.recommended == recommended
    save_network(tmp_path / "again.pth", network)
    assert load_network(tmp_path / "again.pth").recommended == recommended
    contents = torch.load(own, weights_only=True)
    for wrong in ({"top_k": 0}, {"mem_every": "5"}, {"given_bias": -1}, {"size": 480}, 3):
        torch.save(contents | {"recommended": wrong}, tmp_path / "wrong.pth")
        with pytest.raises(InputError, match="wrong.pth: recommended"):
            load_network(tmp_path / "wrong.pth")


@pytest.mark.parametrize("family", ["gsfm", "stcn"])
@pytest.mark.parametrize("kind", ["eval", "train_single_object"])
def test_reference_file_there_and_back(family, kind, tmp_path):
    """reference → own → reference → own: the weights do not change, and names and shapes are the program's own."""
    source, own, back = tmp_path / "source.pth", tmp_path / "own.pth", tmp_path / "back.pth"
    torch.save({f"module.{name}": value for name, value in state_dict(family, kind).items()}, source)
    convert([str(source), str(own)])
    convert([str(own), str(back), "--to", "reference"])
    exported = torch.load(back, weights_only=True)
    assert {name: list(value.shape) for name, value in exported.items()} == stored_json(family, f"shapes/{kind}")
    first, second = read_network_file(own), read_network_file(back)
    assert len({NetworkConfig.from_file(read_network_file(path).settings, path) for path in (source, own, back)}) == 1
    assert first.state.keys() == second.state.keys()
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_stage_0_weights_enter_multi_object_network(tiny_network, tmp_path):
    single = tiny_network(single_object=True)
    save_network(tmp_path / "s0.pth", single)
    name = "value_encoder.backbone.conv1.weight"
    evaluated = load_network(tmp_path / "s0.pth").state_dict()[name]
    assert evaluated.shape[1] == 5 and torch.equal(evaluated[:, :4], single.state_dict()[name])
    assert not evaluated[:, 4].any()
    training = tiny_network()
    load_weights(training, read_network_file(tmp_path / "s0.pth").state, tmp_path / "s0.pth")
    extra = training.state_dict()[name][:, 4].flatten(1)
    assert torch.allclose(extra.T @ extra, torch.eye(49), atol=1e-5)  # orthogonal


def test_files_that_are_no_checkpoint(tiny_network, tmp_path):
    texts = [tmp_path / f"notes{i}.pth" for i in range(96)]
    for i, text in enumerate(texts):  # pickle takes the first character for an instruction
        text.write_text(f"{chr(32 + i)}ello world\n")
    truncated = tmp_path / "truncated.pth"
    save_network(truncated, tiny_network())
    truncated.write_bytes(truncated.read_bytes()[:5000])
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    pickled = tmp_path / "pickled.pth"
    torch.save({"config": NetworkConfig()}, pickled)  # arbitrary classes are not loaded
    for path in (*texts, truncated, other, pickled, tmp_path / "missing.pth", tmp_path):
        with pytest.raises(InputError, match=str(path)) as error:
            load_network(path)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_files_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "whole.pth")
    no_memory = [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
    for error in (*no_memory, PermissionError(errno.EACCES, "Permission denied")):
        monkeypatch.setattr(torch, "load", mock.Mock(side_effect=error))
        with pytest.raises(type(error) if error in no_memory else InputError) as caught:
            load_network(tmp_path / "whole.pth")
    assert str(caught.value) == f"{tmp_path / 'whole.pth'}: cannot be read (Permission denied)"


def test_weights_of_another_network_are_named(tiny_network, tmp_path):
    path = tmp_path / "stcn.pth"
    save_network(path, tiny_network("stcn", key_dim=8))
    state = read_network_file(path).state
    with pytest.raises(InputError) as error:
        load_weights(tiny_network(), state, path)
    message = str(error.value)
    assert "stcn.pth" in message and "missing lfm.conv1.weight" in message and "more" in message
    with pytest.raises(InputError, match=r"key_proj.weight is \(8, 256, 3, 3\) instead of \(16, 256, 3, 3\)"):
        load_weights(tiny_network("stcn"), state, path)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("decoder.pred.weight", torch.nan, "decoder.pred.weight has values that are not finite"),
        ("key_proj.bias", -torch.inf, "key_proj.bias has values that are not finite"),
        ("key_encoder.layer1.0.bn1.running_var", -1e-3, "running_var has negative values"),
    ],
)
def test_values_that_no_weights_have(tiny_network, tmp_path, name, value, message):
    """They are neither written nor read nor converted."""
    network = tiny_network()
    save_network(tmp_path / "good.pth", network)
    network.state_dict()[name].flatten()[3] = value
    with pytest.raises(InputError, match=f"new.pth: .*{message}"):
        save_network(tmp_path / "new.pth", network)
    contents = torch.load(tmp_path / "good.pth", weights_only=True)
    torch.save(contents | {"network": network.state_dict()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=f"bad.pth: .*{message}"):
        load_network(tmp_path / "bad.pth")
    for flags in (["bad.pth", "new.pth", "--to", "reference"], ["good.pth", "new.pth", "--average", "bad.pth"]):
        with pytest.raises(SystemExit):
            convert([flag if flag.startswith("--") else str(tmp_path / flag) for flag in flags])
    assert not (tmp_path / "new.pth").exists()


def test_what_cannot_be_converted(tiny_network, tmp_path, capsys):
    network, paths = tiny_network(), [str(tmp_path / "odd.pth"), str(tmp_path / "new.pth")]
    contents = {"format": 1, "config": dataclasses.asdict(network.config)}
    for name, value, flag, message in (
        ("key_proj.weight", None, "--to=reference", "odd.pth: the weights are of another network: missing key_proj.we"),
        ("key_proj.bias", torch.full((16,), 7e4), "--half", "new.pth: key_proj.bias has values beyond 65504"),
    ):
        changed = {key: item for key, item in (network.state_dict() | {name: value}).items() if item is not None}
        torch.save(contents | {"network": changed}, paths[0])
        with pytest.raises(SystemExit):
            convert([*paths, flag])
        assert message in capsys.readouterr().err and not (tmp_path / "new.pth").exists()


def test_sizes_that_do_not_match_allocate_nothing(tiny_network, tmp_path, monkeypatch):
    """Weights of 16 key channels beside settings of 4096: refused before a network of that size exists."""
    network = tiny_network()
    config = dataclasses.asdict(network.config) | {"key_dim": 4096}
    write_torch_file(tmp_path / "large.pth", {"format": 1, "config": config, "network": network.state_dict()})
    devices, init = set(), Network.__init__
    monkeypatch.setattr(
        Network, "__init__", lambda self, *a: init(self, *a) or devices.add(self.key_proj.weight.device.type)
    )
    with pytest.raises(InputError, match=r"large.pth: .*key_proj.weight is \(16, .*instead of \(4096, "):
        load_network(tmp_path / "large.pth")
    with pytest.raises(InputError, match=r"large.pth: .*key_proj.weight is \(16, .*instead of \(4096, "):
        build_network(NetworkConfig(**config), network.state_dict(), tmp_path / "large.pth")
    assert devices == {"meta"}


ODD_ENTRIES = {
    "list": ("network", [1], "holds no settings, or no weights by name"),
    "number": ("network", {"a": 1}, "holds no settings, or no weights by name"),
    "no settings": ("config", 3, "holds no settings, or no weights by name"),
    "future": ("format", 2, "checkpoint format '2'; this version reads 1"),
    "odd format": ("format", torch.zeros(2), "checkpoint format 'tensor"),
    "sparse": ("format", torch.zeros(2, 2).to_sparse(), "is not a checkpoint, or is damaged"),
    "no data": ("network", {"a": torch.zeros(2, device="meta")}, "is not a checkpoint, or is damaged"),
    "complex": ("network", {"a": torch.zeros(2, dtype=torch.complex64)}, "is not a checkpoint, or is damaged"),
    "4 TB in 4 bytes": ("train", [{1: torch.zeros(1).expand(10**12)}], "is not a checkpoint, or is damaged"),
}


@pytest.mark.parametrize("what", ODD_ENTRIES)
def test_own_files_of_other_contents(tiny_network, tmp_path, what):
    entry, value, message = ODD_ENTRIES[what]
    network = tiny_network()
    contents = {"format": 1, "config": dataclasses.asdict(network.config), "network": network.state_dict()}
    write_torch_file(tmp_path / "odd.pth", contents | {entry: value})
    with pytest.raises(InputError, match=f"odd.pth: {message}"):
        load_network(tmp_path / "odd.pth")


def test_weights_of_another_type_are_named(tiny_network, tmp_path):
    state = {name: value.long() for name, value in tiny_network().state_dict().items()}
    with pytest.raises(InputError, match="w.pth: .*conv1.weight is torch.int64 instead of torch.float32"):
        load_weights(tiny_network(), state, tmp_path / "w.pth")


def test_unknown_setting_is_named(tiny_network, tmp_path):
    config = dataclasses.asdict(tiny_network().config) | {"flux": 1}
    write_torch_file(tmp_path / "new.pth", {"format": 1, "config": config, "network": {}})
    with pytest.raises(InputError, match="flux"):
        load_network(tmp_path / "new.pth")


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "weights.pth"
    write_torch_file(path, {"a": torch.zeros(1)})
    with pytest.raises(AttributeError):
        write_torch_file(path, {"a": lambda: None})  # cannot be pickled: fails in the middle
    assert torch.load(path, weights_only=True)["a"].shape == (1,)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_imagenet_weights_from_files(backbone, tmp_path):
    names = {"resnet18", backbone}
    sources = {name: getattr(torchvision.models, name)(weights=None).state_dict() for name in names}
    for name, state in sources.items():
        torch.save(state, tmp_path / f"{name}.pth")
    network = Network(NetworkConfig.preset("gsfm", backbone=backbone, value_dim=32, decoder_dim=16))
    network.load_imagenet([tmp_path / f"{name}.pth" for name in names])
    key, value = network.key_encoder.state_dict(), network.value_encoder.backbone.state_dict()
    last = {"resnet18": "layer3.1.conv2.weight", "resnet50": "layer3.5.conv3.weight"}[backbone]
    assert torch.equal(key[last], sources[backbone][last])
    assert torch.equal(value["conv1.weight"][:, :3], sources["resnet18"]["conv1.weight"])
    if backbone == "resnet50":
        with pytest.raises(InputError, match="resnet18"):
            network.load_imagenet([tmp_path / "resnet50.pth"])
    wide = torchvision.models.wide_resnet50_2(weights=None).state_dict()  # the names of resnet50, other shapes
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(InputError, match="wide.pth: no file"):
        network.load_imagenet([tmp_path / "wide.pth"])
    old = {name: value for name, value in sources["resnet18"].items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    network.value_encoder.backbone.load_imagenet([tmp_path / "old.pth"])


def test_imagenet_offline(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(InputError, match="--pretrained"):
        Network(NetworkConfig.preset("stcn", backbone="resnet18", value_dim=32, decoder_dim=16)).load_imagenet(None)
