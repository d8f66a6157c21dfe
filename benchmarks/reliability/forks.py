"""Commands, each in a process forked from this one, which has imported all that they need and so saves seconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import events

HOOK = Path(__file__).parent / "hook"
LIMIT = 300.0  # seconds asleep, with nothing done: it hangs. A process that waits for a processor does not.


@dataclass(frozen=True)
class Watched:
    """What is counted in one process of a command, and where it is killed: `events.install`'s arguments."""

    folders: tuple[Path, ...]
    process: str = events.STARTER
    at: int | None = None
    is_soon: bool = False
    log: Path | None = None

    def arguments(self) -> dict[str, Any]:
        return {
            "folders": [str(folder) for folder in self.folders],
            "log": None if self.log is None else str(self.log),
            "at": self.at,
            "is_soon": self.is_soon,
        }


@dataclass(frozen=True)
class Ended:
    """How a command ended. `status` is the exit status, negative for a signal."""

    status: int
    out: str
    err: str
    seconds: float
    is_hung: bool = False

    @property
    def is_refusal(self) -> bool:
        """Status 2 and at most two lines, none of which is long."""
        lines = self.err.splitlines()
        return self.status == 2 and 0 < len(lines) <= 2 and all(len(line) <= 300 for line in lines)

    @property
    def has_traceback(self) -> bool:
        """Whether it shows, or has kept, a traceback."""
        return "Traceback" in self.err + self.out or "failed unexpectedly" in self.err


def warm() -> None:
    """Import what commands need, once. Nothing is computed: threads do not survive a fork."""
    from hydra import compose, initialize_config_dir

    import pama_exp.assembly.preflight
    import pama_exp.report.gather
    import pama_exp.report.page
    import pama_exp.runs
    import pama_exp.sync
    import pama_exp.tracking.plots  # noqa: F401
    from pama_exp.cli import app, execute
    from pama_exp.cli import compose as composing
    from pama_exp.config import schema

    composing.prepare()
    app.syntax.parse(["seed=0"])
    for stage in ("align", "evaluate", "soup", "compare", "sft", "reward_model"):
        with initialize_config_dir(str(schema.CONF), version_base="1.3"):
            config = schema.typed(compose("config", [f"stage={stage}", "output=o", "cache_dir=c", "model=micro"]))
        execute.load_stage(config)


def command(words: Sequence[str]) -> Callable[[], None]:
    """`python run.py WORDS…`."""

    def run() -> None:
        from pama_exp.cli.app import main

        sys.argv = ["run.py", *words]
        main()

    return run


def reader(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> Callable[[], None]:
    """`python -m pama_exp.runs WORDS…` and its like."""

    def run() -> None:
        from pama_exp.safety.failing import guarded

        guarded(lambda: main(list(words)), "The command")

    return run


def run(
    work: Callable[[], None],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    watched: Watched | None = None,
    signals: Sequence[tuple[float, int]] = (),
    prepare: Callable[[], None] | None = None,
    limit: float = LIMIT,
) -> Ended:
    """Fork, have the child do it in the folder `cwd`, and wait until it has ended; what hangs is killed.

    Args:
        work: done in the child, which then exits.
        cwd: the child's current folder, which holds what it prints.
        environment: added to the child's.
        watched: counted in the child or in a process that it starts.
        signals: (seconds after the start, signal) that the child is sent.
        prepare: called in the child first.
        limit: seconds asleep without a break.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = (cwd.parent / f"{cwd.name}.{name}" for name in ("out", "err"))
    for path in (out, err):
        path.touch()
    started = awake = time.monotonic()
    child = os.fork()
    if child == 0:
        _live(work, cwd, out, err, dict(environment or {}), watched, prepare)
    status, is_hung, due = None, False, sorted(signals)
    while status is None:
        found, code = os.waitpid(child, os.WNOHANG)
        took = time.monotonic() - started
        if found:
            status = os.waitstatus_to_exitcode(code)
        elif due and took >= due[0][0]:
            os.kill(child, due.pop(0)[1])
        elif time.monotonic() - awake > limit and not is_hung:
            os.kill(child, signal.SIGKILL)
            is_hung = True
        else:
            if not _is_asleep(child):
                awake = time.monotonic()
            time.sleep(min(0.01, max(0.0, due[0][0] - took)) if due else 0.01)
    said = [path.read_text(errors="replace") for path in (out, err)]
    for path in (out, err):
        path.unlink()
    return Ended(status, said[0], said[1], time.monotonic() - started, is_hung)


def _is_asleep(process: int) -> bool:
    """Whether it waits for something else than a processor."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _live(
    work: Callable[[], None],
    cwd: Path,
    out: Path,
    err: Path,
    environment: dict[str, str],
    watched: Watched | None,
    prepare: Callable[[], None] | None,
) -> None:
    """A child's whole life."""
    status = 70
    try:
        for number, path in ((0, Path(os.devnull)), (1, out), (2, err)):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o600), number)
        os.chdir(cwd)
        os.environ.update(environment)
        if prepare is not None:
            prepare()
        if watched is not None and watched.process == events.STARTER:
            events.install(**watched.arguments())
        elif watched is not None:
            os.environ[events.VARIABLE] = json.dumps({"process": watched.process, **watched.arguments()})
            sys.path.insert(0, str(HOOK))  # a run's processes get its path
        work()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1 if left.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                status = status or 74
        os._exit(status)
