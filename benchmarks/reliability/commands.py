"""Bad commands given to the application: each is a sensible run, or at most two lines with status 2."""

from __future__ import annotations

import json
import math
import random
import resource
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from . import forks
from .case import Case, Verdict, faults_of
from .grammar import Bad, commands, language
from .scenarios import ENVIRONMENT, SMALL, Place, Workshop

LONGEST = 300  # characters of a line
COMPLETED = 0.1  # of those that are accepted are run to their end
_MARK = "ACCEPTED "
# Words of libraries, which say nothing to whoever typed the command.
_FOREIGN = ("ANTLR", "omegaconf", "hydra.errors", "Exception", "object at 0x", "<class", "NoneType", "Traceback")
_MEMORY = 2**33


def bad_commands(workshop: Workshop, count: int, seed: int) -> Iterator[Case]:
    """`count` of the grammar's commands."""
    for index, bad in enumerate(commands(_language(), count, seed)):
        name = f"command-{seed}-{index}"
        yield Case(name, "commands", bad.kind, partial(_given, workshop, bad, name))


@cache
def _language() -> Any:
    return language()


def _given(workshop: Workshop, bad: Bad, name: str) -> Verdict:
    place = workshop.place(name)
    place.empty()
    own = {word.lstrip("+~").partition("=")[0] for word in bad.words}
    before = [*SMALL, "reward=gold", f"cache_dir={place.cache}", f"output={place.run}"]
    before = [word for word in before if word.partition("=")[0] not in own]
    flags = [word for word in bad.words if word.startswith("-")] if bad.words[-1:] != bad.words[:1] else []
    words = [*before, *bad.words] if not flags else [*bad.words, *before]
    ended = forks.run(
        forks.command(words), place.cwd, ENVIRONMENT, prepare=partial(_prepare, is_to_stop=True), limit=120.0
    )
    kind, faults = judged(ended, bad)
    if place.cache.exists() and kind == "refused":
        faults.append("refused after something was put into the cache")
    is_late = kind == "accepted" and bad.is_wrong  # what names runs is looked at by the stage, before any work
    if is_late or (kind == "accepted" and random.Random(name).random() < COMPLETED):
        shutil.copytree(workshop.stock.cache, place.cache, dirs_exist_ok=True)
        ended = forks.run(forks.command(words), place.cwd, ENVIRONMENT, prepare=_prepare)
        kind = "refused by the stage" if ended.is_refusal else "run to its end"
        faults += faults_of(ended, "run")
        if ended.status not in (0, 2) or (ended.status == 2 and not ended.is_refusal):
            faults.append(f"run: status {ended.status}: {ended.err[-300:]}")
        if ended.status == 0 and bad.is_wrong:
            faults.append("accepted although wrong")
        faults += _infinite(place) if ended.status == 0 else []
    place.remove()
    return Verdict(
        name,
        "commands",
        bad.kind,
        f"{' '.join(bad.words)[:200]} -> {ended.err[:300]!r}",
        kind,
        tuple(faults),
        ended.seconds,
    )


def judged(ended: forks.Ended, bad: Bad) -> tuple[str, list[str]]:
    """How it went, and what is wrong with that."""
    faults = faults_of(ended, "command")
    lines = ended.err.splitlines()
    if ended.status == 2:
        if not 0 < len(lines) <= 2:
            faults.append(f"{len(lines)} lines: {ended.err[:300]}")
        faults += [f"a line of {len(line)} characters: {line[:200]}" for line in lines if len(line) > LONGEST]
        faults += [f"foreign words: {line[:250]}" for line in lines if any(word in line for word in _FOREIGN)]
        return "refused", faults
    if ended.status != 0:
        return "failed", [*faults, f"status {ended.status}: {ended.err[-300:]}"]
    accepted = next((line for line in ended.out.splitlines() if line.startswith(_MARK)), None)
    if accepted is not None and not bad.is_wrong:
        values = json.loads(accepted[len(_MARK) :])
        faults += [
            f"{key} was given {said!r} and is {_at(values, key)!r}"
            for key, said in bad.said
            if not _same(said, _at(values, key))
        ]
    return "accepted", faults


def _prepare(is_to_stop: bool = False) -> None:
    """In the child: no more memory than there is, and where it is to stop, after all has been checked."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    if not is_to_stop:
        return
    from pama_exp.cli import execute

    def stop(stage: Any, setup: Any) -> dict[str, Any]:
        print(_MARK + json.dumps(asdict(setup.config), default=str), flush=True)
        return {}

    vars(execute)["_recorded"] = stop


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return values


def _same(said: Any, found: Any) -> bool:
    """Whether the setting is what was said: a number may be a float of that value, a text any word."""
    if isinstance(said, str) or isinstance(found, str):
        return found is None or str(found) == str(said) or _number(said) == _number(found) is not None
    if isinstance(said, bool) or isinstance(found, bool):
        return said is found
    if isinstance(said, int | float) and isinstance(found, int | float):
        return math.isclose(said, found)
    return bool(said == found) or (not said and not found)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _infinite(place: Place) -> list[str]:
    """What a run should not have recorded of a command that it took."""
    result = place.run / "result.json"
    text = result.read_text() if result.exists() else "{}"
    return [f"the result holds {word}" for word in ("NaN", "Infinity") if word in text]
