"""`stage=evaluate`: score a policy on held-out prompts, without training."""

from __future__ import annotations

from typing import Any

from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup
from pama_exp.tracking.record import RunRecord
from pama_exp.training.operating_points import EVALUATION_SEED, conditioned_points


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Score the policy of `evaluate.run`, or the SFT policy, on `evaluate.prompts` prompts of `evaluate.split`.

    Returns:
        The content of result.json: gold and proxy means. Of a conditioned policy also those at a grid of preferences.
    """
    e = setup.config.evaluate
    module = build_alignment(setup, setup.task.start_policy())
    stream = held_out(setup, module, e.split, e.prompts)
    evaluation = module.evaluate_policy(stream, EVALUATION_SEED)
    record.log_metrics(0, evaluation.metrics())
    record.log_generations(0, [{"split": e.split, **row} for row in evaluation.rows()])
    means, front = evaluation.means(), setup.front(e.split)
    points = conditioned_points(setup.config.conditioning, record, module, stream, front)
    return {
        "status": "complete",
        "objectives": {name: {"before": None, "after": means[name]} for name in means},
        "true_hypervolume_share": {"before": None, "after": front.share_of(means)},
        **({"points": points} if points else {}),
        "run_dir": str(record.folder),
    }
