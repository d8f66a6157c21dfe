"""Operating points: what a policy attains on held-out prompts, at one preference or at a grid of them.

Legend: N objectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pama_exp.build.parts import program_of
from pama_exp.comparison.reference import TrueFront
from pama_exp.config.schema import Config
from pama_exp.data.preferences import shares
from pama_exp.data.prompts import PromptStream
from pama_exp.tracking.console import progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.alignment import Alignment
from pama_exp.world import FactWorld

EVALUATION_SEED = 20250810  # one stream of evaluation samples for all runs, so that they differ in the policy alone
Means = Mapping[str, Mapping[str, float | None]]


def point(
    preference: Mapping[str, float], means: Means, world: FactWorld | None, config: Config, split: str
) -> dict[str, Any]:
    """An operating point as result.json lists it, of a soup or of a conditioned policy."""
    return {
        "preference": dict(preference),
        "objectives": means,
        "true_hypervolume_share": hypervolume_share(world, means, config, split),
        "true_front": distances_to_front(world, means, config, split),
    }


def conditioned_points(
    config: Config, record: RunRecord, module: Alignment, stream: PromptStream, world: FactWorld | None, split: str
) -> list[dict[str, Any]]:
    """A conditioned policy at every preference of `conditioning.grid`, a few of its responses kept."""
    names, points = module.names, []
    grid = list(shares(len(names), config.conditioning.grid))
    with progress(f"Asking for {' + '.join(names)}", len(grid)) as bar:
        for asked in grid:
            evaluation = module.evaluate_policy(stream.asking(asked), EVALUATION_SEED)
            means, preference = evaluation.means(), dict(zip(names, asked, strict=True))
            label = {f"preference/{name}": share for name, share in preference.items()}
            rows = [{"split": "grid", **label, **row} for row in evaluation.rows(limit=4)]
            record.log_generations(module.step, rows)
            points.append(point(preference, means, world, config, split))
            bar.advance({name: means[name]["proxy"] for name in names})
    return points


def hypervolume_share(world: FactWorld | None, means: Means, config: Config, split: str) -> float | None:
    """The share of the true front's hypervolume that this operating point dominates; None where gold is not defined."""
    programs = gold_programs(config)
    if programs is None:
        return None
    attained = {programs[name]: means[name]["gold"] for name in config.objectives}
    return world.hypervolume_share(attained, list(attained), split)


def distances_to_front(world: FactWorld | None, means: Means, config: Config, split: str) -> dict[str, float] | None:
    """The operating point's regret, IGD+ and additive epsilon to the true front; None where gold is not defined."""
    programs = gold_programs(config)
    if programs is None:
        return None
    found = TrueFront(world, tuple(programs.values()), split).measure([[means[name]["gold"] for name in programs]])
    return {name: found[name] for name in ("regret", "igd_plus", "epsilon")}


def gold_programs(config: Config) -> dict[str, str] | None:
    """{objective: FactWorld program} where every objective has one of its own, else None."""
    programs = {name: program_of(node, config.data.domain) for name, node in config.objectives.items()}
    found = [program for program in programs.values() if program is not None]
    return {k: v for k, v in programs.items() if v} if len(set(found)) == len(programs) else None
