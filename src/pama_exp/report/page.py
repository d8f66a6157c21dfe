"""The report's page: one HTML file with data, style and script, and plots and tables as files beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pama_exp.config.naming import slug
from pama_exp.errors import UserError
from pama_exp.report.figures import draw_section
from pama_exp.report.gather import gather
from pama_exp.report.table_files import write_tables

_ASSETS = Path(__file__).parent / "assets"
_TITLE = b"<title>pama-exp report</title>"  # in the head of page.html; identifies an earlier report


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """Write index.html, the plots as PNG and SVG and the tables as CSV; returns the page's path.

    Args:
        folders: each is a run or holds runs at any depth, of any status and any objectives.
        output: the folder to write into. It is made if it is missing; files of an earlier report are overwritten.

    Raises:
        UserError: for a folder that does not exist, if none holds a run, or if `output` cannot be written or holds
            other files than a report's.
    """
    try:
        refuse_foreign(output, _TITLE)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}).", "Give another --output FOLDER.") from None
    data, comparisons = gather(folders)
    try:
        output.mkdir(parents=True, exist_ok=True)
        page = output / "index.html"
        page.write_text(render(data), encoding="utf-8", errors="replace")
        for section, comparison in zip(data["sections"], comparisons, strict=True):
            folder = output if len(comparisons) == 1 else output / slug(*section["objectives"])
            folder.mkdir(exist_ok=True)
            write_tables(section, comparison, folder)
            draw_section(section, folder)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}).", "Give another --output FOLDER.") from None
    return page


def refuse_foreign(output: Path, title: bytes) -> None:
    """A page is written into a folder that is missing, empty, or holds an earlier page, known by its title.

    Raises:
        UserError: if it holds other files.
    """
    names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    page = output / "index.html"
    if not names or (page.is_file() and not page.is_symlink() and title in page.read_bytes()[:4096]):
        return
    raise UserError(
        f"--output {output} holds other files than such a page's, such as {names[0]}.",
        "Give another --output FOLDER, one that is new, empty, or an earlier page's.",
    )


def render(data: dict[str, Any]) -> str:
    """The page as HTML. Every `<` in the data is escaped, so that no text can end the script element."""
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    script = "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in ("charts.js", "page.js"))
    text = (_ASSETS / "page.html").read_text(encoding="utf-8")
    parts = {
        "/*STYLE*/": (_ASSETS / "style.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": script,
        "/*DATA*/": embedded,
    }
    for mark, content in parts.items():
        text = text.replace(mark, content, 1)
    return text
