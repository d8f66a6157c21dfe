"""Disks that are full at every size: two lines, a status that says so, and an end alike once there is room."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from .case import Case, Verdict, faults_of
from .forks import Ended
from .outcome import end
from .scenarios import SCENARIOS, Place, Scenario, Workshop, size

ROOMY = 2**28  # bytes


@cache
def can_mount() -> bool:
    """Whether this user may mount a file system in memory of a given size."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        return False
    folder = Path("/tmp") / f"reliability-{os.getpid()}"
    folder.mkdir()
    try:
        mounted = _mount(folder, 2**16)
        if mounted:
            _unmount(folder)
        return mounted
    finally:
        folder.rmdir()


def means() -> str:
    """How disks are made full here."""
    if can_mount():
        return "a file system in memory (tmpfs) of that size"
    return "a limit to the size of a file (RLIMIT_FSIZE)"


def full_disks(workshop: Workshop, count: int, names: Sequence[str]) -> Iterator[Case]:
    """`count` sizes for each scenario, from none to more than the run needs."""
    for index in range(count):
        for name in names:
            if SCENARIOS[name].processes == 1:
                label = f"disk-{name}-{index}-of-{count}"
                yield Case(label, "disk", name, _on_full_disk(workshop, SCENARIOS[name], label, (index + 0.5) / count))


def _on_full_disk(workshop: Workshop, scenario: Scenario, name: str, share: float) -> Callable[[], Verdict]:
    def run() -> Verdict:
        expected = workshop.end_of(scenario)
        need = need_of(workshop, scenario)
        place = workshop.place(name)
        place.empty()
        is_mounted = can_mount() and _mount(place.disk, ROOMY)
        try:
            workshop.furnish(place, scenario)
            if is_mounted:
                free = int(share * need)
                _resize(place.disk, size_of_mount(place.disk) + free)
                ended = place.work(scenario)
            else:
                free = int(share * 2**19)
                ended = place.work(scenario, prepare=partial(_limit, free))
            faults = faults_of(ended, "full disk") + _told(ended, place)
            if is_mounted:
                _resize(place.disk, ROOMY)
            last = place.work(scenario)
            faults += faults_of(last, "with room")
            if last.status != 0:
                faults.append(f"with room: status {last.status}: {last.err[-300:]}")
            else:
                faults += [f"another {what}" for what in end(place.run, place.cache, place.root).differs_from(expected)]
        finally:
            if is_mounted:
                _unmount(place.disk)
        kind = "enough" if ended.status == 0 else "full"
        if not faults:
            place.remove()
        seconds = ended.seconds + last.seconds
        return Verdict(name, "disk", scenario.name, f"{free} bytes free", kind, tuple(faults), seconds)

    return run


def _told(ended: Ended, place: Place) -> list[str]:
    """Two lines; a status of failed or interrupted, where there was room for one at all; nothing that says complete."""
    if ended.status == 0:
        return []
    faults = [] if ended.is_refusal else [f"full disk: status {ended.status}: {ended.err[-400:]}"]
    status = place.run / "status.json"
    if not (place.run / "result.json").exists() and status.is_file():
        try:
            state = json.loads(status.read_text())["state"]
        except ValueError:
            state = "damaged"
        if state not in ("failed", "interrupted"):
            faults.append(f"full disk: the status is {state}")
    return faults


@cache
def _need(root: Path, name: str) -> int:
    workshop = Workshop(root)
    place = workshop.place("need")
    workshop.set_out(place, SCENARIOS[name])
    before = size(place.disk)
    place.work(SCENARIOS[name])
    grown = size(place.disk) - before
    place.remove()
    return int(1.3 * grown)  # temporary files and folders, beside what is left


def need_of(workshop: Workshop, scenario: Scenario) -> int:
    """Bytes that the run adds to the disk, and somewhat more."""
    return _need(workshop.root, scenario.name)


def size_of_mount(folder: Path) -> int:
    """Bytes in use."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _limit(largest: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def _mount(folder: Path, largest: int) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", f"size={largest}", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _resize(folder: Path, largest: int) -> None:
    largest = max(4096, -(-largest // 4096) * 4096)
    subprocess.run(["mount", "-o", f"remount,size={largest}", str(folder)], capture_output=True, check=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
