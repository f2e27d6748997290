"""Start-up: what programs import before they answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.images import write_image, write_mask
from tests.folders import frame, ids_at

ROOT = Path(__file__).parents[1]
PROBE = """
import os, runpy, sys
sys.argv, code = sys.argv[1:], 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code or 0
loaded = [name for name in ("torch", "torchvision", "torch._dynamo", "av") if name in sys.modules]
print("RESULT", code, os.environ["OMP_WAIT_POLICY"], *loaded)
"""


def probe(*words: str, **environment: str) -> list[str]:
    """Run a program; its exit code, wait policy and the slow modules that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout.rpartition("RESULT ")[2].split()


def scripts():
    """Those that take flags."""
    texts = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "scripts").glob("*.py"))}
    return [f"scripts/{name}" for name, text in texts.items() if "add_argument" in text and "__main__" in text]


def programs():
    return ["train.py", *sorted(path.name for path in ROOT.glob("eval_*.py") if "__main__" in path.read_text("utf-8"))]


@pytest.mark.parametrize("program", [*programs(), *scripts()])
def test_help_needs_no_pytorch(program):
    assert probe(program, "--help") in (["0", "passive"], ["0", "passive", "av"])


@pytest.mark.parametrize("program", programs())
def test_faulty_flags_need_no_pytorch(program):
    assert probe(program, "--device", "abacus") == ["2", "passive"]


def test_folders_of_frames_need_pytorch_alone(tiny_weights, tmp_path):
    """Neither its compiler nor torchvision, nor PyAV, which only video files and overlays need."""
    write_image(tmp_path / "data/JPEGImages/clip/0.png", frame(0))
    write_mask(tmp_path / "data/Annotations/clip/0.png", ids_at(0, 1))
    flags = ["--model", tiny_weights, "--data_path", tmp_path / "data", "--output", tmp_path / "out", "--device", "cpu"]
    assert probe("eval_generic.py", *map(str, flags)) == ["0", "passive", "torch"]


@pytest.mark.parametrize("program", [*programs(), "annotate.py", *scripts()])
def test_own_modules_are_found_first(program, tmp_path):
    """Also with ``python -P`` (Python 3.11), and with other packages of the same names, such as a ``datasets``."""
    for name in ("datasets", "util"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('of others')", encoding="utf-8")
    command = [sys.executable, ROOT / program, "--help"]
    environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
