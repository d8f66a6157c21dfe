"""Reading files that may be damaged, and manifests of their SHA-256 hashes."""

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
_MAX_BYTES = 2**31
_CARD = "README.md"  # users may edit it: its hash is not checked


def read_bytes(path: Path, largest: int = _MAX_BYTES) -> bytes:
    """The content of a regular file. Anything else, such as a pipe, is refused: reading it could block.

    Raises:
        OSError: if it cannot be read, is no regular file, or is larger than `largest` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "no regular file")
        if info.st_size > largest:
            raise OSError(0, f"{info.st_size} bytes, more than {largest}")
        return file.read()


def read_text(path: Path, largest: int = _MAX_BYTES) -> str:
    """The content of a regular file as text in UTF-8.

    Raises:
        OSError: if it cannot be read, is no regular file, or is larger than `largest` bytes.
        UnicodeDecodeError: if it is not UTF-8.
    """
    return read_bytes(path, largest).decode("utf-8")


def sha256(path: Path) -> str:
    """The SHA-256 hash of a file, in hexadecimal. It is computed again only if the file has changed since.

    Raises:
        OSError: if it cannot be read, or is no regular file.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError(0, "no regular file")
    return _sha256(path, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **more: Any) -> None:
    """Write manifest.json: the SHA-256 of every other file in the folder, and the keys and values of `more`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    replace_text(folder / MANIFEST, json.dumps({**more, "sha256": hashes}, indent=1, default=str) + "\n")


def replace_text(path: Path, text: str, mark: str = "") -> None:
    """Write a text file atomically: a reader sees the old content or the new one, never a part.

    Args:
        path: the file.
        text: its new content.
        mark: the end of the temporary file's name, `.NAME` and this. Without one, a killed process leaves a file that
            the next writer overwrites and renames.
    """
    temporary = path.with_name(f".{path.name}{mark}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def manifest(folder: Path) -> dict[str, str] | None:
    """{file: SHA-256} from the folder's manifest.json; None if there is none, or it was not written by this package.

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
    """The first file that is missing or whose hash differs; None if there is none. README.md is not checked."""
    for name, expected in hashes.items():
        path = folder / name
        try:
            if name != _CARD and sha256(path) != expected:
                return path
        except OSError:
            return path
    return None


def check_folder(folder: Path) -> None:
    """Check every file of the folder against its manifest. A folder without a manifest passes.

    Raises:
        UserError: naming the first file that is missing or damaged.
    """
    hashes = manifest(folder)
    damaged = first_damaged(folder, hashes) if hashes is not None else None
    if damaged is not None:
        raise UserError(
            f"{damaged} is missing or damaged: it is not what {MANIFEST} says.",
            f"Copy the folder again from where it was written; if you changed it yourself, delete its {MANIFEST}.",
        )
