"""`stage=sft`: train or find the SFT policy, and say how it does on every objective."""

from __future__ import annotations

from typing import Any

from pama_exp.schema import Config
from pama_exp.stages import on_text
from pama_exp.stages.evaluate import evaluate_folder
from pama_exp.stages.task import TextTask, make_task
from pama_exp.stages.trained import sft_policy
from pama_exp.tracking.record import RunRecord


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Returns the result: the policy's folder, and its means on the evaluation split or, of text, the held-out loss."""
    task = make_task(config)
    if isinstance(task, TextTask):
        return on_text.sft(config, record, task)
    folder = sft_policy(config, task.world)
    return evaluate_folder(config, record, folder) | {"policy": str(folder)}
