"""A run's checkpoints, each with a file of hashes beside it, by which damage is detected.

`step-00000003.json` beside `step-00000003.ckpt` holds the SHA-256 of the checkpoint, and for every table its length at
that time and the SHA-256 of that part. Checkpoints of earlier versions have no such file and are not checked by it.
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
# Checkpoints hold plain values and tensors; those of earlier versions also numpy's random state as an array.
_READABLE: list[Any] = [np.array(0).__reduce__()[0], np.ndarray, np.dtype, np.dtypes.UInt32DType]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to resume from.

    Attributes:
        path: of the checkpoint.
        step: the number of finished steps.
        tables: {file: its length in bytes at the checkpoint}; None for a checkpoint of an earlier version.
    """

    path: Path
    step: int
    tables: Mapping[str, int] | None


def found_in(folder: Path) -> dict[int, Path]:
    """{step: checkpoint} of a folder, in order of the steps in their names; empty if there is no folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    by_step = {int(match[1]): path for path in paths if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(by_step.items()))


def seal(temporary: Path, folder: Path, step: int) -> None:
    """Give a written checkpoint its name, after writing the file beside it; then delete all but the newest two."""
    run, path = folder.parent, folder / f"step-{step:08d}.ckpt"
    tables = {name: _length_and_hash(run / name) for name in TABLES if (run / name).exists()}
    beside = folder / "unfinished.json"
    beside.write_text(json.dumps({"sha256": files.sha256(temporary), "tables": tables}, indent=1) + "\n")
    beside.replace(path.with_suffix(".json"))
    temporary.replace(path)
    for old in list(found_in(folder).values())[:-2]:
        drop(old)


def drop(path: Path) -> None:
    """Delete a checkpoint and the file beside it."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint, None if there is none; and for each newer one a text that says why it is not good.

    Raises:
        UserError: if none is good, but one is undamaged and the tables lack rows that they had at its step.
    """
    passed_over: list[str] = []
    missing_rows: UserError | None = None
    for step, path in reversed(found_in(folder).items()):
        try:
            tables = _check(path, step)
            _check_tables(folder.parent, tables)
        except _Damaged as error:
            passed_over.append(f"{path.name} {error}")
        except UserError as error:
            passed_over.append(f"{path.name} knows other rows of the tables")
            missing_rows = missing_rows or error
        else:
            lengths = None if tables is None else {name: tables.get(name, (0, ""))[0] for name in TABLES}
            return Checkpoint(path, step, lengths), passed_over
    if missing_rows is not None:
        raise missing_rows
    return None, passed_over


def readable() -> Any:
    """A context in which `torch.load(weights_only=True)` reads checkpoints. It still refuses code."""
    return torch.serialization.safe_globals(_READABLE)


class _Damaged(Exception):
    """What is wrong with a checkpoint, as the predicate of a sentence."""


def _check(path: Path, step: int) -> dict[str, tuple[int, str]] | None:
    """{table: (bytes, SHA-256)} from the file beside the checkpoint, None without one; raises `_Damaged`."""
    expected, tables = None, None
    try:
        content = json.loads(files.read_text(path.with_suffix(".json")))
        expected = str(content["sha256"])
        tables = {str(name): (int(length), str(digest)) for name, (length, digest) in content["tables"].items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _Damaged(f"has a damaged {path.with_suffix('.json').name} beside it") from None
    try:
        is_intact = _is_intact_archive(path) if expected is None else files.sha256(path) == expected
    except OSError:
        is_intact = False
    if not is_intact:
        raise _Damaged("is damaged")
    try:
        with readable():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = checkpoint["alignment"] if "alignment" in checkpoint else checkpoint["fit"]
        has_state = int(state["step"]) == step
    except Exception:  # torch raises exceptions of many types, also for refused code
        has_state = False
    if not has_state:
        raise _Damaged("holds something else than the state of that step")
    return tables


def _check_tables(run: Path, tables: Mapping[str, tuple[int, str]] | None) -> None:
    for name, (length, digest) in (tables or {}).items():
        if name in TABLES and _length_and_hash(run / name, length) != [length, digest]:
            raise UserError(
                f"{run / name} lacks rows that the run's checkpoints know of, or they were changed.",
                "Bring the file back from a copy, or give force=true to run again from the start.",
            )


def _length_and_hash(path: Path, length: int | None = None) -> list[Any]:
    """[number of bytes, SHA-256] of the first `length` bytes of a file; None: of all. [-1, ""] if it cannot be read."""
    try:
        content = files.read_bytes(path)[:length]
    except OSError:
        return [-1, ""]
    return [len(content), hashlib.sha256(content).hexdigest()]


def _is_intact_archive(path: Path) -> bool:
    """Whether the checksums of a file of torch are right, which is a zip archive."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return False
