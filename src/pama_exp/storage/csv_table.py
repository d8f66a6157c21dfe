"""CSV tables that are safe to open in a spreadsheet: no text in them is read as a formula."""

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
    """Write a CSV file. Text that a spreadsheet would read as a formula gets an apostrophe before it (see `cell`)."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow([cell(name) for name in header])
        writer.writerows([cell(value) for value in row] for row in rows)


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file with a row per record. The columns are all keys of all records; missing values are empty."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    write_rows(path, columns, ([record.get(column) for column in columns] for record in records))


def cell(value: Any) -> Any:
    """The value, with an apostrophe before it if it is text that a spreadsheet would read as a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
