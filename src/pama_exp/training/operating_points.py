"""Operating points: a policy's mean rewards on held-out prompts, at one preference or at a grid of preferences.

Legend: N objectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pama_exp.config.schema import ConditioningConfig
from pama_exp.data.preferences import shares
from pama_exp.data.prompts import PromptStream
from pama_exp.tracking.console import progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.alignment import Alignment

EVALUATION_SEED = 20250810  # the same for all runs, which then differ only in the policy


def operating_point(preference: Mapping[str, float], means: Any, front: Any) -> dict[str, Any]:
    """One operating point of a soup or a conditioned policy, as a mapping in the form of result.json.

    `means` are the mean rewards by objective; `front` is a `TrueFront` or `NoFront`.
    """
    return {
        "preference": dict(preference),
        "objectives": means,
        "true_hypervolume_share": front.share_of(means),
        "true_front": front.distances_of(means),
    }


def conditioned_points(
    conditioning: ConditioningConfig, record: RunRecord, module: Alignment, stream: PromptStream, front: Any
) -> list[dict[str, Any]]:
    """Evaluate a conditioned policy at every preference of a grid. Empty if the policy is not conditioned.

    Args:
        conditioning: its shares of preferences are multiples of 1 / grid.
        record: the run's record, which keeps a few responses.
        module: the alignment that holds the policy.
        stream: the prompts to respond to.
        front: the front that points are compared with: a `TrueFront`, or `NoFront`.
    """
    if conditioning.name == "none":
        return []
    names = module.names
    points = []
    preferences = list(shares(len(names), conditioning.grid))
    with progress(f"Asking for {' + '.join(names)}", len(preferences)) as bar:
        for preference in preferences:
            evaluation = module.evaluate_policy(stream.with_preference(preference), EVALUATION_SEED)
            means, by_name = evaluation.means(), dict(zip(names, preference, strict=True))
            label = {f"preference/{name}": share for name, share in by_name.items()}
            rows = [{"split": "grid", **label, **row} for row in evaluation.rows(limit=4)]
            record.log_generations(module.step, rows)
            points.append(operating_point(by_name, means, front))
            bar.advance({name: rewards.mean().item() for name, rewards in evaluation.proxy.items()})
    return points
