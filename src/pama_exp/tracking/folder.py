"""Which folder a run may write to, and which files there are its own: no others are ever deleted.

What a new run replaces goes through these states, each left by one renaming: a kill at any moment loses nothing.

    .replacing   the old files are being moved here, or back: those still beside it are old ones too
    .replaced    all old files are here; those beside it are the new run's
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
HEADER = "# The configuration of a run of pama-exp\n"  # the first line of config.yaml, by which a run's folder is known
LOCK = ".lock"
# All that runs write at the top of their folder, whatever the stage; folders belong to the run with all they hold.
OWN = (
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
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, OWN))})\.\d+|\.probe-\d+")
_UNFINISHED = ("unfinished.tmp", "unfinished.json")  # a checkpoint that is being written, and what is beside it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HINT = "Give output=FOLDER, a folder that is new, empty, or a run's own."


def run_folder(output: str) -> Path:
    """The folder that `output` names, absolute; nothing is made or written.

    Raises:
        UserError: unless a run may write there: it is missing, empty, or holds a run's own record.
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
    """Why no run may write to the folder; None where one may."""
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
    """Whether the folder holds the record of a run: a configuration that one wrote, in place or set aside."""
    places = [folder, *(path for path in (folder / _REPLACED, folder / _REPLACING) if _is_real_folder(path))]
    return any(_is_configuration(place / CONFIG) for place in places)


def _is_configuration(path: Path) -> bool:
    """Known by its first line; one from before there was such a line, by what it holds and what is beside it."""
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
    """Whether a run that was killed before it wrote its configuration leaves such a file."""
    return name == LOCK or _TEMPORARY.fullmatch(name) is not None


# ---- what is replaced ---------------------------------------------------------------------------------------------
# All that follows is for the process that holds the folder's lock.


def set_aside(folder: Path) -> None:
    """Move the run's own files out of the way of a new run."""
    settle(folder)
    if not own(folder):
        return
    (folder / _REPLACING).mkdir(exist_ok=True)
    _move(folder, folder / _REPLACING)
    (folder / _REPLACING).rename(folder / _REPLACED)


def settle(folder: Path) -> bool:
    """Finish what a process, this one or one that was killed, left half done; delete temporary files.

    Files set aside are deleted if the new run has begun: it has a checkpoint to go on from, or its result. Otherwise
    there is nothing in it to lose, and they are put back in its place.

    Returns:
        Whether a run was put back.
    """
    _remove(folder / _DISCARDED)
    replaced, replacing = folder / _REPLACED, folder / _REPLACING
    if _is_real_folder(replaced) and _has_begun(folder):
        replaced.rename(folder / _DISCARDED)
        _remove(folder / _DISCARDED)
    elif _is_real_folder(replaced):
        for path in own(folder):
            _remove(path)
        replaced.rename(replacing)
    is_put_back = _is_real_folder(replacing)
    if is_put_back:
        _move(replacing, folder)
        replacing.rmdir()
    for path in _temporary(folder):
        _remove(path)
    return is_put_back


def own(folder: Path) -> list[Path]:
    """The run's own files and folders, those that are there."""
    return [folder / name for name in OWN if os.path.lexists(folder / name)]


def refuse_links(folder: Path) -> None:
    """Nothing that a run writes in its folder is a link: it would write to whatever the link points to.

    W&B, which keeps links to its own newest files, sees to itself.

    Raises:
        UserError: for the first that is one.
    """
    for path in own(folder):
        inner = path.rglob("*") if _is_real_folder(path) and path.name != "wandb" else ()
        linked = next((each for each in (path, *inner) if each.is_symlink()), None)
        if linked is not None:
            raise UserError(
                f"{linked} is a link, to {os.path.realpath(linked)}, which this run would write to.",
                "Remove the link, or give another output=FOLDER.",
            )


def refuse_folders(folder: Path) -> None:
    """No folder stands where a run keeps a file.

    Raises:
        UserError: for the first that does.
    """
    kept = [path for path in own(folder) if path.suffix]
    for path in [*kept, *sorted((folder / "checkpoints").glob("*.*"))]:
        if _is_real_folder(path):
            raise UserError(
                f"{path} is a folder, where this run keeps a file.", "Remove it, or give another output=FOLDER."
            )


def clear(folder: Path) -> None:
    """Delete the run's own files; the configuration, by which a run is known, goes last."""
    for path in sorted(own(folder), key=lambda path: path.name == CONFIG):
        _remove(path)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run could go on from one."""
    return any((folder / "checkpoints").glob("step-*.ckpt"))


def _has_begun(folder: Path) -> bool:
    return (folder / "result.json").exists() or has_checkpoint(folder)


def _move(source: Path, target: Path) -> None:
    """Rename the run's own files and folders, links as such; the configuration, by which a run is known, goes last."""
    for path in sorted(own(source), key=lambda path: path.name == CONFIG):
        path.rename(target / path.name)


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    """A file, a link (never what it points to), or a folder with all it holds; nothing where there is none."""
    if _is_real_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _temporary(folder: Path) -> Iterator[Path]:
    """Files that processes left which were killed while they wrote."""
    yield from [folder / name for name in os.listdir(folder) if name != LOCK and _is_trace(name)]
    if not (folder / "checkpoints").is_symlink():
        yield from [folder / "checkpoints" / name for name in _UNFINISHED]
