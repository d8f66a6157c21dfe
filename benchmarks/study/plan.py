"""What the study runs: solvers × seeds × objectives × rewards, preference sweeps, ablations, and fronts from less."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

SEEDS = range(8)
OBJECTIVES = {
    2: ("helpful", "concise"),
    3: ("helpful", "concise", "harmless"),
    5: ("helpful", "concise", "harmless", "humor", "polite"),
}
REWARDS = ("gold", "learned")

# Name in folders → command line. These meet each other on everything.
SOLVERS = {
    "pama": ["solver=pama"],
    "linear": ["solver=linear"],
    "mgda": ["solver=mgda"],
    "mgda-ub": ["solver=mgda-ub"],
    "smooth-tchebycheff": ["solver=smooth-tchebycheff"],
    "cagrad": ["solver=cagrad"],
    "pcgrad": ["solver=pcgrad"],
    "upgrad": ["solver=upgrad"],
}
_VARIANTS = {
    "pama-sequence": ["solver=pama", "solver.granularity=sequence"],
    "pama-batch": ["solver=pama", "solver.granularity=batch"],
    "pama-raw": ["solver=pama", "solver.noon=false"],
}
ABLATIONS = {
    2: _VARIANTS
    | {
        "pama-sequence-raw": ["solver=pama", "solver.granularity=sequence", "solver.noon=false"],
        "mgda-ub-noon": ["solver=mgda-ub", "solver.noon=true"],
    },
    3: _VARIANTS,
}
ABLATED = ("pama", "linear", "mgda-ub")  # what the ablations stand beside
# These compare responses with others to the same prompt: a comparison of their own, with partners estimated alike.
_GROUP = ["advantage=group", "advantage.baseline=standardise"]
GROUPED = {f"{name}-group": [f"solver={name}", *_GROUP] for name in ("pama", "linear", "gdpo", "rvpo")}
# Solvers that take a preference, of the first of two objectives; the even one of most is among the runs above.
SWEPT = ("pama", "linear", "tchebycheff", "smooth-tchebycheff")
PREFERENCES = (0.1, 0.3, 0.5, 0.7, 0.9)
# One run for a whole front, evaluated at as many preferences as the soups are.
CONDITIONED = {"linear": ["solver=linear", "conditioning=embedding", "conditioning.grid=10"]}


@dataclass(frozen=True)
class Job:
    """One run: its folder's name and its command line."""

    name: str
    overrides: tuple[str, ...]
    block: str
    seed: int


def jobs(seeds: Sequence[int] = SEEDS) -> list[Job]:
    """Every training run, a whole seed after the other, so that a study cut short is a study of fewer seeds."""
    return [job for seed in seeds for job in _of_seed(seed)]


def preparations() -> list[list[Job]]:
    """The SFT policy, then the reward models: what all runs share and find in the cache."""
    sft = Job("prepare/sft", ("experiment=study", "stage=sft"), "prepare", 0)
    names = OBJECTIVES[max(OBJECTIVES)]
    models = [("experiment=study", "stage=reward_model", f"objectives=[{name}]") for name in names]
    return [[sft], [Job(f"prepare/{n}", overrides, "prepare", 0) for n, overrides in zip(names, models, strict=True)]]


def soups(seeds: Sequence[int], root: str) -> list[Job]:
    """One soup of the two experts per seed; trains nothing."""
    return [
        Job(
            f"soup/soup-s{seed}",
            (
                "experiment=study",
                "stage=soup",
                f"soup.runs=[{root}/experts/helpful-s{seed},{root}/experts/concise-s{seed}]",
                "soup.grid=10",
                f"seed={seed}",
            ),
            "soup",
            seed,
        )
        for seed in seeds
    ]


def _of_seed(seed: int) -> list[Job]:
    found = []
    for count, reward in ((count, reward) for count in OBJECTIVES for reward in REWARDS):
        block = f"{count}-{reward}"
        found += [_job(block, name, extra, count, reward, seed) for name, extra in SOLVERS.items()]
    for name, share in itertools.product(SWEPT, PREFERENCES):
        if share != 0.5 or name not in SOLVERS:
            extra = [f"solver={name}", f"solver.weights=[{share},{round(1 - share, 3)}]"]
            found.append(_job("preferences", f"{name}-{share}", extra, 2, "gold", seed))
    for count, variants in ABLATIONS.items():
        found += [_job(f"ablation-{count}", name, extra, count, "gold", seed) for name, extra in variants.items()]
    found += [_job("group", name, extra, 2, "gold", seed) for name, extra in GROUPED.items()]
    for name in OBJECTIVES[2]:
        overrides = ("experiment=study", f"objectives=[{name}]", "solver=linear", "reward=gold", f"seed={seed}")
        found.append(Job(f"experts/{name}-s{seed}", overrides, "experts", seed))
    found += [_job("conditioned", name, extra, 2, "gold", seed) for name, extra in CONDITIONED.items()]
    return found


def _job(block: str, name: str, extra: Sequence[str], count: int, reward: str, seed: int) -> Job:
    objectives = f"objectives=[{','.join(OBJECTIVES[count])}]"
    overrides = ("experiment=study", objectives, f"reward={reward}", *extra, f"seed={seed}")
    return Job(f"{block}/{name}-s{seed}", overrides, block, seed)
