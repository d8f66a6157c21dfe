"""What a finished run's files were: their SHA-256, kept in its result, so that a changed number is noticed.

result.json holds them under `sha256`, its own (of all the rest of it) among them. Results of earlier versions have none
and are taken as they are.
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
_SUMMED = ("config.yaml", "environment.json", "metrics.jsonl", "generations.jsonl")
_MAY_GO = "generations.jsonl"  # texts take room, and that they are gone is seen


def summed(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the sums of the run's files as they are now.

    Raises:
        OSError: if one of them cannot be read.
    """
    plain = {key: value for key, value in result.items() if key != KEY}
    sums = {name: files.sha256(folder / name) for name in _SUMMED if (folder / name).exists()}
    return {**plain, KEY: {_RESULT: _of_values(plain), **sums}}


def verified(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result without the sums, and without secrets, whoever wrote it.

    Raises:
        UserError: for the first file that is not what it was, or is gone; generations may be.
    """
    plain = {key: value for key, value in result.items() if key != KEY}
    sums = result.get(KEY, {})
    if not isinstance(sums, Mapping):
        raise _changed(folder / _RESULT)
    for name, expected in sums.items():
        path = folder / name
        if name == _RESULT:
            is_same = _of_values(plain) == expected
        elif name in _SUMMED:
            is_same = _is_same(path, expected)
        else:
            is_same = False
        if not is_same:
            raise _changed(path)
    return dict(redacted(plain))


def check(folder: Path, name: str) -> None:
    """The file is as the run left it, as far as a result says what it was.

    Raises:
        UserError: if it is not.
    """
    try:
        expected = json.loads(files.read_text(folder / _RESULT))[KEY][name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if not _is_same(folder / name, expected):
        raise _changed(folder / name)


def _is_same(path: Path, expected: Any) -> bool:
    if path.name == _MAY_GO and not path.exists() and not path.is_symlink():
        return True
    try:
        return bool(files.sha256(path) == expected)
    except OSError:
        return False


def _of_values(plain: Mapping[str, Any]) -> str:
    """Of the values, however they are laid out."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _changed(path: Path) -> UserError:
    return UserError(
        f"{shown(path)} is missing or damaged: it is not as the finished run left it.",
        f"Bring it back from a copy, or give force=true; if you changed it yourself, delete {KEY} in {_RESULT}.",
    )
