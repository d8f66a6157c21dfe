"""Runs killed at random moments and at chosen events; the same command must end where it would have ended."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence

from . import events
from .case import Case, Verdict, faults_of
from .forks import Ended, Watched
from .outcome import end
from .scenarios import SCENARIOS, Place, Scenario, Workshop

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_AGAIN = 0.3  # of the killed runs are killed once more
_SHARED = 0.1  # of the cases are of two processes, whose start takes longer than all the rest


def random_kills(workshop: Workshop, count: int, seed: int, names: Sequence[str]) -> Iterator[Case]:
    """Signals after a random part of the time that the whole run takes."""
    for index in range(count):
        name = f"kill-{seed}-{index}"
        scenario = _scenario(name, names)
        yield Case(name, "kills", scenario.name, _killed_at_random(workshop, scenario, name))


def kills_at_events(workshop: Workshop, count: int, seed: int, names: Sequence[str]) -> Iterator[Case]:
    """A kill just before, or a moment into, a change to the run's folder or the cache."""
    for index in range(count):
        name = f"event-{seed}-{index}"
        scenario = _scenario(name, names)
        yield Case(name, "events", scenario.name, _killed_at_event(workshop, scenario, name, index / count))


def _scenario(name: str, names: Sequence[str]) -> Scenario:
    source = random.Random(name)
    known = [SCENARIOS[each] for each in names]
    shared = [scenario for scenario in known if scenario.processes > 1]
    alone = [scenario for scenario in known if scenario.processes == 1]
    is_shared = bool(shared) and (not alone or source.random() < _SHARED)
    return source.choice(shared if is_shared else alone)


def _killed_at_random(workshop: Workshop, scenario: Scenario, name: str) -> Callable[[], Verdict]:
    def run() -> Verdict:
        source = random.Random(name + "x")
        workshop.end_of(scenario)
        when = source.uniform(0.0, workshop.seconds[scenario.name])
        signum = source.choice(SIGNALS)
        place = workshop.place(name)
        workshop.set_out(place, scenario)
        ended = place.work(scenario, signals=[(when, signum)])
        how = f"{signal.Signals(signum).name} after {when:.2f} s"
        return _go_on(workshop, scenario, place, name, "kills", how, [ended], source)

    return run


def _killed_at_event(workshop: Workshop, scenario: Scenario, name: str, part: float) -> Callable[[], Verdict]:
    def run() -> Verdict:
        source = random.Random(name + "x")
        workshop.end_of(scenario)
        process = events.STARTER
        if scenario.processes > 1:
            process = source.choice([events.STARTER, "0", "0", "0"])
        count = max(1, workshop.events[scenario.name, process])
        at, is_soon = source.randint(1, count), source.random() < 0.5
        place = workshop.place(name)
        workshop.set_out(place, scenario)
        ended = place.work(scenario, watched=Watched(place.watched, process, at, is_soon))
        how = f"{'soon after' if is_soon else 'at'} event {at} of {count} of process {process}"
        return _go_on(workshop, scenario, place, name, "events", how, [ended], source)

    return run


def _go_on(
    workshop: Workshop,
    scenario: Scenario,
    place: Place,
    name: str,
    part: str,
    how: str,
    ends: list[Ended],
    source: random.Random,
) -> Verdict:
    """After the first kill: perhaps another, then the same command to its end, which is held to the undisturbed one."""
    faults = faults_of(ends[0], "killed") + _wrong_status(ends[0], scenario)
    if ends[0].status != 0 and source.random() < _AGAIN:
        when = source.uniform(0.0, workshop.seconds[scenario.name])
        ends.append(place.work(scenario, signals=[(when, signal.SIGKILL)]))
        faults += faults_of(ends[-1], "killed again")
        how += f", SIGKILL after another {when:.2f} s"
    last = place.work(scenario)
    faults += faults_of(last, "run again")
    if last.status != 0:
        faults.append(f"run again: status {last.status}: {last.err[-300:]}")
    else:
        try:
            differing = end(place.run, place.cache, place.root).differs_from(workshop.end_of(scenario))
        except (OSError, ValueError) as error:
            differing = [f"unreadable: {error}"]
        faults += [f"another {what}" for what in differing]
    kind = "ended before" if ends[0].status == 0 else "killed twice" if len(ends) > 1 else "killed"
    seconds = sum(each.seconds for each in [*ends, last])
    if not faults:
        place.remove()
    return Verdict(name, part, scenario.name, how, kind, tuple(faults), seconds)


def _wrong_status(ended: Ended, scenario: Scenario) -> list[str]:
    """A kill is a kill; a signal that is heard ends in 128 + its number; a killed worker in a refusal."""
    heard = {128 + signal.SIGTERM, 128 + signal.SIGINT}
    killed = {-signal.SIGKILL, -signal.SIGALRM, -signal.SIGTERM, -signal.SIGINT}  # the latter before it listens
    is_right = ended.status in heard | killed | {0}
    if scenario.processes > 1 and not is_right:
        is_right = ended.is_refusal
    return [] if is_right else [f"killed: status {ended.status}: {ended.err[-300:]}"]
