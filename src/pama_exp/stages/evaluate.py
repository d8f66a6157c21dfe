"""`stage=evaluate`: score a policy on held-out prompts, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pama_exp.build.task import make_task
from pama_exp.config.schema import Config
from pama_exp.stages.align import build_alignment, held_out
from pama_exp.supervised.testbed import sft_policy
from pama_exp.tracking.record import RunRecord
from pama_exp.training.operating_points import EVALUATION_SEED, conditioned_points, hypervolume_share


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Returns the result: gold and proxy means of `evaluate.run`'s policy, or of the SFT policy."""
    if config.evaluate.run is None:
        return evaluate_folder(config, record, sft_policy(config, make_task(config).world))
    return evaluate_folder(config, record, Path(config.evaluate.run) / "policy")


def evaluate_folder(config: Config, record: RunRecord, folder: Path) -> dict[str, Any]:
    """The policy in `folder` on `evaluate.prompts` prompts of `evaluate.split`; a conditioned one at its grid too."""
    task = make_task(config)
    module = build_alignment(config, task, str(folder))
    e = config.evaluate
    stream = held_out(config, task, module, e.split, e.prompts)
    evaluation = module.evaluate_policy(stream, EVALUATION_SEED)
    record.log_metrics(0, evaluation.metrics())
    record.log_generations(0, [{"split": e.split, **row} for row in evaluation.rows(limit=64)])
    means = evaluation.means()
    points = {}
    if config.conditioning.name != "none":
        points = {"points": conditioned_points(config, record, module, stream, task.world, e.split)}
    return {
        "status": "complete",
        "objectives": {name: {"before": None, "after": means[name]} for name in means},
        "true_hypervolume_share": {"before": None, "after": hypervolume_share(task.world, means, config, e.split)},
        **points,
        "run_dir": str(record.folder),
    }
