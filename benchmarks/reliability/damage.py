"""Every file of a run and of the cache damaged in eight ways: whoever reads it is right, says so, or refuses."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from . import forks
from .case import Case, Verdict, faults_of
from .outcome import End, end
from .scenarios import ENVIRONMENT, SCENARIOS, SMALL, Place, Workshop

# What of the record is shown by readers that look at it, whatever file was damaged.
_SAID = re.compile(r"damaged|missing|left out|not recorded|\bdead\b|is gone|passed over|Starting from the beginning")
_TIMES = re.compile(r'"(time|age|written)": [^,}]*')


def _removed(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flipped(path: Path) -> None:
    """One bit, of a digit where there is one: what is still a file of its kind is the hardest to notice."""
    content = bytearray(path.read_bytes())
    source = random.Random(f"{path.name}{len(content)}")
    digits = [place for place, byte in enumerate(content) if 0x30 <= byte <= 0x39]
    if content:
        content[source.choice(digits or range(len(content)))] ^= 1
    path.write_bytes(content)


def _garbled(path: Path) -> None:
    path.write_bytes(random.Random(path.name).randbytes(max(64, path.stat().st_size)))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


WAYS: Mapping[str, Callable[[Path], None]] = {
    "removed": _removed,
    "emptied": _emptied,
    "cut in half": _cut,
    "one bit flipped": _flipped,
    "overwritten": _garbled,
    "a folder": _folder,
    "a pipe": _pipe,
    "a link to itself": _loop,
}


@dataclass(frozen=True)
class Target:
    """Files that are damaged, and what is done then.

    Attributes:
        scenario: whose files they are.
        part: of the place, below which all files are damaged in turn.
        make: what the place is filled with before.
        tests: name → what is done with the damaged place, and judged: how it went, and what is wrong with that.
    """

    scenario: str
    part: str
    make: Callable[[Workshop, Place], None]
    tests: Mapping[str, Callable[[Workshop, Place, Path], tuple[str, list[str]]]]


def damages(workshop: Workshop, seed: int, names: Sequence[str], most: int | None = None) -> Iterator[Case]:
    """Every file of every target in every way, in an order that makes of a campaign cut short a sample."""
    found = []
    for target_name, target in TARGETS.items():
        if target.scenario not in names:
            continue
        for file in files_of(workshop, target_name):
            found += [(target_name, file, way) for way in WAYS]
    random.Random(seed).shuffle(found)
    for target_name, file, way in found[:most]:
        name = f"damage-{target_name}-{file}-{way}".replace("/", ":").replace(" ", "_")
        yield Case(name, "damage", target_name, partial(_damaged, workshop, target_name, file, way, name))


def files_of(workshop: Workshop, target_name: str) -> list[str]:
    """The target's files, relative to its part of the place."""
    target = TARGETS[target_name]
    place = workshop.place(f"whole-{target_name}".replace(" ", "_"))
    place.empty()
    target.make(workshop, place)
    root = place.disk / target.part
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    place.remove()
    return found


def _damaged(workshop: Workshop, target_name: str, file: str, way: str, name: str) -> Verdict:
    target = TARGETS[target_name]
    place = workshop.place(name)
    faults, kinds = [], []
    for label, test in target.tests.items():
        if label == "evaluate" and not file.startswith(("policy", "config")):
            continue  # nothing else is read of it
        place.empty()
        target.make(workshop, place)
        WAYS[way](place.disk / target.part / file)
        kind, wrong = test(workshop, place, place.disk / target.part / file)
        kinds.append(f"{label}: {kind}")
        faults += wrong
    if not faults:
        place.remove()
    return Verdict(name, "damage", target_name, f"{file} {way}", ", ".join(kinds), tuple(faults))


# ---- what is damaged ----------------------------------------------------------------------------------------------


@cache
def _finished(root: Path) -> Place:
    """A finished run beside the cache that it used, made once."""
    workshop, scenario = Workshop(root), SCENARIOS["align"]
    place = Place(root / "finished")
    if not (place.run / "result.json").exists():
        workshop.set_out(place, scenario)
        _needed(place.work(scenario))
    return place


@cache
def _interrupted(root: Path) -> Place:
    """One that was killed when it had two checkpoints and rows beyond them."""
    workshop, scenario = Workshop(root), SCENARIOS["align"]
    place, log = Place(root / "interrupted"), root / "interrupted.events"
    if not (root / "interrupted.made").exists():
        workshop.set_out(place, scenario)
        _needed(place.work(scenario, watched=forks.Watched(place.watched, log=log)))
        sealed = [i for i, line in enumerate(log.read_text().splitlines(), 1) if line.endswith("unfinished.tmp")]
        workshop.set_out(place, scenario)
        # Its removal as the folder is settled, then a renaming for each of three checkpoints: rows follow the second.
        place.work(scenario, watched=forks.Watched(place.watched, at=sealed[2] + 3))
        (root / "interrupted.made").touch()
    return place


def _needed(ended: forks.Ended) -> None:
    if ended.status != 0:
        raise RuntimeError(ended.err)


def _copy(kept: Callable[[Path], Place], workshop: Workshop, place: Place) -> None:
    shutil.rmtree(place.disk)
    shutil.copytree(kept(workshop.root).disk, place.disk, symlinks=True)


def _with_cache(workshop: Workshop, place: Place) -> None:
    shutil.copytree(workshop.stock.cache, place.cache)


def _with_experts(workshop: Workshop, place: Place) -> None:
    _with_cache(workshop, place)
    shutil.copytree(workshop.stock.made, place.made)


# ---- what is done with it -----------------------------------------------------------------------------------------


def _goes_on(scenario: str, workshop: Workshop, place: Place, file: Path) -> tuple[str, list[str]]:
    """The command ends as the undisturbed one, or is refused."""
    ended = place.work(SCENARIOS[scenario])
    return _judged(ended, place, place.run, lambda: workshop.end_of(SCENARIOS[scenario]), file)


def _evaluated(workshop: Workshop, place: Place, file: Path) -> tuple[str, list[str]]:
    """Likewise of its evaluation."""
    return _judged(_evaluate(place), place, place.disk / "evaluated", lambda: _evaluation(workshop.root), file)


def _same_again(workshop: Workshop, place: Place, file: Path) -> tuple[str, list[str]]:
    """The command that made the finished run says the same as ever, or makes the run whole, or is refused."""
    ended = place.work(SCENARIOS["align"])
    expected = _told_again(workshop.root)
    if ended.status == 0 and _told(ended, place) == expected:
        return "shown as ever", faults_of(ended, "again")
    return _judged(ended, place, place.run, lambda: workshop.end_of(SCENARIOS["align"]), file)


def _read(workshop: Workshop, place: Place, file: Path) -> tuple[str, list[str]]:
    """`runs show` and the report's data are as ever, or name what is damaged."""
    ended = forks.run(partial(_show, place.run), place.cwd, ENVIRONMENT)
    wrong = faults_of(ended, "read")
    if ended.status == 0 and _shown(ended, place) == _shown_whole(workshop.root):
        return "shown as ever", wrong
    if ended.is_refusal:
        return "refused", wrong
    if ended.status == 0 and (_SAID.search(ended.out) or file.name in ended.out):
        return "said", wrong
    return "silent", [*wrong, f"read: status {ended.status}, and {file.name} is not named: {ended.err[-300:]}"]


def _judged(
    ended: forks.Ended, place: Place, run: Path, expected: Callable[[], End], file: Path
) -> tuple[str, list[str]]:
    wrong = faults_of(ended, "next command")
    if ended.is_refusal:
        return "refused", wrong
    if ended.status != 0:
        return "failed", [*wrong, f"next command: status {ended.status}: {ended.err[-300:]}"]
    try:
        differing = end(run, place.cache, place.root).differs_from(expected())
    except (OSError, ValueError) as error:
        differing = [f"unreadable: {error}"]
    is_files_own = file.is_relative_to(place.cache) and differing == ["cache"]  # it may be of no use to this command
    if not differing or is_files_own:
        return ("ended alike and said so" if _SAID.search(ended.out) else "ended alike"), wrong
    return "silent", [*wrong, *(f"next command: another {what}" for what in differing)]


def _evaluate(place: Place) -> forks.Ended:
    words = [*SMALL, "stage=evaluate", f"evaluate.run={place.run}"]
    folders = [f"output={place.disk / 'evaluated'}", f"cache_dir={place.cache}"]
    return forks.run(forks.command([*words, *folders]), place.cwd, ENVIRONMENT)


def _show(run: Path) -> None:
    """In the child: what readers print and draw of a run."""
    from pama_exp import runs
    from pama_exp.errors import UserError
    from pama_exp.report.gather import gather

    status = runs.main(["show", str(run)])
    try:
        print(json.dumps(gather([run])[0], sort_keys=True))
    except UserError as error:
        print(error, file=sys.stderr if status == 0 else sys.stdout)
        sys.exit(2)
    sys.exit(status)


def _shown(ended: forks.Ended, place: Place) -> str:
    return _TIMES.sub("", ended.out.replace(str(place.root), "@"))


def _in_whole(root: Path) -> Place:
    """A copy of the finished run, with nothing damaged."""
    workshop = Workshop(root)
    place = workshop.place("whole")
    place.empty()
    _copy(_finished, workshop, place)
    return place


@cache
def _evaluation(root: Path) -> End:
    place = _in_whole(root)
    _needed(_evaluate(place))
    return end(place.disk / "evaluated", place.cache, place.root)


@cache
def _told_again(root: Path) -> str:
    place = _in_whole(root)
    return _told(place.work(SCENARIOS["align"]), place)


def _told(ended: forks.Ended, place: Place) -> str:
    """What is said of a finished run, without the lines that slow machines print before it."""
    said = ended.out.replace(str(place.root), "@")
    return said[max(0, said.find("This run is finished")) :]


@cache
def _shown_whole(root: Path) -> str:
    place = _in_whole(root)
    return _shown(forks.run(partial(_show, place.run), place.cwd, ENVIRONMENT), place)


TARGETS: Mapping[str, Target] = {
    "finished run": Target(
        "align",
        "run",
        partial(_copy, _finished),
        {"again": _same_again, "read": _read, "evaluate": _evaluated},
    ),
    "interrupted run": Target("align", "run", partial(_copy, _interrupted), {"again": partial(_goes_on, "align")}),
    "cache": Target("align", "cache", _with_cache, {"align": partial(_goes_on, "align")}),
    "experts of a soup": Target("soup", "made/helpful", _with_experts, {"soup": partial(_goes_on, "soup")}),
}
