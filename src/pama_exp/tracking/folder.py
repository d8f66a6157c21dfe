"""The folder of a run: whether a run may write to it, and which files belong to the run. No others are deleted.

The files that a new run replaces pass through these subfolders. Each change of state is one renaming, so that a process
that is killed at any moment loses nothing.

    .replacing   old files are being moved here, or back; files outside it are old too
    .replaced    all old files are here; files outside it belong to the new run
    .discarded   the new run has begun; the old files are being deleted
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pama_exp.errors import UserError

CONFIG = "config.yaml"
INPUTS = "inputs.json"
HEADER = "# The configuration of a run of pama-exp\n"  # the first line of config.yaml, which identifies a run's folder
LOCK = ".lock"
# The names of all files and folders that runs of any stage write. Such a folder belongs to the run with its content.
RUN_FILES = (
    CONFIG,
    "environment.json",
    INPUTS,
    "metrics.jsonl",
    "metrics.csv",
    "generations.jsonl",
    "status.json",
    "result.json",
    "checkpoints",
    "policy",
    "reward_model",
    "traceback.txt",
    "front.png",
    "curves.png",
    "wandb",
    "csv",
    "tensorboard",
    "trackio",
    "comparison.json",
    "comparison.csv",
    "comparison.md",
    "operating_points.png",
    "attainment.png",
    "gradients.png",
)
_REPLACING, _REPLACED, _DISCARDED = ".replacing", ".replaced", ".discarded"
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, RUN_FILES))})\.\d+|\.probe-\d+")
_UNFINISHED = ("unfinished.tmp", "unfinished.json")  # a checkpoint that is being written, and the file beside it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HINT = "Give output=FOLDER, a folder that is new, empty, or a run's own."


def run_folder(output: str) -> Path:
    """The absolute path of the folder that `output` names. Nothing is made or written.

    Raises:
        UserError: unless a run may write there: the folder is missing, empty, or holds a run.
    """
    if not output.strip():
        raise UserError("output= names no folder.", _HINT)
    shown = output if output.isprintable() else ascii(output)
    where = f"output={shown}" if len(shown) < 160 else f"output={shown[:160]}…"
    if output.startswith("~"):
        raise UserError(f"{where} begins with ~, which is read by shells alone.", "Write the whole path: /home/….")
    try:
        folder = Path(output).absolute()
        problem = _problem(folder)
    except (OSError, ValueError) as error:
        problem = f"cannot be used ({getattr(error, 'strerror', None) or error})"
    if problem is not None:
        raise UserError(f"{where} {problem}.", _HINT)
    return folder


def _problem(folder: Path) -> str | None:
    """Why a run may not write to the folder; None if it may."""
    real = os.path.realpath(folder)
    if folder.is_symlink():
        return f"is a link, to {real}"
    if real == os.path.realpath(os.path.expanduser("~")):
        return "is your home folder"
    if real == os.path.realpath("."):
        return "is the current folder"
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        return "is no folder"
    foreign = [name for name in os.listdir(folder) if not _is_trace(name)]
    if foreign and not is_run(folder):
        return f"holds other files than a run's, such as {sorted(foreign)[0]}"
    return None


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run: its configuration, also if the run is being replaced."""
    places = [folder, *(path for path in (folder / _REPLACED, folder / _REPLACING) if _is_real_folder(path))]
    return any(_is_configuration(place / CONFIG) for place in places)


def _is_configuration(path: Path) -> bool:
    """Whether the file is a run's configuration: by its first line, or in earlier versions by its keys."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(HEADER.encode())) == HEADER.encode():
            return True
    environment = path.with_name("environment.json")
    if environment.is_symlink() or not environment.is_file():
        return False
    try:
        content: Any = yaml.load(path.read_text(), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and {"objectives", "solver", "seed"} <= set(content)


def _is_trace(name: str) -> bool:
    """Whether a run leaves a file of this name if it is killed before it writes its configuration."""
    return name == LOCK or _TEMPORARY.fullmatch(name) is not None


# ---- replacing a run ----------------------------------------------------------------------------------------------
# Only the process that holds the folder's lock may call the following functions.


def set_aside(folder: Path) -> None:
    """Move the run's files to .replaced, so that a new run can begin."""
    settle(folder)
    if not run_files(folder):
        return
    (folder / _REPLACING).mkdir(exist_ok=True)
    _move(folder, folder / _REPLACING)
    (folder / _REPLACING).rename(folder / _REPLACED)


def settle(folder: Path) -> bool:
    """Finish a replacement that this process or a killed one has begun, and delete temporary files.

    If the new run has a checkpoint or a result, the old files are deleted. Otherwise they replace those of the new run.

    Returns:
        Whether the old run was put back.
    """
    _remove(folder / _DISCARDED)
    replaced, replacing = folder / _REPLACED, folder / _REPLACING
    has_begun = (folder / "result.json").exists() or has_checkpoint(folder)
    if _is_real_folder(replaced) and has_begun:
        replaced.rename(folder / _DISCARDED)
        _remove(folder / _DISCARDED)
    elif _is_real_folder(replaced):
        for path in run_files(folder):
            _remove(path)
        replaced.rename(replacing)
    is_put_back = _is_real_folder(replacing)
    if is_put_back:
        _move(replacing, folder)
        replacing.rmdir()
    for path in _temporary(folder):
        _remove(path)
    return is_put_back


def run_files(folder: Path) -> list[Path]:
    """The files and folders of the run that exist."""
    return [folder / name for name in RUN_FILES if os.path.lexists(folder / name)]


def refuse_links(folder: Path) -> None:
    """Check that no file of the run is a link: the run would write to the link's target.

    W&B's folder is left out, because W&B itself makes links there.

    Raises:
        UserError: for the first link.
    """
    for path in run_files(folder):
        inner = path.rglob("*") if _is_real_folder(path) and path.name != "wandb" else ()
        linked = next((each for each in (path, *inner) if each.is_symlink()), None)
        if linked is not None:
            raise UserError(
                f"{linked} is a link, to {os.path.realpath(linked)}, which this run would write to.",
                "Remove the link, or give another output=FOLDER.",
            )


def refuse_folders(folder: Path) -> None:
    """Check that no folder has the name of a file of the run.

    Raises:
        UserError: for the first that has.
    """
    paths = [path for path in run_files(folder) if path.suffix]
    for path in [*paths, *sorted((folder / "checkpoints").glob("*.*"))]:
        if _is_real_folder(path):
            raise UserError(
                f"{path} is a folder, where this run keeps a file.", "Remove it, or give another output=FOLDER."
            )


def clear(folder: Path) -> None:
    """Delete the run's files, its configuration last, so that the folder is a run's until then."""
    for path in sorted(run_files(folder), key=lambda path: path.name == CONFIG):
        _remove(path)


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder has a checkpoint."""
    return any((folder / "checkpoints").glob("step-*.ckpt"))


def _move(source: Path, target: Path) -> None:
    """Move the run's files and folders, its configuration last. A link is moved, not its target."""
    for path in sorted(run_files(source), key=lambda path: path.name == CONFIG):
        path.rename(target / path.name)


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    """Delete a file, a link (not its target) or a folder with its content, if it exists."""
    if _is_real_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _temporary(folder: Path) -> Iterator[Path]:
    """The temporary files of processes that were killed while writing."""
    yield from [folder / name for name in os.listdir(folder) if name != LOCK and _is_trace(name)]
    if not (folder / "checkpoints").is_symlink():
        yield from [folder / "checkpoints" / name for name in _UNFINISHED]
