"""A run's checkpoints: each with a file beside it that says what it and the tables were, so that damage is noticed.

`step-00000003.json` beside `step-00000003.ckpt` holds the SHA-256 of the checkpoint, and of every table the length that
it had then and the SHA-256 of so much of it. Checkpoints of earlier versions have none and are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pama_exp.errors import UserError
from pama_exp.storage import files

TABLES = ("metrics.jsonl", "generations.jsonl")
_NAME = re.compile(r"step-(\d+)\.ckpt")
# Checkpoints consist of plain values and tensors; those of earlier versions hold numpy's random state as an array too.
_READABLE: list[Any] = [np.array(0).__reduce__()[0], np.ndarray, np.dtype, np.dtypes.UInt32DType]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run goes on from.

    Attributes:
        path: of the checkpoint.
        step: how many steps it has done.
        tables: {file: bytes} that it knows of; None for a checkpoint of an earlier version, which does not say.
    """

    path: Path
    step: int
    tables: Mapping[str, int] | None


def found_in(folder: Path) -> dict[int, Path]:
    """{step: checkpoint}, by their names, in order."""
    there = folder.iterdir() if folder.is_dir() else ()
    named = {int(match[1]): path for path in there if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(named.items()))


def seal(temporary: Path, folder: Path, step: int) -> None:
    """Give a written checkpoint its name, after writing the file beside it; then delete all but the newest two."""
    run, path = folder.parent, folder / f"step-{step:08d}.ckpt"
    tables = {name: _told(run / name) for name in TABLES if (run / name).exists()}
    beside = folder / "unfinished.json"
    beside.write_text(json.dumps({"sha256": files.sha256(temporary), "tables": tables}, indent=1) + "\n")
    beside.replace(path.with_suffix(".json"))
    temporary.replace(path)
    for old in list(found_in(folder).values())[:-2]:
        drop(old)


def drop(path: Path) -> None:
    """Remove a checkpoint and the file beside it."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint, None where there is none; and why newer ones are passed over, an entry for each.

    Raises:
        UserError: if none is good, but one is whole and knows rows that the tables lack.
    """
    passed_over: list[str] = []
    lacking: UserError | None = None
    for step, path in reversed(found_in(folder).items()):
        try:
            tables = _check(path, step)
            _check_tables(folder.parent, tables)
        except _Damaged as error:
            passed_over.append(f"{path.name} {error}")
        except UserError as error:
            passed_over.append(f"{path.name} knows other rows of the tables")
            lacking = lacking or error
        else:
            known = None if tables is None else {name: tables.get(name, (0, ""))[0] for name in TABLES}
            return Checkpoint(path, step, known), passed_over
    if lacking is not None:
        raise lacking
    return None, passed_over


def readable() -> Any:
    """Within it, `torch.load(weights_only=True)` reads what checkpoints hold, and nothing that could run."""
    return torch.serialization.safe_globals(_READABLE)


class _Damaged(Exception):
    """What is wrong with a checkpoint, as it follows on its name."""


def _check(path: Path, step: int) -> dict[str, tuple[int, str]] | None:
    """{table: (bytes, SHA-256)} as the checkpoint knows them, None where it does not say; _Damaged if it is."""
    expected, tables = None, None
    try:
        said = json.loads(files.read_text(path.with_suffix(".json")))
        expected = str(said["sha256"])
        tables = {str(name): (int(length), str(digest)) for name, (length, digest) in said["tables"].items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _Damaged(f"has a damaged {path.with_suffix('.json').name} beside it") from None
    try:
        is_whole = _is_whole_archive(path) if expected is None else files.sha256(path) == expected
    except OSError:
        is_whole = False
    if not is_whole:
        raise _Damaged("is damaged")
    try:
        with readable():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = content["alignment"] if "alignment" in content else content["fit"]
        is_right = int(state["step"]) == step
    except Exception:  # torch raises many kinds, an unpickler's refusal to run code among them
        is_right = False
    if not is_right:
        raise _Damaged("holds something else than the state of that step")
    return tables


def _check_tables(run: Path, tables: Mapping[str, tuple[int, str]] | None) -> None:
    for name, (length, digest) in (tables or {}).items():
        if name in TABLES and _told(run / name, length) != [length, digest]:
            raise UserError(
                f"{run / name} lacks rows that the run's checkpoints know of, or they were changed.",
                "Bring the file back from a copy, or give force=true to run again from the start.",
            )


def _told(path: Path, length: int | None = None) -> list[Any]:
    """[bytes, their SHA-256] of the first `length` bytes of a file, or of the whole."""
    try:
        content = files.read_bytes(path)[:length]
    except OSError:
        return [-1, ""]
    return [len(content), hashlib.sha256(content).hexdigest()]


def _is_whole_archive(path: Path) -> bool:
    """torch's files are zip archives, which keep a sum of every part."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return False
