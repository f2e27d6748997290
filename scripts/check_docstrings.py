"""Check that the functions in the reference of the documentation state the shapes of their arrays.

python scripts/check_docstrings.py
"""

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARRAY = re.compile(r"(?<!, torch\.)\b(Tensor|ndarray)\b")  # not those in a dict
SHAPE = re.compile(r"×|[Ss]calar|\d-D|see `")  # the last refers to another docstring


def reference_files() -> list[Path]:
    """The files of the modules that the pages ``docs/api/*.md`` show."""
    pages = (page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/api").glob("*.md")))
    modules = [name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page, re.M)]
    return [ROOT / (name.replace(".", "/") + ".py") for name in modules]


def missing_shapes(files: Iterable[Path] | None = None) -> list[str]:
    """A line for each public function with arrays among its arguments or results whose docstring states no shape.

    The docstring of a class counts for its methods.
    """
    missing = []
    for path in reference_files() if files is None else files:
        module = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not _is_inner(node)]
        scopes: list[ast.Module | ast.ClassDef] = [module, *classes]
        for scope in scopes:
            above = (ast.get_docstring(scope) or "") if isinstance(scope, ast.ClassDef) else ""
            for function in scope.body:
                if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                    continue
                text = above + (ast.get_docstring(function) or "")
                if ARRAY.search(_types(function)) and not SHAPE.search(text):
                    missing.append(f"{path}:{function.lineno}: {function.name}() states no shape")
    return missing


def _is_inner(node: ast.ClassDef) -> bool:
    """Whether a class is private, or a protocol, whose implementations state the shapes."""
    return node.name.startswith("_") or any(ast.unparse(base) == "Protocol" for base in node.bases)


def _types(function: ast.FunctionDef) -> str:
    """The annotations of the arguments and the result."""
    arguments = [node.annotation for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    return " ".join(ast.unparse(annotation) for annotation in (*arguments, function.returns) if annotation)


def main() -> int:
    missing = missing_shapes()
    print("\n".join([*missing, f"{len(missing)} docstrings without a shape"]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
