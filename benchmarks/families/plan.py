"""What is run for the table of families: one seed after the other, so that fewer seeds are still a table."""

from __future__ import annotations

from dataclasses import dataclass

from ..study.plan import PREFERENCES, Job

OBJECTIVES = ("helpful", "concise")
# All learn from the same reward models or from pairs of the kind that these were taught with; gold only measures.
_ALL = ("experiment=study", f"objectives=[{','.join(OBJECTIVES)}]", "reward=learned")
_FROZEN = tuple(f"objectives.{name}.normaliser=frozen" for name in OBJECTIVES)
# Chosen by a few single runs on seeds 0 and 100, which are not in the table.
_MODPO = ("stage=dpo", "dpo.method=modpo", "dpo.steps=200", "dpo.learning_rate=1e-3", "dpo.beta=0.3")
_ONLINE = ("stage=dpo", "dpo.method=mo-odpo", "dpo.steps=100", "dpo.learning_rate=6e-4", "dpo.beta=1.0")
_LORA = ("adapter=lora", "adapter.export=adapter", "training.learning_rate=3e-3")


@dataclass(frozen=True)
class Family:
    """A way to a front.

    Attributes:
        label: as the table shows it.
        runs: {name in folders: command line}, all of which make one seed's front.
        needs: what has to be there before.
        serves: models held at serving, and forward passes for a token; the same for any preference.
        per_preference: whether each preference is a model of its own, which a new preference has to be trained for.
    """

    label: str
    runs: dict[str, tuple[str, ...]]
    needs: str
    serves: tuple[int, int]
    per_preference: bool = False


def _swept(name: str, settings: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {
        f"{name}-{share}": (*_ALL, *settings, "solver=linear", f"solver.weights=[{share},{round(1 - share, 3)}]")
        for share in PREFERENCES
    }


_TOLD = ("solver=linear", "conditioning.grid=10")
FAMILIES: dict[str, Family] = {
    "each": Family("a policy per preference", _swept("each", ()), "reward models, rollouts", (1, 1), True),
    "conditioned": Family(
        "one policy, told by its input",
        {"conditioned": (*_ALL, *_TOLD, "conditioning=embedding")},
        "reward models, rollouts",
        (1, 1),
    ),
    "adapter": Family(
        "one policy, told in its LoRA",
        {"adapter": (*_ALL, *_TOLD, "conditioning=adapter", *_LORA)},
        "reward models, rollouts",
        (1, 1),
    ),
    "soup": Family("a soup of experts", {}, "reward models, rollouts, experts of one start", (1, 1), True),
    "mod": Family("experts mixed while decoding", {}, "reward models, rollouts, experts of one vocabulary", (2, 2)),
    "mo-odpo": Family(
        "MO-ODPO, told by its input",
        {"mo-odpo": (*_ALL, *_ONLINE, *_TOLD, *_FROZEN, "conditioning=embedding")},
        "reward models, rollouts",
        (1, 1),
    ),
    "modpo": Family(
        "MODPO per preference",
        _swept("modpo", _MODPO),
        "pairs of one objective, a reward model of the other; no rollouts",
        (1, 1),
        True,
    ),
}
EXPERTS = {
    f"expert-{name}": ("experiment=study", f"objectives=[{name}]", "reward=learned", "solver=linear")
    for name in OBJECTIVES
}
MIXED = ("soup", "mod")  # made of the experts


def expert_jobs(seed: int) -> list[Job]:
    """The experts of a seed, which come first: others are made of them."""
    return [_job(name, settings, "experts", seed) for name, settings in EXPERTS.items()]


def family_jobs(seed: int) -> list[Job]:
    """Whatever else a seed trains."""
    runs = {name: settings for family in FAMILIES.values() for name, settings in family.runs.items()}
    return [_job(name, settings, "families", seed) for name, settings in runs.items()]


def mixing_jobs(seed: int, root: str) -> list[Job]:
    """What is made of the experts."""
    listed = ",".join(f"{root}/{name}-s{seed}" for name in EXPERTS)
    return [
        Job(
            f"{stage}-s{seed}",
            ("experiment=study", f"stage={stage}", f"{stage}.runs=[{listed}]", f"{stage}.grid=10", f"seed={seed}"),
            stage,
            seed,
        )
        for stage in MIXED
    ]


def runs_of(family: str) -> list[str]:
    """Names of the runs that hold a family's points."""
    return list(FAMILIES[family].runs) or [family]


def _job(name: str, settings: tuple[str, ...], block: str, seed: int) -> Job:
    """Of the block `experts` the policies are kept."""
    return Job(f"{name}-s{seed}", (*settings, f"seed={seed}"), block, seed)
