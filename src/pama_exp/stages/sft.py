"""`stage=sft`: train or find the SFT policy, and say how it does on every objective."""

from __future__ import annotations

from typing import Any

from pama_exp.build.task import TextTask, make_task
from pama_exp.config.schema import Config
from pama_exp.stages.evaluate import evaluate_folder
from pama_exp.supervised import text_tasks
from pama_exp.supervised.testbed import sft_policy
from pama_exp.tracking.record import RunRecord


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Returns the result: the policy's folder, and its means on the evaluation split or, of text, the held-out loss."""
    task = make_task(config)
    if isinstance(task, TextTask):
        return text_tasks.sft(config, record, task)
    folder = sft_policy(config, task.world)
    return evaluate_folder(config, record, folder) | {"policy": str(folder)}
