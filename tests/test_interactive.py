"""The robot user on a small clip: its table, and that corrections count."""

import json

import numpy as np
import pytest

from benchmarks import interactive
from datasets.images import write_image, write_mask
from tests.scenes import discs


def test_robot_user(tmp_path, tiny_weights, capsys):
    frames, truth = discs(1, 4, size=32)
    for t in range(4):
        write_image(tmp_path / f"JPEGImages/discs/{t:05d}.jpg", frames[t])
        write_mask(tmp_path / f"GroundTruth/discs/{t:05d}.png", truth[t])
    flags = ["--model", tiny_weights, "--data_path", tmp_path, "--rounds", 3, "--device", "cpu"]
    flags += ["--json", tmp_path / "rounds.json", "--plot", tmp_path / "plot.png"]
    interactive.main([str(flag) for flag in flags])
    out = capsys.readouterr().out
    assert out.count("| corrected frames | 0 | 1 | 2 | 3 | area | s per round |") == 2
    played = json.loads((tmp_path / "rounds.json").read_text())["rounds"]
    assert played.keys() == {"suggested", "worst", "uniform", interactive.FORWARD}
    for name, clips in played.items():
        for rows in clips.values():
            scores, _, corrected = zip(*rows, strict=True)
            assert corrected[0] == 0 and sorted(corrected) == list(range(4))
            assert np.isclose(scores[-1], 1) or name == interactive.FORWARD
    assert -1 <= float(out.split("confidence and J: ")[1].split(",")[0]) <= 1
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        interactive.main([*map(str, flags), "--choices", "best"])
    assert "expected some of suggested, worst, uniform" in capsys.readouterr().err
    interactive.main([*map(str, flags), "--choices", "worst", "--rounds", "1"])  # replaces its own files
    assert "| worst |" in capsys.readouterr().out

    last = tmp_path / "GroundTruth/last/00000.png"
    write_image(tmp_path / "JPEGImages/last/00000.jpg", frames[0])
    (tmp_path / "JPEGImages/.hidden").touch()
    for mask, fault in ((None, "no such file"), (truth[0, :9], "the mask is 32×9 pixels"), (truth[0], "two frames")):
        if mask is not None:
            write_mask(last, mask)
        with pytest.raises(SystemExit) as end:
            interactive.main([*map(str, flags)])
        printed, error = capsys.readouterr()
        assert end.value.code == 2 and not printed and str(last.parent) in error and fault in error


def test_rank_correlation():
    assert interactive.rank_correlation([(0.1, 0.5), (0.4, 0.9), (0.2, 0.6)]) == 1
    assert interactive.rank_correlation([(3.0, 1.0), (3.0, 2.0), (1.0, 4.0), (2.0, 3.0)]) == pytest.approx(-0.9486833)
