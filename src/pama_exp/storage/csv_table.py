"""Tables as CSV files that a spreadsheet may open: none of their text is read as a formula."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# A number as text, as tables hold them: -0.25, -0.25 [-0.31, -0.19], -3.1 % [-4.0, -2.2].
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?( %)?( \[[+-]?[\d.]+, [+-]?[\d.]+\])?|[+-](inf|nan)", re.IGNORECASE)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """One table. Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers never do."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow([cell(name) for name in header])
        writer.writerows([cell(value) for value in row] for row in rows)


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One table, a row per record, with the union of their keys as columns; empty where a record has none."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    write_rows(path, columns, ([record.get(column) for column in columns] for record in records))


def cell(value: Any) -> Any:
    """The value as it may stand in a cell."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
