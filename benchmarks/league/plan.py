"""What the league runs: entries × numbers of objectives × rewards × seeds, under one protocol or another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from benchmarks.study.plan import OBJECTIVES, REWARDS, SEEDS, Job
from benchmarks.study.plan import preparations as first_preparations

from pama_exp.config.instantiate import locate

CONF = Path(__file__).parents[2] / "conf" / "solver"
VALIDATED = ("training.evaluate_every=10",)
GROUPED = ("advantage=group", "advantage.baseline=standardise")

# Entries that are a solver under other settings than its yaml's.
SETTINGS: dict[str, tuple[str, ...]] = {
    "pama-sequence": ("solver=pama", "solver.granularity=sequence"),
    "barrier": ("solver=proportional-fairness", "solver.barrier=2.0"),
    "fair-shifted-pama-barrier": ("solver=fair-shifted-pama", "solver.barrier=2.0"),
    "fair-shifted-pama-fixed": ("solver=fair-shifted-pama", "solver.follow=false"),
    "fair-shifted-pama-fixed-barrier": ("solver=fair-shifted-pama", "solver.follow=false", "solver.barrier=2.0"),
    "fair-shifted-pama-blend": ("solver=fair-shifted-pama", "solver.follow=false", "solver.blend=0.5"),
    "fair-shifted-pama-level": (
        "solver=fair-shifted-pama",
        "solver.follow=false",
        "solver.blend=0.5",
        "solver.barrier=1.25",
    ),
    "mgda-advantages": ("solver=mgda", "training.gramian.target=advantages"),
    "nash-mtl-advantages": ("solver=nash-mtl", "training.gramian.target=advantages"),
    "fairgrad-advantages": ("solver=fairgrad", "training.gramian.target=advantages"),
    "cagrad-advantages": ("solver=cagrad", "training.gramian.target=advantages"),
    "linear-group": ("solver=linear", *GROUPED),
    "pama-group": ("solver=pama", *GROUPED),
    "proportional-fairness-group": ("solver=proportional-fairness", *GROUPED),
    "sa-mrpo-group": ("solver=sa-mrpo", *GROUPED),
    "dvao-group": ("solver=dvao", *GROUPED),
}

# Where the KL goes. The table ranks `reward`, the default; the others show what the placement does.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "reward": (),
    "once": ("training.kl.placement=combined", "training.scale_combined=true"),
    "loss-k3": ("training.kl.placement=loss", "training.kl.estimator=k3", "training.scale_combined=true"),
}


# The ranking is of the first. The second, of another seed and with longer prompts and answers, is for the confirmation.
WORLDS: dict[str, tuple[str, ...]] = {
    "first": (),
    "second": (
        "data.world.seed=1",
        "data.world.max_asked=6",
        "data.world.max_response_tokens=60",
        "rollout.sampling.max_new_tokens=60",
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run's place in the table; what is measured there is a row."""

    n: int
    reward: str
    protocol: str
    entry: str
    seed: int
    world: str = "first"

    @property
    def name(self) -> str:
        """Its folder under the league's."""
        world = "" if self.world == "first" else f"{self.world}-world-"
        return f"{world}{self.n}-{self.reward}-{self.protocol}/{self.entry}-s{self.seed}"


def shipped() -> dict[str, tuple[str, ...]]:
    """{solver: its command line} of every yaml in conf/solver, with what it needs besides."""
    found = {}
    for path in sorted(CONF.glob("*.yaml")):
        node: dict[str, Any] = yaml.safe_load(path.read_text())
        found[path.stem] = (f"solver={path.stem}", *needed(node))
    return found


def needed(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that a solver's yaml cannot do without: groups of responses, or evaluations that steer it."""
    factory = locate(node, "solver")
    words = GROUPED if getattr(factory, "estimators", ()) else ()
    return (*words, *(VALIDATED if getattr(factory, "needs_validation", False) else ()))


def entries() -> dict[str, tuple[str, ...]]:
    """{entry: its command line}: every shipped solver, and some under other settings."""
    return shipped() | SETTINGS


def cells(
    chosen: Iterable[str],
    counts: Sequence[int],
    rewards: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int],
    world: str = "first",
) -> list[Cell]:
    """A whole seed after the other, so that a league cut short is one of fewer seeds, not of fewer solvers."""
    kept = list(chosen)
    return [
        Cell(n, reward, protocol, entry, seed, world)
        for seed in seeds
        for protocol in protocols
        for reward in rewards
        for n in counts
        for entry in kept
    ]


def job(cell: Cell, known: Mapping[str, tuple[str, ...]], extra: Sequence[str] = ()) -> Job:
    """The run that fills a cell."""
    overrides = (
        "experiment=study",
        f"objectives=[{','.join(OBJECTIVES[cell.n])}]",
        f"reward={cell.reward}",
        *known[cell.entry],
        *PROTOCOLS[cell.protocol],
        *WORLDS[cell.world],
        *extra,
        f"seed={cell.seed}",
    )
    return Job(cell.name, overrides, cell.name.partition("/")[0], cell.seed)


def preparations(world: str) -> list[list[Job]]:
    """The SFT policy of a world, then its reward models: what its runs share and find in the cache."""
    prefix = "" if world == "first" else f"{world}-world-"
    return [
        [Job(prefix + one.name, (*one.overrides, *WORLDS[world]), one.block, one.seed) for one in step]
        for step in first_preparations()
    ]


__all__ = [
    "OBJECTIVES",
    "PROTOCOLS",
    "REWARDS",
    "SEEDS",
    "SETTINGS",
    "WORLDS",
    "Cell",
    "cells",
    "entries",
    "job",
    "preparations",
    "shipped",
]
