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
        The result as result.json holds it: gold and proxy means; of a conditioned policy those of its grid too.
    """
    e, conditioning = setup.config.evaluate, setup.config.conditioning
    module = build_alignment(setup, setup.task.start_policy())
    stream = held_out(setup, module, e.split, e.prompts)
    evaluation = module.evaluate_policy(stream, EVALUATION_SEED)
    record.log_metrics(0, evaluation.metrics())
    record.log_generations(0, [{"split": e.split, **row} for row in evaluation.rows()])
    means, front = evaluation.means(), setup.front(e.split)
    points = {}
    if conditioning.name != "none":
        points = {"points": conditioned_points(record, module, stream, front, conditioning.grid)}
    return {
        "status": "complete",
        "objectives": {name: {"before": None, "after": means[name]} for name in means},
        "true_hypervolume_share": {"before": None, "after": front.share_of(means)},
        **points,
        "run_dir": str(record.folder),
    }
