"""The layers of the code: imports only point down, and names that the project does not use stay out."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Highest first. A layer may import from layers below it; leaves do not know each other, except inside a folder.
PROGRAMS = {path.stem for path in ROOT.glob("*.py") if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")}
LAYERS = [
    {*PROGRAMS, "hubconf", "scripts", "benchmarks", "docs"},
    {"eval_flags"},
    {"training", "eval_program"},
    {"evaluation", "annotation"},
    {"predictor"},
    {"session", "adaptation"},
    {"propagation"},
    {"inference_core", "results", "scoring"},
    {"inference_memory_bank", "model", "datasets"},
    {"attention", "labels"},
    {"util"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def sources() -> list[Path]:
    command = ["git", "ls-files", "*.py"]
    # Without git or a repository, as in an image of Python or an unpacked release: all files.
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    listed = found.stdout.split() if found else []
    files = [ROOT / name for name in listed] or [p for p in ROOT.rglob("*.py") if ".venv" not in p.parts]
    return [path for path in files if "tests" not in path.relative_to(ROOT).parts and path.exists()]


def test_imports_only_point_down():
    seen = 0
    for path in sources():
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert own in LEVEL, f"{path}: expected its layer in LAYERS"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                modules = [node.module]
            for module in modules:
                name = module.split(".")[0]
                if name not in LEVEL or name == own:
                    continue
                seen += 1
                assert LEVEL[own] < LEVEL[name], f"{path.relative_to(ROOT)} imports {module}"
    assert seen > 30


def test_memories_need_torch_alone():
    for name in ("inference_memory_bank.py", "attention.py"):
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in imported} <= {"torch", "math", "attention", "typing", "collections"}


def test_code_is_device_agnostic_and_loads_safely():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\.cuda\(\)", text), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"


def test_every_program_explains_itself():
    """Each opens with the command that runs it."""
    programs = [p for p in sources() if 'if __name__ == "__main__":' in p.read_text(encoding="utf-8")]
    assert len(programs) > 10
    for path in programs:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert doc and path.name in doc, f"{path}: the docstring names no command"
