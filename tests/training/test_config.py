"""Settings of a run: the published table, what a checkpoint or a weights file brings, and what is refused."""

import dataclasses

import pytest
import torch

from model.config import NetworkConfig
from model.network import save_network
from model.weights import write_network_file, write_torch_file
from training.config import TrainConfig, parse_config
from util.errors import InputError

BASE = ["--id", "x", "--stage", "3"]


def write_checkpoint(path, config: TrainConfig) -> None:
    """What resuming reads the settings from, without a training."""
    train = {"iteration": 1, "position": 8, "best": -1.0, "optimizer": {}, "scaler": {}, "rng": []}
    train["settings"] = config.saved_settings()
    write_network_file(path, dataclasses.asdict(config.network), {}, train=train)


def test_published_recipes():
    table = {0: (4e-5, 16, 40_000, 20_000, 3000, 10_000), 1: (6e-5, 8, 65_000, 50_000, 5000, 20_000)}
    table |= {2: (6e-5, 8, 40_000, 30_000, 3000, 10_000), 3: (4e-5, 8, 30_000, 25_000, 3000, 15_000)}
    for stage, (lr, batch, iterations, step, start, end) in table.items():
        config = parse_config(["--id", "x", "--stage", str(stage), "--local-rank=0"])
        recipe = config.recipe
        assert (recipe.lr, recipe.iterations, recipe.steps) == (lr, iterations, (step,))
        assert (recipe.start_warm, recipe.end_warm, recipe.hard_fraction) == (start, end, 0.15)
        assert (recipe.weight_decay, recipe.gamma, recipe.boundary_weight, recipe.dice_weight) == (1e-7, 0.1, 0.05, 0)
        assert (recipe.accumulate, recipe.ema, recipe.schedule, recipe.amp) == (1, 0, "steps", "auto")
        assert config.clips_per_pass(8) == batch and not recipe.freeze_backbone
        assert (config.data.num_frames, config.data.crop, config.data.paste) == (3, 384, 0)
        assert config.network == NetworkConfig(single_object=stage == 0)
        assert recipe.learning_rate(step - 1) == lr and recipe.learning_rate(step) == pytest.approx(lr / 10)


def test_schedules():
    recipe = dataclasses.replace(parse_config(BASE).recipe, iterations=100, lr=1.0, schedule="cosine", warm_up=10)
    assert [recipe.learning_rate(i) for i in (0, 50, 75)] == pytest.approx([0.1, 0.5, 0.5 - 0.5**1.5])
    assert recipe.learning_rate(4) == pytest.approx(0.5, abs=3e-3) and 0 < recipe.learning_rate(99) < 3e-4


def test_spellings():
    config = parse_config([*BASE, "--no-lfm", "--no_hfm", "--amp", "bf16", "--extra", "a:b", "c:d:2", "-b", "3"])
    assert not config.network.lfm and not config.network.hfm and config.recipe.amp == "bf16"
    assert config.data.extra == ("a:b", "c:d:2") and config.recipe.batch_size == 3
    flags = ["--no_amp", "--benchmark", "--steps", "5", "7", "--local_rank", "1", "--val_davis=d", "--val_every", "9"]
    config = parse_config([*BASE, *flags, "--pretrained", "r50.pth", "r18.pth", "--debug", "--image_every=7"])
    assert config.recipe.amp == "none" and config.machine.benchmark and config.recipe.steps == (5, 7)
    assert str(config.validation.val_root) == "d" and config.pretrained == ("r50.pth", "r18.pth")
    assert (config.records.log_every, config.records.image_every) == (5, 7)


def test_resumed_run_keeps_its_settings(tmp_path):
    path = tmp_path / "x_checkpoint.pth"
    flags = "--model gsfm-small --no-hfm --global_batch_size 8 --lr 1e-3 --steps 5 --ema 0.9 --davis_root elsewhere"
    first = parse_config([*BASE, *flags.split(), "--num_workers", "1", "--compile", "--log_every", "7"])
    write_checkpoint(path, first)
    second = parse_config(["--id", "y", *BASE[2:], "--load_model", str(path), "--lr", "1e-4", "--seed", "5"], 2)
    assert second.network == first.network and second.data == first.data and second.records == first.records
    assert second.recipe == dataclasses.replace(first.recipe, lr=1e-4, seed=5)
    assert second.id == "y" and second.clips_per_pass(2) == 4
    assert second.machine.num_workers == 8 and not second.machine.compile  # of the call alone
    assert parse_config([*BASE, "--load_model", str(path), "-b", "3"]).clips_per_pass(2) == 3
    with pytest.raises(InputError, match="a checkpoint of stage 3, not 0; .*--load_network"):
        parse_config(["--id", "x", "--stage", "0", "--load_model", str(path)])


def test_resume_starts_or_goes_on(tiny_network, tmp_path):
    """The same command for the first start, from the weights of another run, and for all later ones."""
    save_network(tmp_path / "s0.pth", tiny_network("stcn"))
    flags = [*BASE, "--saves", str(tmp_path), "--resume", "--load_network", str(tmp_path / "s0.pth"), "--lr", "1e-3"]
    first = parse_config([*flags, "--imagenet_blend", "0.5"])
    assert first.load_network == tmp_path / "s0.pth" and first.load_model is None
    path = tmp_path / "x/x_checkpoint.pth"
    write_checkpoint(path, first)
    (tmp_path / "s0.pth").unlink()
    second = parse_config([*flags, "--imagenet_blend", "0.5"])
    assert (second.load_model, second.load_network, second.imagenet_blend) == (path, None, 0)
    assert second.network == first.network and second.recipe == first.recipe
    with pytest.raises(InputError, match="--resume: not allowed with --load_model"):
        parse_config([*BASE, "--resume", "--load_model", str(path)])


def test_weights_bring_their_network(tiny_network, tmp_path):
    path = tmp_path / "s0.pth"
    network = tiny_network("stcn", single_object=True)
    save_network(path, network)
    assert parse_config([*BASE, "--load_network", str(path)]).network == dataclasses.replace(
        network.config, single_object=False
    )
    given = parse_config([*BASE, "--load_network", str(path), "--model", "gsfm", "--filter", "relative"]).network
    assert given.lfm and given.filter == "relative" and given.value_dim == network.config.value_dim


REFUSED = {
    "--stage 7": "invalid choice: 7",
    "--global_batch_size 4 -b 2": "not allowed with",
    "--global_batch_size 3 --accumulate 2": "expected a multiple of 2",
    "--amp bf16 --no-amp": "not allowed with",
    "--load_model a.pth --load_network b.pth": "not allowed with",
    "--load_network missing.pth": "missing.pth: no such file",
    "--crop 50": "multiple of 16",
    "--val_every 5": "--val_root and --val_every",
    "--id ../x": "expected a name for a folder",
    "--lr nan": "--lr nan: expected a number",
    "--lr -1": "--lr -1.0: expected a number",
    "--ema 1": "--ema 1.0: expected",
    "--hard_fraction 0": "--hard_fraction 0.0: expected",
    "--seed -1": "--seed -1: expected",
    "--end_warm -1": "--end_warm -1: expected",
    "--start_warm 20000 --end_warm 100": "--start_warm 20000: expected at most --end_warm, 100",
    "--steps 5 -5": "--steps -5: expected a number",
    "--extra a:a --extra=b:b": "--extra: given more than once",
    "--crop 1000000000000": "--crop 1000000000000: expected a multiple of 16, up to",
    "--synthetic 1000000000000": "--synthetic 1000000000000: expected a number of clips",
    "--num_workers 1000000000000": "--num_workers 1000000000000: expected",
    "--num_frames 1000000000000": "--num_frames 1000000000000: expected",
    "--accumulate 1000000000000": "--accumulate 1000000000000: expected",
    "--flux 3": "Unrecognized options: --flux, 3; train.py --help lists all flags",
    "--backbone vgg": "invalid choice 'vgg' for argument '--backbone'",
    "--lr fast": "--lr: could not convert string to float: 'fast'",
    "--value_dim 1000000000000": "value_dim=1000000000000: expected 1 to 4096 channels",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_refused(flags):
    with pytest.raises(InputError) as error:
        parse_config([*BASE, *flags.split()])
    assert REFUSED[flags] in str(error.value) and "\n" not in str(error.value)


FAULTY_NETWORKS = {
    "unknown": ({"flux": 1}, "flux"),
    "number for bool": ({"lfm": 1}, "lfm=1: expected true or false"),
    "text for number": ({"key_dim": "64"}, "key_dim='64': expected a whole number"),
    "absurd": ({"value_dim": 10**12}, "expected 1 to 4096 channels"),
    "choice": ({"memory": "none"}, "expected one of space_time, global_context"),
    "number as name": ({1: 2}, "unknown to this version: 1"),
}


@pytest.mark.parametrize("what", FAULTY_NETWORKS)
def test_faulty_network_settings_are_refused_with_the_file(what, tmp_path):
    settings, message = FAULTY_NETWORKS[what]
    path = tmp_path / "faulty.pth"
    write_torch_file(path, {"format": 1, "config": settings, "network": {"weight": torch.zeros(1)}})
    with pytest.raises(InputError, match=r"faulty\.pth: ") as error:
        parse_config([*BASE, "--load_network", str(path)])
    assert message in str(error.value)


def test_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    path = tmp_path / "old_checkpoint.pth"
    config = parse_config(BASE)
    train = {"iteration": 1, "position": 8, "best": -1.0, "optimizer": {}, "scaler": {}, "rng": []}
    train["settings"] = {"stage": 3, "lr": 1e-3}
    write_network_file(path, dataclasses.asdict(config.network), {}, train=train)
    with pytest.raises(InputError, match="earlier version"):
        parse_config([*BASE, "--load_model", str(path)])
