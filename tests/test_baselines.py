"""The baselines that need no training, against their definitions, and from folder to PNGs."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import baselines
from benchmarks.baselines import NEVER, LabelMemory, NearestNetwork
from datasets.images import read_mask, write_image, write_mask
from inference_core import InferenceCore
from model.encoders import Backbone
from model.tensor import soft_aggregate
from tests.folders import frame, ids_at
from tests.scenes import write_davis_2016
from tests.videos import blocks, own_data

ROOT = Path(__file__).resolve().parents[1]


def plain_propagation(features, mask, latest, top, temperature):
    """features T×C×h×w, mask K×16h×16w → soft labels T−1 times K×16h×16w, by dense cosines."""
    units = F.normalize(features.double().flatten(2), dim=1)
    labels, enlarged = [F.avg_pool2d(mask, 16).flatten(1).double()], []
    for t in range(1, len(units)):
        memory = [0, *range(max(1, t - latest), t)]
        cosines, places = torch.cat([units[i].T @ units[t] for i in memory]).topk(top, dim=0)
        weights = (cosines / temperature).softmax(dim=0)
        labels.append((torch.cat([labels[i] for i in memory], dim=1)[:, places] * weights).sum(1))
        cells = labels[-1].float().unflatten(1, features.shape[2:])
        enlarged.append(F.interpolate(cells[None], scale_factor=16, mode="bilinear")[0])
    return enlarged


@pytest.mark.parametrize("latest", [0, 2])
def test_nearest_is_its_definition(latest):
    """Two objects, more frames than the memory holds; probabilities are the labels, aggregated as ever."""
    network = NearestNetwork("resnet18", temperature=0.07).eval()
    images = torch.rand(6, 3, 96, 128)
    ids = torch.from_numpy(ids_at(20, 1, 2, size=(96, 128)))
    memory = partial(LabelMemory, 5, latest + 1 if latest else None)
    core = InferenceCore(network, memory, 1 if latest else NEVER)
    probs = [core.step(image, ids if t == 0 else None) for t, image in enumerate(images)]
    with torch.inference_mode():
        features = network.key_encoder(network.normalize(images))[2]
    expected = plain_propagation(features, torch.stack([ids == 1, ids == 2]).float(), latest, 5, 0.07)
    assert len({float(labels.sum()) for labels in expected}) == len(expected)
    for prob, labels in zip(probs[1:], expected, strict=True):
        assert torch.allclose(prob, soft_aggregate(labels[None]).softmax(1)[0], atol=1e-5)


def test_copy_of_two_objects_in_a_video_larger_than_the_processing(tmp_path, capsys):
    base, mask = tmp_path / "davis/trainval", ids_at(0, 2, 5, size=(72, 104))
    for t in range(4):
        write_image(base / f"JPEGImages/480p/camel/{t:05d}.jpg", frame(t, (72, 104)))
        write_mask(base / f"Annotations/480p/camel/{t:05d}.png", mask)
    flags = f"copy --davis_path {tmp_path / 'davis'} --videos camel --output {tmp_path / 'out'} --device cpu".split()
    baselines.main(flags)
    assert "camel" in capsys.readouterr().out
    for t in range(4):
        assert np.array_equal(read_mask(tmp_path / f"out/camel/{t:05d}.png"), mask)
    baselines.main([*flags, "--size", "36", "--overwrite"])
    small = read_mask(tmp_path / "out/camel/00003.png")
    assert small.shape == mask.shape and set(np.unique(small)) == {0, 2, 5} and (small != mask).mean() < 0.05


def test_copy_of_ones_own_videos_takes_the_first_masks_only(tmp_path):
    masks = {0: blocks((48, 64), 1, 2), 3: blocks((48, 64), 2, 1)}
    data, output = own_data(tmp_path / "data", {"clip": masks}), tmp_path / "out"
    baselines.main(["copy", "--data_path", str(data), "--output", str(output), "--device", "cpu"])
    results = [read_mask(path) for path in sorted(output.glob("clip/*.png"))]
    assert len(results) == 6 and all(np.array_equal(result, masks[0]) for result in results)


def test_nearest_from_the_command_line(tmp_path, capsys):
    write_davis_2016(tmp_path / "davis", {"camel": 0}, length=4)
    torch.save(Backbone("resnet18").state_dict(), tmp_path / "weights.pth")
    flags = f"nearest --davis_path {tmp_path / 'davis'} --videos camel --output {tmp_path / 'out'} --device cpu".split()
    baselines.main([*flags, "--pretrained", str(tmp_path / "weights.pth")])
    assert "J&F" in capsys.readouterr().out
    results = [read_mask(tmp_path / f"out/camel/{t:05d}.png") for t in range(4)]
    truth = [read_mask(tmp_path / f"davis/Annotations/480p/camel/{t:05d}.png") for t in range(4)]
    assert np.array_equal(results[0], truth[0])
    assert all(set(np.unique(result)) == {0, 255} for result in results)
    with pytest.raises(SystemExit) as end:
        baselines.main([*flags, "--split", "testdev"])
    assert end.value.code == 2 and "--split val or train" in capsys.readouterr().err
    weights = (tmp_path / "weights.pth").rename(tmp_path / "moved.pth")
    baselines.main([*flags, "--pretrained", str(weights)])
    assert "1 already finished" in capsys.readouterr().out
    torch.save(Backbone("resnet18").state_dict(), weights)
    with pytest.raises(SystemExit) as end:
        baselines.main([*flags, "--pretrained", str(weights)])
    assert end.value.code == 2 and "a run with different pretrained; expected" in capsys.readouterr().err


def test_processes_divide_the_videos(tmp_path):
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}, "b": {0: blocks((32, 48), 1)}})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = ["copy", "--data_path", str(data), "--output", str(tmp_path / "out"), "--device", "cpu", "--overwrite"]
    command = [*launch, "benchmarks/baselines.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "2 videos segmented" in done.stdout
    assert sorted(re.findall("([ab]): 6 frames,", done.stdout)) == ["a", "b"]
