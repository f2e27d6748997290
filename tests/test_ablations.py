"""The comparison of variants: real runs of the programs on generated data, continued where they were, and the table."""

import json
import threading

import pytest

from benchmarks.ablations import call, main, table
from tests.conftest import TINY
from tests.scenes import write_davis_2016
from training.config import parse_config

NETWORK = [f"--{name}={value}" for name, value in TINY.items()] + ["--pretrained", "none"]


def parse_in_the_main_thread(arguments):
    """Tyro fails in half of all cases if two threads use it at once, which --jobs 2 does."""
    assert threading.current_thread() is threading.main_thread()
    return parse_config(arguments)


def test_a_variant_is_trained_and_scored_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.ablations.parse_config", parse_in_the_main_thread)
    davis = tmp_path / "DAVIS" / "2016"
    write_davis_2016(davis, {"bear": 1, "blackswan": 2}, length=5)
    (davis / "ImageSets" / "2016").mkdir(parents=True)
    for split, video in (("train", "bear"), ("val", "blackswan")):
        (davis / "ImageSets" / "2016" / f"{split}.txt").write_text(f"{video}\n")
    saves = tmp_path / "saves"
    data = ["--davis_path", str(davis), "--size", "64", "--output", str(tmp_path / "output")]
    training = ["--stage", "3", *NETWORK, "--davis_root", str(tmp_path / "DAVIS"), "--saves", str(saves)]
    training += ["--crop", "48", "-b", "1", "-i", "2", "--num_workers", "0", "--device", "cpu"]
    main(["--variants", "no-lfm", "--seeds", "7", *data, "--", *training])
    name = "ablation-no-lfm-7"
    weights = saves / name / f"{name}_2.pth"
    written = weights.stat().st_mtime_ns
    result = json.loads((tmp_path / "output" / "ablation.json").read_text())["no-lfm"]["7"]
    assert result["blackswan"] == result["J&F"] == pytest.approx((result["J"] + result["F"]) / 2)
    log = (saves / name / "output.txt").read_text()
    assert "--no-lfm --seed 7" in log and "lfm=False" in log and "blackswan" in log

    main(["--variants", "no-lfm", "--seeds", "7", "7", *data, "--", *training])
    assert weights.stat().st_mtime_ns == written and "already finished" in (saves / name / "output.txt").read_text()
    printed = capsys.readouterr().out
    assert printed.count(f"| no-lfm | 1 | {result['J&F']:.1f} |") == printed.count("no-lfm, seed 7") == 2
    faulty = {"--crop 47": "--crop 47", "--lr 1e-3": "another --prefix", "--id mine": "--id"}
    for flags, message in faulty.items():
        with pytest.raises(SystemExit) as exit:
            main(["--variants", "no-lfm", "--seeds", "7", *data, "--", *training, *flags.split()])
        assert exit.value.code == 2 and message in capsys.readouterr().err

    mask = davis / "Annotations/480p/blackswan/00003.png"
    whole = mask.read_bytes()
    mask.write_bytes(b"not a mask")
    for path, fault in ((davis, str(mask)), (tmp_path, "JPEGImages/480p: no such folder")):  # before any training
        with pytest.raises(SystemExit) as exit:
            main(["--prefix", "unscored", *data, "--davis_path", str(path), "--", *training])
        assert exit.value.code == 2 and fault in capsys.readouterr().err and len(list(saves.iterdir())) == 1
    mask.write_bytes(whole)

    # The next stage, each run from the weights of its own: stopped after one of two iterations, then gone on with.
    weights = str(weights).replace(name, "ablation-{variant}-{seed}")
    training = [flag for flag in training if flag not in NETWORK[:-2]] + ["--load_network", weights]
    log, own = tmp_path / "log.txt", weights.format(variant="no-lfm", seed=7)
    call(log, "train.py", "--id", "next-no-lfm-7", *training[:-1], own, "-i", "1", "--seed", "7", threads=1)
    main(["--prefix", "next", "--variants", "no-lfm", "--seeds", "7", *data, "--", *training])
    log = (saves / "next-no-lfm-7" / "output.txt").read_text()
    assert "lfm=False" in log and "--load_model" in log and "--load_network" not in log
    assert (saves / "next-no-lfm-7" / "next-no-lfm-7_2.pth").is_file()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--prefix", "next", "--variants", "no-lfm", "--seeds", "8", *data, "--", *training])
    assert "ablation-no-lfm-8_2.pth: no such file" in capsys.readouterr().err


def test_table_shows_spread_and_paired_differences():
    runs = {"gsfm": {1: 80.0, 2: 84.0}, "stcn": {1: 79.0, 2: 81.0}, "relative": {2: 86.0}}
    results = {name: {s: {"J&F": v, "J": v - 1, "F": v + 1} for s, v in seeds.items()} for name, seeds in runs.items()}
    assert table(results).split("\n")[2:] == [
        "| gsfm | 2 | 82.0 ± 2.8 | 81.0 ± 2.8 | 83.0 ± 2.8 | – |",
        "| stcn | 2 | 80.0 ± 1.4 | 79.0 ± 1.4 | 81.0 ± 1.4 | -2.0 ± 1.4 |",
        "| relative | 1 | 86.0 | 85.0 | 87.0 | +2.0 |",
    ]
