"""The SHA-256 hashes of a finished run's files, in its result, by which changes are detected.

result.json holds them under `sha256`. Its own hash is of all its other content. Results of earlier versions have no
hashes and are not checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pama_exp.config.naming import shown
from pama_exp.errors import UserError
from pama_exp.safety.secrets import redacted
from pama_exp.storage import files

KEY = "sha256"
_RESULT = "result.json"
_FILES = ("config.yaml", "environment.json", "metrics.jsonl", "generations.jsonl")
_DELETABLE = "generations.jsonl"  # a large file; no number depends on it


def summed(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the hashes of the run's files.

    Raises:
        OSError: if one of them cannot be read.
    """
    plain = {key: value for key, value in result.items() if key != KEY}
    hashes = {name: files.sha256(folder / name) for name in _FILES if (folder / name).exists()}
    return {**plain, KEY: {_RESULT: _hash_of(plain), **hashes}}


def verified(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result without the hashes, and with secrets hidden.

    Raises:
        UserError: for the first file that has changed or is missing. generations.jsonl may be missing.
    """
    plain = {key: value for key, value in result.items() if key != KEY}
    hashes = result.get(KEY, {})
    if not isinstance(hashes, Mapping):
        raise _changed(folder / _RESULT)
    for name, expected in hashes.items():
        is_result, path = name == _RESULT, folder / name
        if not (_hash_of(plain) == expected if is_result else name in _FILES and _is_same(path, expected)):
            raise _changed(path)
    return dict(redacted(plain))


def check(folder: Path, name: str) -> None:
    """Check a file of the run against its hash, if the run has a result with one.

    Raises:
        UserError: if it has changed or is missing.
    """
    try:
        expected = json.loads(files.read_text(folder / _RESULT))[KEY][name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if not _is_same(folder / name, expected):
        raise _changed(folder / name)


def _is_same(path: Path, expected: Any) -> bool:
    if path.name == _DELETABLE and not path.exists() and not path.is_symlink():
        return True
    try:
        return bool(files.sha256(path) == expected)
    except OSError:
        return False


def _hash_of(plain: Mapping[str, Any]) -> str:
    """The hash of the values, which does not depend on the layout of the file."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _changed(path: Path) -> UserError:
    return UserError(
        f"{shown(path)} is missing or damaged: it is not as the finished run left it.",
        f"Bring it back from a copy, or give force=true; if you changed it yourself, delete {KEY} in {_RESULT}.",
    )
