"""Hooks of mkdocs.yml: pages from files outside docs, and links to them and from them."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File  # type: ignore[import-not-found,unused-ignore]  # only make docs installs it

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "data/README.md": "data.md",
    "saves/README.md": "saves.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs."""
    for source, page in OUTSIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_linked(content, source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Lead the links of the other pages to those."""
    return _linked(markdown, f"docs/{page.file.src_uri}") if page.file.src_uri not in OUTSIDE.values() else markdown


def _linked(markdown: str, source: str) -> str:
    """The text of the file ``source`` with its links as seen from its page."""
    folder = PurePosixPath(source).parent
    own_folder = folder.relative_to("docs") if folder.is_relative_to("docs") else PurePosixPath()

    def target(link: re.Match[str]) -> str:
        path = normpath(f"{folder}/{link[2]}")
        page = OUTSIDE.get(path, path.removeprefix("docs/"))
        if page == path and (ROOT / path).is_file():  # a file of the repository that has no page
            return link[1]
        return f"[{link[1]}]({relpath(page, own_folder)}{link[3] or ''})"

    return LINK.sub(target, markdown)
