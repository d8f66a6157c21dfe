"""A cache of trained models: one folder each, named by a hash of all that determines the model."""

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

_MAKING = ".making-"  # in names of temporary folders, after the final name
_POLL_SECONDS = 0.1


def place(root: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """The folder that `cached` returns, whether it has been made or not."""
    return root / f"{slug(kind)}-{digest(key, 12)}"


def cached(root: Path, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder `<root>/<kind>-<hash of key>`. If it is missing, `make` fills a temporary folder, which is renamed.

    If several runs need it at the same time, one makes it and the others wait. In a run of several processes the main
    one makes it.

    Raises:
        UserError: if the cache cannot be written, or a file in the folder is missing or damaged.
    """
    folder = place(root, kind, key)
    while not folder.exists():
        if collectives.is_main():
            _fill(folder, key, make)
        else:
            time.sleep(_POLL_SECONDS)  # no barrier: `make` may call `cached`, in the main process alone
    _verify(folder)
    return folder


def _fill(folder: Path, key: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    with _locked(folder):
        if folder.exists():  # another run has made it
            return
        _delete_abandoned(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}{_MAKING}", dir=folder.parent))
        try:
            make(temporary)
            files.write_manifest(temporary, key=key)
            temporary.chmod(0o700)  # mkdtemp's mode, whatever the umask is
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def private_folder(path: Path) -> Path:
    """The folder. If it is missing, it is made with mode 0700, whatever the umask is."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system frees however the process ends."""

    def on_wait() -> None:
        note(f"Another run is making {folder.name}; waiting for it.")

    with ExitStack() as stack:
        try:
            private_folder(folder.parent)
            stack.enter_context(locks.held(_lock(folder), on_wait))
        except OSError as error:
            raise UserError(
                f"The cache folder {folder.parent} cannot be written ({error.strerror}).", "Set cache_dir=FOLDER."
            ) from None
        yield


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _delete_abandoned(locked: Path) -> None:
    """Delete temporary folders of killed processes: those whose lock is free, or is the one that this process holds."""
    for path in locked.parent.glob(f".*{_MAKING}*"):
        folder = locked.parent / path.name.removeprefix(".").rpartition(_MAKING)[0]
        if not path.is_symlink() and (folder == locked or not locks.is_held(_lock(folder))):
            shutil.rmtree(path, ignore_errors=True)


def _verify(folder: Path) -> None:
    """Check the folder's files against its manifest."""
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
