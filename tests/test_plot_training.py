"""plot_training.py: curves from logs with gaps, and one line for logs and flags that cannot be used."""

import pytest
from PIL import Image

from scripts import plot_training

ENTRY = '{"iteration": 1, "loss": 0.5, "iou": 0.5, "lr": 1e-4, "seconds": 1}\n'


def test_gaps_and_other_entries_are_skipped(tmp_path, capsys):
    log = tmp_path / "run$_{$1" / "run_log.jsonl"
    log.parent.mkdir()
    log.write_text(
        '{"config": {}}\n' + ENTRY + '{"iteration": 3, "loss": NaN, "val": 1}\n{"iteration": 2, "los\n\0\0\0\0\0'
    )
    for run in (log.parent, log):
        plot_training.main([str(run), "--smooth", "9"])
        assert capsys.readouterr().out == f"{log.parent}/curves.png: {run} to iteration 3\n"
        with Image.open(log.parent / "curves.png") as image:
            assert image.size[0] > 400


@pytest.mark.parametrize(
    ("log", "flags", "message"),
    [
        (ENTRY, ["--smooth", "0"], "--smooth 0: expected at least one entry"),
        (ENTRY, ["--output", "/dev/null"], "/dev/null: is not a regular file"),
        (None, [], "run: expected the folder of one training run"),
        ("", [], "run_log.jsonl: no entries yet"),
        ("5\n", [], "run_log.jsonl: is not a training log"),
        ('{"iteration": 1, "loss": null}\n', [], "run_log.jsonl: is not a training log"),
        ('{"iteration": "x", "loss": 1}\n', [], "run_log.jsonl: is not a training log"),
        ('{"iteration": 1e999, "loss": 1}\n', [], "run_log.jsonl: is not a training log"),
        (f'{{"iteration": 1, "loss": {10**400}}}\n', [], "run_log.jsonl: is not a training log"),
        ('{"iteration": ' + "9" * 5000 + "}\n", [], "run_log.jsonl: is not a training log"),
        ("[" * 10**5 + "\n", [], "run_log.jsonl: is not a training log"),
        ('{"iteration": 1, "loss": 1e308}\n', [], "run_log.jsonl: is not a training log"),
        (ENTRY, ["--output", "/"], "/: is not a regular file"),
        ("\udcff", [], "run_log.jsonl: is not a training log"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, capsys, log, flags, message):
    (tmp_path / "run").mkdir()
    if log is not None:
        (tmp_path / "run/run_log.jsonl").write_bytes(log.encode("utf-8", "surrogateescape"))
    with pytest.raises(SystemExit) as end:
        plot_training.main([str(tmp_path / "run"), *flags])
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1 and error.count("jsonl: is") <= 1
    assert not (tmp_path / "run/curves.png").exists()
