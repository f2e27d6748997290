"""Blurred clips: sharpness is lost, places are not, and the flag reaches every clip."""

import cv2
import numpy as np

from datasets.augmentation import blur
from datasets.config import DataConfig
from datasets.mixture import SampleRequest, build_dataset


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(image, cv2.CV_32F).std())


def test_frames_lose_detail_and_stay_in_place():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    square = np.zeros((96, 96, 3), np.uint8)
    square[31:64, 20:53] = 255
    distances = []
    for seed in range(40):
        blurred = blur(np.random.default_rng(seed), [noise, noise], 1.0)
        assert all(frame.shape == noise.shape and frame.dtype == np.uint8 for frame in blurred)
        distances.append(max(sharpness(frame) / sharpness(noise) for frame in blurred))
        (frame,) = blur(np.random.default_rng(seed), [square], 1.0)
        y, x = np.nonzero(frame[..., 0] > 127)
        assert abs(y.mean() - 47) < 1.5 and abs(x.mean() - 36) < 1.5
    assert max(distances) < 0.95 and np.median(distances) < 0.5


def test_flag_reaches_every_clip(tmp_path):
    (tmp_path / "set").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "set/noise.png"), np.full((96, 96), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "set/noise.jpg"), picture)
    clips = {}
    for probability in (0.0, 1.0):
        data = DataConfig(static_root=tmp_path, crop=96, deform=0.0, blur=probability)
        mixture = build_dataset(0, data)
        clips[probability] = [mixture[SampleRequest(0, (i,), 0.0)].frames.numpy() for i in range(5)]
    for sharp, blurred in zip(clips[0.0], clips[1.0], strict=True):
        assert all(sharpness(b) < sharpness(s) for s, b in zip(sharp, blurred, strict=True))
