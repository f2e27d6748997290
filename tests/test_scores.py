"""J, F and their statistics, compared with the numbers of the official program and with the definitions."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.scores import main as compare_speed
from benchmarks.scores import naive_boundary, naive_f, naive_j
from datasets.frames import list_frames
from datasets.images import read_image, write_image, write_mask
from scoring.folders import format_table, score_folders
from scoring.metrics import boundary_map, score_masks, statistics
from scripts.plot_scores import plot_scores, plt
from scripts.score import main as run_score
from util.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "davis_statistics.json").read_text(encoding="utf-8"))


def blobs(rng, height, width, count=3):
    """H×W uint8 ids 1…count: discs of random position and size that the border and later discs may cut."""
    ids = np.zeros((height, width), np.uint8)
    for object_id in range(1, count + 1):
        centre = int(rng.integers(0, width)), int(rng.integers(0, height))
        cv2.circle(ids, centre, int(rng.integers(1, max(height, width) // 3)), object_id, -1)
    return ids


@pytest.mark.parametrize("case", FIXTURE["sequences"], ids=lambda case: case["name"])
def test_statistics_equal_the_official_ones(case):
    assert statistics(case["values"][1:-1]) == pytest.approx(case["statistics"], abs=1e-6)
    assert statistics(case["values"]) == pytest.approx(case["all"], abs=1e-6)


def test_statistics_of_any_length():
    """The official decay is NaN from 256 frames on; for these lengths the quarters are given explicitly."""
    rng = np.random.RandomState(3)
    quarters = {256: (65, 191), 257: (65, 192), 300: (76, 224), 600: (151, 449)}  # end of first, begin of last
    for case in FIXTURE["random"]:
        values = rng.uniform(0, 1, case["n"])
        mean, recall, decay = statistics(values)
        assert (mean, recall) == pytest.approx((case["mean"], case["recall"]), abs=1e-9)
        expected = case["decay"]
        if expected is None:
            end, begin = quarters[case["n"]]
            expected = values[:end].mean() - values[begin:].mean()
        assert decay == pytest.approx(expected, abs=1e-9)
    assert statistics([0.25]) == (0.25, 0, 0)
    assert statistics([0.5, 0.5]).recall == 0  # only what is above one half is recalled, as in the official program


def test_boundary_by_hand():
    mask = np.zeros((5, 6), np.uint8)
    mask[2:4, 2:4] = 1
    expected = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert boundary_map(mask).tolist() == expected
    corner = np.zeros((3, 3), np.uint8)  # the mask is replicated beyond the border: no boundary along it
    corner[1:, 1:] = 1
    assert boundary_map(corner).tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("size", [(48, 85), (120, 67), (1, 40), (33, 1), (480, 854)])
def test_masks_equal_the_definition(size):
    rng = np.random.default_rng(sum(size))
    for _ in range(12):
        truth, prediction = blobs(rng, *size), blobs(rng, *size)
        scores = score_masks(truth, prediction)
        assert set(scores) == (set(np.unique(truth)) | set(np.unique(prediction))) - {0}
        for object_id, score in scores.items():
            a, b = truth == object_id, prediction == object_id
            assert score.j == pytest.approx(naive_j(a, b), abs=1e-12)
            assert score.f == pytest.approx(naive_f(a, b), abs=1e-12)
            assert score.in_truth == a.any()
            assert (boundary_map(a.view(np.uint8)) == naive_boundary(a)).all()


def j_and_f(truth, prediction):
    """Of object 1 in two boolean masks."""
    score = score_masks(truth.view(np.uint8), prediction.view(np.uint8))[1]
    return score.j, score.f


def test_empty_and_full_masks():
    empty, full, some = np.zeros((50, 60), bool), np.ones((50, 60), bool), np.zeros((50, 60), bool)
    some[10:20, 10:20] = True
    assert score_masks(empty.view(np.uint8), empty.view(np.uint8)) == {}
    for a, b, j, f in [
        (some, empty, 0, 0),
        (empty, some, 0, 0),
        (some, some, 1, 1),
        (full, full, 1, 1),
        (full, empty, 0, 1),  # a full frame has no boundary, like an empty one
    ]:
        assert j_and_f(a, b) == (j, f)


def test_tolerance_is_a_disk_of_the_rounded_up_diagonal():
    mask = np.zeros((480, 854), bool)  # diagonal 979.7: 8 pixels
    mask[100:200, 300:500] = 1
    assert j_and_f(mask, np.roll(mask, 8, axis=1))[1] == 1
    assert 0 < j_and_f(mask, np.roll(mask, 9, axis=1))[1] < 1
    dot = np.zeros_like(mask)
    dot[240, 400] = 1
    assert j_and_f(dot, np.roll(dot, (3, -5), axis=(0, 1)))[1] == 1
    assert j_and_f(dot, np.roll(dot, (9, 9), axis=(0, 1)))[1] == 0  # within a square, but not within the disk


def save(folder, masks):
    for t, ids in enumerate(masks):
        write_mask(folder / f"{t:05d}.png", ids)


def video(ids_at, frames=9):
    """Frames of 30×40 in which object i, from frame ids_at[i] on, is a square that moves with time."""
    masks = np.zeros((frames, 30, 40), np.uint8)
    for place, (object_id, begin) in enumerate(ids_at.items()):
        for t in range(begin, frames):
            masks[t, 10 * place + 1 : 10 * place + 8, t : t + 9] = object_id
    return masks


def test_folders(tmp_path):
    """Gaps in the ids, a late object, first and last frame left out, extra files ignored with a note."""
    truth = video({2: 0, 9: 0, 254: 4})
    prediction = np.roll(truth, 2, axis=2)
    prediction[0], prediction[-1] = 0, 77  # neither is scored
    prediction[2, 29, 39] = 5  # an id that the truth does not have
    prediction[3][prediction[3] == 9] = 0
    save(tmp_path / "truth" / "a", truth)
    save(tmp_path / "truth" / "b", video({1: 0}))
    save(tmp_path / "prediction" / "a", prediction)
    save(tmp_path / "prediction" / "b", video({1: 0}, frames=11))
    save(tmp_path / "prediction" / "c", video({1: 0}))
    scores = score_folders(tmp_path / "truth", tmp_path / "prediction")

    assert [(s.video, s.id, s.frames[0], len(s.frames)) for s in scores.objects] == [
        ("a", 2, "00001", 7),
        ("a", 9, "00001", 7),
        ("a", 254, "00005", 3),
        ("b", 1, "00001", 7),
    ]
    for score in scores.objects[:3]:
        frames = [int(name) for name in score.frames]
        pairs = [(truth[t] == score.id, prediction[t] == score.id) for t in frames]
        assert score.j == pytest.approx([naive_j(*pair) for pair in pairs], abs=1e-12)
        assert score.f == pytest.approx([naive_f(*pair) for pair in pairs], abs=1e-12)
    assert scores.objects[1].j[2] == 0
    means = [[s.j.mean(), s.f.mean()] for s in scores.objects]  # every object has the same weight
    assert scores.summary().jf == pytest.approx(np.mean(means))
    assert scores.videos()["b"].jf == 1
    assert scores.notes == [
        "ignored predicted ids that a does not have: 5",
        "ignored videos without ground truth: c",
        "ignored 2 predicted masks of frames without ground truth",
    ]
    table = format_table(scores).splitlines()
    assert table[1].split()[:2] == ["global", f"{100 * scores.summary().jf:.1f}"] and len(table) == 1 + 1 + 4 + 1

    everything = score_folders(tmp_path / "truth", tmp_path / "prediction", videos=["a"], all_frames=True)
    late = everything.objects[2]
    assert len(late.frames) == 9 and late.j[:4].tolist() == [1] * 4 and late.j[-1] == 0


def test_the_scorer_drops_the_same_last_frame_as_the_reader(tmp_path):
    names = ["shot1_8", "shot1_9", "shot1_10", "shot2_1"]
    images, masks = tmp_path / "images/v$_{$1", tmp_path / "masks/v$_{$1"  # a formula that Matplotlib cannot read
    for name, mask in zip(names, video({1: 0}, frames=4), strict=True):
        write_image(images / f"{name}.jpg", np.zeros((30, 40, 3), np.uint8))
        (images / f"{name}.json").touch()
        write_mask(masks / f"{name}.png", mask)
    scores = score_folders(masks, masks)
    assert [path.stem for path in list_frames(images)] == names
    assert scores.objects[0].frames == names[1:-1]
    plotted = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt.Axes, "set_xticks", lambda axes, ticks, labels: plotted.append(labels))
        plot_scores(scores, tmp_path / "plot.png", images.parent)
    assert plotted == [[names[1], names[2]]]


def test_binary_masks_are_object_1(tmp_path):
    """DAVIS 2016 stores 255; predictions of 0/255 and of 0/1 score the same, also where the object is absent."""
    masks = video({1: 0}) > 0
    masks[4] = False
    for t, mask in enumerate(masks):
        write_mask(tmp_path / "truth" / f"{t:05d}.png", mask, binary=True)
        write_mask(tmp_path / "binary" / f"{t:05d}.png", np.roll(mask, 3), binary=True)
    save(tmp_path / "ids", np.roll(masks, 3, axis=2).astype(np.uint8))
    results = [score_folders(tmp_path / "truth", tmp_path / name).objects for name in ("binary", "ids")]
    for (score,) in results:  # each folder holds one video, whatever its name
        assert score.id == 1 and len(score.j) == 7
        assert score.j == pytest.approx([naive_j(m, np.roll(m, 3)) for m in masks[1:-1]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "p/v/00003.png").unlink(), r"p/v/00003.png: no such prediction \(1 of 7"),
        (lambda root: (root / "p/v").rename(root / "p/w"), "p/v: no prediction"),
        (lambda root: shutil.rmtree(root / "p/w2"), "p/w2: no prediction"),
        (lambda root: write_mask(root / "p/v/00003.png", np.ones((30, 41), np.uint8)), "is 41×30 .*; expected 40×30"),
        (lambda root: (root / "p/v/00003.png").write_bytes(b"x"), "p/v/00003.png: "),
        (lambda root: (root / "t").rename(root / "u"), "t: no such folder"),
        (lambda root: [(root / f"t/v/{t:05d}.png").unlink() for t in range(7)], "2 masks are too few"),
    ],
)
def test_faulty_folders(tmp_path, spoil, message):
    for name in ("t/v", "p/v", "t/w2", "p/w2"):
        save(tmp_path / name, video({1: 0}))
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        score_folders(tmp_path / "t", tmp_path / "p")
    assert "\n" not in str(error.value)


def test_results_of_an_evaluation_may_be_either_folder(tmp_path):
    save(tmp_path / "v", video({1: 0}))
    for path in list((tmp_path / "v").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    for name in (".records/v.json", "overlay/v.png", ".cache/a.png", "v/._00000.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    scores = score_folders(tmp_path, tmp_path)
    assert scores.videos().keys() == {"v"} and scores.summary().jf == 1 and not scores.notes


def test_names_of_videos_on_the_command_line(tmp_path, capsys):
    save(tmp_path / "v", video({1: 0}))
    with pytest.raises(SystemExit):
        run_score([str(tmp_path), str(tmp_path), "--videos", f"v, {'w' * 300}"])
    error = capsys.readouterr().err
    assert f"{tmp_path / ('w' * 300)}: no ground truth" in error and error.count("\n") == 1


def test_speed_against_the_definition(tmp_path, capsys):
    save(tmp_path / "truth", video({1: 0, 2: 0}))
    save(tmp_path / "results", np.roll(video({1: 0, 2: 0}), 1, axis=1))
    folders = ["--truth", str(tmp_path / "truth"), "--prediction", str(tmp_path / "results"), "--repeats", "1"]
    compare_speed(folders)  # asserts that the numbers are equal
    assert "definition" in capsys.readouterr().out
    write_mask(tmp_path / "results/00004.png", np.ones((9, 9), np.uint8))
    with pytest.raises(SystemExit) as end:
        compare_speed(folders)
    assert end.value.code == 2 and "results/00004.png: is 9×9 pixels" in capsys.readouterr().err


def run_script(name, *arguments):
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_score_script(tmp_path):
    truth = video({1: 0, 3: 2})
    save(tmp_path / "t/a", truth)
    save(tmp_path / "t/b", video({1: 0}))
    save(tmp_path / "p/a", np.roll(truth, 2, axis=2))
    save(tmp_path / "p/b", video({1: 0}))
    (tmp_path / "seen.txt").write_text("a 1\nshark\n")
    meta = {"a": {"1": "dog", "3": "cat"}, "b": {"1": "shark"}}
    meta = {v: {"objects": {i: {"category": c, "frames": []} for i, c in ids.items()}} for v, ids in meta.items()}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": meta}))
    files = {name: tmp_path / f"scores.{name}" for name in ("csv", "json", "png")}
    arguments = ["--csv", files["csv"], "--json", files["json"], "--plot", files["png"]]
    arguments += ["--seen", tmp_path / "seen.txt", "--meta", tmp_path / "meta.json"]
    result = run_script("score.py", tmp_path / "t", tmp_path / "p", *arguments)
    assert result.returncode == 0, result.stderr

    content = json.loads(files["json"].read_text())
    a1, a3, b1 = content["objects"]
    assert (a3["id"], a3["frames"], len(a3["J"])) == (3, ["00003", "00004", "00005", "00006", "00007"], 5)
    assert content["global"]["J&F"] == pytest.approx((a1["J&F"] + a3["J&F"] + b1["J&F"]) / 3)
    assert content["seen"]["J_mean"] == pytest.approx((a1["J_mean"] + b1["J_mean"]) / 2)
    assert content["unseen"]["F_mean"] == a3["F_mean"]
    both = [content[part][key] for part in ("seen", "unseen") for key in ("J_mean", "F_mean")]
    assert content["seen and unseen"]["J&F"] == pytest.approx(np.mean(both))  # YouTube-VOS's overall score
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["level"] for row in rows] == ["global", *list(content)[1:4], "video", "video", *["object"] * 3]
    assert float(rows[-2]["J_mean"]) == a3["J_mean"] and rows[-2]["frames"] == "5"
    assert f"{100 * content['global']['J&F']:.1f}" in result.stdout.splitlines()[1]
    assert read_image(files["png"]).std() > 10

    meta["a"]["objects"].pop("3")  # would count as unseen
    (tmp_path / "meta.json").write_text(json.dumps({"videos": meta}))
    result = run_script("score.py", tmp_path / "t", tmp_path / "p", *arguments)
    assert result.returncode == 2 and "meta.json: has no object 3 of video a" in result.stderr
    result = run_script("score.py", tmp_path / "t", tmp_path / "nothing")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "nothing: no such folder" in result.stderr
