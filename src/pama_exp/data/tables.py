"""Reading tables of text from files of a folder or of a data set of the Hub."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import logging
import lzma
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError
from pama_exp.hub import repositories
from pama_exp.storage.files import sha256

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_TABLES = ("*.jsonl*", "*.json.gz", "*.parquet", "*.csv*", "*.tsv*")
Table = dict[str, list[Any]]


def find(path: str | None, repo_id: str | None, revision: str | None, patterns: Sequence[str]) -> list[Path]:
    """The files of a table, sorted: `path` if it is a file, else the files of the folder that match `patterns`.

    Args:
        path: a local file or folder, used instead of `repo_id` if both are set.
        repo_id: a data set of the Hub.
        revision: of the Hub's data set; None for the newest.
        patterns: globs relative to the folder; if empty, every table in the folder and below it.

    Raises:
        UserError: if neither is set, the path does not exist, the data set is not available, or nothing matches.
    """
    if path is None and repo_id is None:
        raise UserError("The data has neither data.path nor data.id.", "Set data.path=FILE or data.id=owner/name.")
    if path is None:
        folder = repositories.resolve(str(repo_id), revision, "dataset")
    else:
        folder = Path(path)
    if os.path.isfile(folder):
        return [folder]
    if not os.path.isdir(folder):
        raise UserError(f"data.path={path} is not there.", "Give a JSONL, JSON, CSV or parquet file or a folder.")
    wanted = list(patterns) or [f"**/{pattern}" for pattern in _TABLES]
    for pattern in wanted:
        if patterns and not any(folder.glob(pattern)):
            tables = sorted(p.relative_to(folder).as_posix() for kind in _TABLES for p in folder.rglob(kind))
            raise UserError(f"{folder} has no file {pattern}.", f"It has: {', '.join(tables[:12]) or 'no tables'}.")
    files = sorted({file for pattern in wanted for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise UserError(f"{folder} holds no table.", "Tables end in .jsonl, .json, .parquet, .csv or .tsv.")
    return files


def read(files: Sequence[Path], cache: Path) -> Table:
    """{column: values} of all files, one after the other.

    Args:
        files: of one kind and one schema; JSON and CSV may be compressed.
        cache: the folder for the cache of `datasets`.

    Raises:
        UserError: if a file's kind is unknown, if it cannot be read, or if there are no rows.
    """
    kinds = {file: _suffix(file) for file in files}
    for file, suffix in kinds.items():
        if suffix not in _BUILDERS:
            raise UserError(f"{file} is no table that can be read.", f"Its name ends in {', '.join(_BUILDERS)}.")
    if len({_BUILDERS[suffix] for suffix in kinds.values()}) > 1:
        raise UserError(
            f"The data mixes {' and '.join(sorted(set(kinds.values())))} files.",
            "Name one kind in data.files.",
        )
    import datasets  # takes a second to import; FactWorld does not need it

    suffix = next(iter(kinds.values()))
    if _BUILDERS[suffix] == "csv":
        return _separated(files)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # it would log the error that is raised below
    try:
        rows = datasets.load_dataset(
            _BUILDERS[suffix],
            data_files=[str(file) for file in files],
            split="train",
            cache_dir=str(cache / hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()[:16]),
        )
        table: Table = rows.to_dict()
    except Exception as error:  # each format fails in its own way
        if not _is_of_no_rows(error):
            reason = _in_lines(str(error.__cause__ or error).splitlines()[0], files)
            raise UserError(
                f"{_some(files)} cannot be read as {suffix.removeprefix('.')} ({reason}).", "Is each file whole?"
            ) from None
        table = {}
    if not any(table.values()):
        raise UserError(f"{_some(files)} holds no rows.", "Give a file with at least one row.")
    return table


def column(table: Table, name: str, setting: str) -> list[Any]:
    """The values of one column.

    Args:
        table: {column: values}.
        name: of the column.
        setting: the key of the setting that names it, for the message.

    Raises:
        UserError: if there is no such column.
    """
    if name not in table:
        raise UserError(f"{setting}={name}: the data has no such column.", f"It has: {', '.join(sorted(table))}.")
    return table[name]


def _separated(files: Sequence[Path]) -> Table:
    """CSV or TSV files: a column is numeric or boolean if all its cells are, else text; only an empty cell is None."""
    import pandas  # type: ignore[import-untyped]

    try:
        for file in files:
            _refuse_columns_twice(file)
        parts = [
            pandas.read_csv(file, sep="\t" if _suffix(file) == ".tsv" else ",", dtype=str, keep_default_na=False)
            for file in files
        ]
    except pandas.errors.EmptyDataError:
        parts = []
    except UserError:
        raise
    except Exception as error:  # of encodings, compression, lines of other lengths
        reason = _in_lines(str(error).splitlines()[0], files)
        raise UserError(f"{_some(files)} cannot be read as csv ({reason}).", "Is each file whole?") from None
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    table = {
        name: _cells([cell for part in parts for cell in (part[name] if name in part else [""] * len(part))])
        for name in names
    }
    if not any(table.values()):
        raise UserError(f"{_some(files)} holds no rows.", "Give a file with at least one row.")
    return table


def _refuse_columns_twice(file: Path) -> None:
    """Of two columns of one name, pandas would rename the second."""
    import pandas

    separator = "\t" if _suffix(file) == ".tsv" else ","
    first = pandas.read_csv(file, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = list(first.iloc[0])
    twice = [name for place, name in enumerate(names) if name and name in names[:place]]
    if twice:
        raise UserError(f"{file} has two columns '{twice[0][:80]}'.", "Give each column a name of its own.")


def _cells(cells: Sequence[str]) -> list[Any]:
    """The cells of a column as int, float or bool if every non-empty cell is one, else as text; None for empty ones."""
    filled = [cell for cell in cells if cell != ""]
    kinds: list[tuple[Callable[[str], Any], re.Pattern[str]]] = [
        (int, re.compile(r"-?(0|[1-9]\d*)")),
        (float, re.compile(r"-?(0|[1-9]\d*)?\.?\d+([eE][-+]?\d+)?|-?(0|[1-9]\d*)\.")),
        (lambda cell: cell.lower() == "true", re.compile("true|false|True|False")),
    ]
    for read_as, form in kinds:
        if filled and all(form.fullmatch(cell) for cell in filled):
            return [None if cell == "" else read_as(cell) for cell in cells]
    return [None if cell == "" else cell for cell in cells]


def _suffix(file: Path) -> str:
    suffixes = [s for s in file.suffixes if s not in _COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _in_lines(reason: str, files: Sequence[Path]) -> str:
    """The reason with the number of the file's line, from 1. Readers count rows, from 0, some without empty lines."""
    for file in files:
        if _suffix(file) == ".jsonl" and (bad_line := _bad_line(file)) is not None:
            where = f"line {bad_line[0]}: {bad_line[1]}"
            return f"{file.name}, {where}" if len(files) > 1 else where
    started = re.search(r"EOF inside string starting at row (\d+)", reason)  # of a CSV file
    if started is not None:
        return f"line {int(started[1]) + 1}: a quotation mark that nothing closes"
    return re.sub(r" in row \d+", "", reason)


def _bad_line(file: Path) -> tuple[int, str] | None:
    """The number of the first line of a JSONL file that is no JSON object, and the reason; None if all are."""
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    try:
        with openers.get(file.suffix, open)(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    if not isinstance(json.loads(line), dict):
                        return number, "it is no JSON object"
                except ValueError as error:
                    return number, str(error).partition(":")[0]
                except RecursionError:
                    return number, "it is nested too deeply"
    except (OSError, UnicodeDecodeError, EOFError, lzma.LZMAError):
        return None
    return None


def _is_of_no_rows(error: Exception) -> bool:
    """Whether `datasets` raised the error because a JSON or CSV file is empty."""
    return isinstance(error, StopIteration) or "corresponds to no data" in str(error)


def _some(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} (of {len(files)} files)"
