"""What the site shows besides docs/: files elsewhere in the repository that a page links to, under repository/."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PREFIX = "repository/"
PAGES = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "examples/real_text/README.md",
)  # with links of their own
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to outside docs/, files as they are and documents as pages."""
    wanted = {ROOT / page for page in PAGES}
    for page in [*DOCS.rglob("*.md"), *wanted]:
        wanted |= {path for path in _targets(page) if path.is_file() and not path.is_relative_to(DOCS)}
    for path in sorted(wanted):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md" and name not in PAGES:
            continue
        files.append(File.generated(config, PREFIX + name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave docs/, or that stand in a document outside it, into the site's own."""
    uri = page.file.src_uri
    here = ROOT / uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else DOCS / uri

    def local(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = Path(os.path.normpath(here.parent / target))
        inside = path.is_relative_to(DOCS)
        if inside and not uri.startswith(PREFIX):
            return match[0]
        name = path.relative_to(DOCS).as_posix() if inside else PREFIX + path.relative_to(ROOT).as_posix()
        if files.get_file_from_path(name) is None:  # a folder, or a file that the site does not hold: its name alone
            return text
        return f"{mark}[{text}]({os.path.relpath(name, PurePosixPath(uri).parent)}{anchor})"

    return _LINK.sub(local, markdown)


def _targets(page: Path) -> set[Path]:
    return {Path(os.path.normpath(page.parent / match[3])) for match in _LINK.finditer(page.read_text())}
