"""Files that others may have written or damaged: read without waiting, known by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError

MANIFEST = "manifest.json"
_LARGEST = 2**31  # bytes that are read of one file at once
_CARD = "README.md"  # made to be edited; nothing depends on it


def read_bytes(path: Path, largest: int = _LARGEST) -> bytes:
    """The content of a regular file; nothing else is opened, because a pipe would be waited for.

    Raises:
        OSError: if it cannot be read, is no regular file, or is larger than `largest` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "no regular file")
        if found.st_size > largest:
            raise OSError(0, f"{found.st_size} bytes, more than {largest}")
        return file.read()


def read_text(path: Path, largest: int = _LARGEST) -> str:
    """Likewise as text.

    Raises:
        OSError: as `read_bytes` does.
        UnicodeDecodeError: if it is not UTF-8.
    """
    return read_bytes(path, largest).decode("utf-8")


def sha256(path: Path) -> str:
    """In hexadecimal. A file that has not changed is read once in a process.

    Raises:
        OSError: if it cannot be read, or is no regular file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "no regular file")
    return _sha256(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **more: Any) -> None:
    """manifest.json: the SHA-256 of every other file in the folder, and `more`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    temporary = folder / f".{MANIFEST}"
    temporary.write_text(json.dumps({**more, "sha256": hashes}, indent=1, default=str) + "\n")
    temporary.replace(folder / MANIFEST)


def manifest(folder: Path) -> dict[str, str] | None:
    """{file: SHA-256} as the folder's manifest.json says; None where there is none, or it is another program's.

    Raises:
        UserError: if it cannot be read.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged.", "Copy the folder again from where it was written.") from None
    hashes = content.get("sha256") if isinstance(content, Mapping) else None
    return {str(name): str(value) for name, value in hashes.items()} if isinstance(hashes, Mapping) else None


def first_damaged(folder: Path, hashes: Mapping[str, str]) -> Path | None:
    """The first file that is missing or not what was written; the card is its reader's to edit."""
    for name, expected in hashes.items():
        path = folder / name
        try:
            if name != _CARD and sha256(path) != expected:
                return path
        except OSError:
            return path
    return None


def check_folder(folder: Path) -> None:
    """Every file that the folder's manifest names is as it was written. A folder without one is taken as it is.

    Raises:
        UserError: naming the first that is not.
    """
    hashes = manifest(folder)
    damaged = first_damaged(folder, hashes) if hashes is not None else None
    if damaged is not None:
        raise UserError(
            f"{damaged} is missing or damaged: it is not what {MANIFEST} says.",
            f"Copy the folder again from where it was written; if you changed it yourself, delete its {MANIFEST}.",
        )
