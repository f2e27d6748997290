"""The documentation: the notebook runs, pages and their commands refer to what exists, and docstrings state shapes."""

import json
import re
import sys
from pathlib import Path

import pytest

from scripts.check_docstrings import missing_shapes

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "saves/README.md"))]
# Where flags are defined, besides the programs themselves.
SHARED = ("eval_flags.py", "training/config.py", "model/config.py", "datasets/config.py", "benchmarks/timing.py")


def test_notebook_runs(tmp_path, monkeypatch):
    """On a smaller clip, and in a folder with the few files that it needs, so that the repository stays as it is."""
    notebook = json.loads((ROOT / "docs/quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10
    (tmp_path / "predictor.py").touch()
    (tmp_path / "saves").mkdir()
    (tmp_path / "saves/gsfm-small.pth").write_bytes((ROOT / "saves/gsfm-small.pth").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict = {}
    for cell in cells:
        exec(cell.replace("(240, 432)", "(112, 192)"), names)
        sys.path = [path for path in sys.path if path != str(tmp_path)]  # its predictor.py is empty
    before, after = (names["mean_jf"](masks) for masks in ([r.ids for r in names["results"]], names["corrected"]))
    assert 60 < before < after
    assert len(list((tmp_path / "output/quickstart/masks").glob("*.png"))) == 12
    assert (tmp_path / "output/quickstart/overlay.mp4").stat().st_size > 1000


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_name_programs_and_flags_that_exist(page):
    text = page.read_text(encoding="utf-8")
    for line in text.replace("\\\n", " ").splitlines():
        if command := re.search(r"(?:python|torchrun\b.*?) ((?:scripts/|benchmarks/)?\w+\.py)(.*)", line):
            known = "".join((ROOT / name).read_text(encoding="utf-8") for name in (command[1], *SHARED))
            for flag in re.findall(r"(?<!\S)--(?:no[-_])?([a-z_]\w*)", command[2]):
                assert flag == "help" or re.search(rf"\b{flag}\b", known), f"--{flag}: {line}"
    for module in re.findall(r"^::: ([\w.]+)$", text, re.M):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """Also those between files that are no pages of the site, which the strict build does not see."""
    made = {ROOT / "docs" / name for name in ("contributing.md", "data.md", "saves.md", "changelog.md")}
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target in made, link
        if anchor and target.exists():
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_navigation_holds_every_page():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    outside = {"data.md", "saves.md", "contributing.md", "changelog.md"}  # made from files outside docs
    assert listed - outside == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}


def test_docstrings_of_the_reference_state_shapes():
    assert missing_shapes() == []


def test_a_missing_shape_is_found(tmp_path):
    functions = "def good(x: torch.Tensor):\n    '''N×3.'''\ndef bad(x: torch.Tensor):\n    '''Text.'''\n"
    (tmp_path / "module.py").write_text(functions + "def _private(x: np.ndarray): ...\n", encoding="utf-8")
    assert missing_shapes([tmp_path / "module.py"]) == [f"{tmp_path / 'module.py'}:3: bad() states no shape"]
