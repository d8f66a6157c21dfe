"""What is run and disturbed: a smallest command for every stage, and the folders that it starts from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import forks, outcome

SMALL = ("debug=fast", "model=micro", "trainer.threads=1")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
EXPERTS = ("helpful", "concise")


@dataclass(frozen=True)
class Scenario:
    """One command.

    Attributes:
        words: of the command, the folders apart.
        has_cache: whether the models that it starts from are in the cache already.
        has_run: whether its folder holds a finished run of another seed.
        processes: how many work on it.
    """

    name: str
    words: tuple[str, ...]
    has_cache: bool = True
    has_run: bool = False
    processes: int = 1


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("sft", ("stage=sft", "reward=gold"), has_cache=False),
        Scenario("reward_model", ("stage=reward_model",), has_cache=False),
        Scenario("align", ("objectives.helpful.normaliser=running", "training.kl.target=0.5")),
        Scenario("align-from-nothing", (), has_cache=False),
        Scenario("align-conditioned", ("conditioning=embedding", "solver=linear", "reward=gold")),
        Scenario("align-replacing", ("reward=gold", "force=true"), has_run=True),
        Scenario("evaluate", ("stage=evaluate", "evaluate.run={made}/helpful")),
        Scenario("soup", ("stage=soup", "soup.runs=[{made}/helpful,{made}/concise]", "soup.grid=2")),
        Scenario("compare", ("stage=compare", "compare.runs=[{made}]")),
        Scenario("align-on-two", (*TWO, "reward=gold"), processes=2),
    )
}


@dataclass(frozen=True)
class Place:
    """Where one case happens: `cwd` and a `disk` with the run's folder, the cache and runs made before."""

    root: Path

    @property
    def cwd(self) -> Path:
        return self.root / "cwd"

    @property
    def disk(self) -> Path:
        return self.root / "disk"

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def cache(self) -> Path:
        return self.disk / "cache"

    @property
    def made(self) -> Path:
        return self.disk / "made"

    @property
    def watched(self) -> tuple[Path, ...]:
        return (self.run, self.cache)

    def words(self, scenario: Scenario) -> list[str]:
        """The whole command line."""
        given = [word.format(made=self.made) for word in scenario.words]
        return [*SMALL, *given, f"output={self.run}", f"cache_dir={self.cache}"]

    def work(self, scenario: Scenario, **options: object) -> forks.Ended:
        """Run the command."""
        return forks.run(forks.command(self.words(scenario)), self.cwd, ENVIRONMENT, **options)  # type: ignore[arg-type]

    def empty(self) -> None:
        """Nothing in it, but its two folders."""
        if self.root.exists():
            shutil.rmtree(self.root)
        self.cwd.mkdir(parents=True)
        self.disk.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}


@dataclass
class Workshop:
    """What cases have in common: folders to copy, and what every command ends in when nothing disturbs it.

    Args:
        root: a scratch folder.
    """

    root: Path
    ends: dict[str, outcome.End] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    events: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def stock(self) -> Place:
        """A cache with all models, and two experts' runs."""
        return Place(self.root / "stock")

    def place(self, name: str) -> Place:
        return Place(self.root / "cases" / name)

    def stock_up(self) -> None:
        """Make what is copied into every case, once."""
        stock = self.stock
        if (self.root / "stocked").exists():
            return
        stock.empty()
        stock.made.mkdir()
        once = [("first", ("training.steps=1",)), ("gold", ("reward=gold", "seed=7"))]
        once += [(name, (f"objectives={name}", "solver=linear", "reward=gold")) for name in EXPERTS]
        for name, words in once:
            folder = stock.root / name if name not in EXPERTS else stock.made / name
            line = [*SMALL, *words, f"output={folder}", f"cache_dir={stock.cache}"]
            ended = forks.run(forks.command(line), stock.cwd, ENVIRONMENT)
            if ended.status != 0:
                raise RuntimeError(f"{name}: {ended.err}")
        (self.root / "stocked").touch()

    def set_out(self, place: Place, scenario: Scenario) -> None:
        """What the command starts from."""
        place.empty()
        self.furnish(place, scenario)

    def furnish(self, place: Place, scenario: Scenario) -> None:
        """The same in a place whose folders are there and empty."""
        if scenario.has_cache:
            shutil.copytree(self.stock.cache, place.cache)
        if scenario.has_run:
            shutil.copytree(self.stock.root / "gold", place.run)
        if any("{made}" in word for word in scenario.words):
            shutil.copytree(self.stock.made, place.made)

    def end_of(self, scenario: Scenario) -> outcome.End:
        """What the command ends in when nothing disturbs it; found once."""
        if scenario.name not in self.ends:
            place = self.place("undisturbed")
            for process in [forks.events.STARTER] + (["0"] if scenario.processes > 1 else []):
                self.set_out(place, scenario)
                log = place.root / "events"
                ended = place.work(scenario, watched=forks.Watched(place.watched, process, log=log))
                if ended.status != 0:
                    raise RuntimeError(f"{scenario.name}: {ended.err}")
                self.events[scenario.name, process] = len(log.read_text().splitlines()) if log.exists() else 0
            self.ends[scenario.name] = outcome.end(place.run, place.cache, place.root)
            self.seconds[scenario.name] = ended.seconds
            place.remove()
        return self.ends[scenario.name]


def size(folder: Path) -> int:
    """Bytes of all files, in whole blocks."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(-(-os.lstat(path).st_size // 4096) * 4096 for path in files) + 4096
