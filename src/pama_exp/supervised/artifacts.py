"""Trained once, kept on disk: a folder per result, named by the hash of everything that determines it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pama_exp.config.naming import digest, slug
from pama_exp.errors import UserError
from pama_exp.parallel import collectives
from pama_exp.storage import files
from pama_exp.tracking import locks
from pama_exp.tracking.console import note

_MAKING = ".making-"  # in the name of a temporary folder, after the name that it will have
_POLL_SECONDS = 0.1


def cached(root: Path, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder `<root>/<kind>-<hash of key>`; `make(folder)` fills a temporary one first if it is missing.

    Of several runs that want it at the same time one makes it, and of a run of several processes the main one; the
    others wait.

    Raises:
        UserError: if the cache cannot be written, or what it holds is not what was put there.
    """
    folder = root / f"{slug(kind)}-{digest(key, 12)}"
    while not folder.exists():
        if collectives.is_main():
            _fill(folder, kind, key, make)
        else:
            time.sleep(_POLL_SECONDS)  # not at a barrier: `make` may need other results, in one process alone
    _verify(folder)
    return folder


def _fill(folder: Path, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    with _turn(folder):
        if folder.exists():  # another run made it meanwhile
            return
        _drop_left_behind(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}{_MAKING}", dir=folder.parent))
        try:
            make(temporary)
            files.write_manifest(temporary, key=key)
            temporary.chmod(0o700)  # as mkdtemp makes it, unless the umask takes more
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def private_folder(path: Path) -> Path:
    """The folder, made if it is missing, for its owner alone whatever the umask; one that is there stays as it is."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
    return path


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold `folder`'s lock, which the system frees however the process ends."""
    with ExitStack() as stack:
        try:
            private_folder(folder.parent)
            stack.enter_context(
                locks.held(_lock(folder), on_wait=lambda: note(f"Another run is making {folder.name}; waiting for it."))
            )
        except OSError as error:
            raise UserError(
                f"The cache folder {folder.parent} cannot be written ({error.strerror}).", "Set cache_dir=FOLDER."
            ) from None
        yield


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _drop_left_behind(mine: Path) -> None:
    """Delete what makers that were killed had begun: of those whose lock is free or ours, none is at work."""
    for path in mine.parent.glob(f".*{_MAKING}*"):
        made = mine.parent / path.name.removeprefix(".").rpartition(_MAKING)[0]
        if not path.is_symlink() and (made == mine or not locks.is_held(_lock(made))):
            shutil.rmtree(path, ignore_errors=True)


def _verify(folder: Path) -> None:
    hint = f"Delete the folder {folder} and run the same command: it is made again."
    try:
        hashes = files.manifest(folder)
    except UserError:
        hashes = None
    if hashes is None:
        raise UserError(f"The cached result {folder.name} has no readable {files.MANIFEST}.", hint)
    damaged = files.first_damaged(folder, hashes)
    if damaged is not None:
        raise UserError(f"The cached file {damaged} is missing or damaged.", hint)
