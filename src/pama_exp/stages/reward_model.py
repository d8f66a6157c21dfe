"""`stage=reward_model`: train or find a Bradley-Terry reward model for each objective, or of text for its pairs."""

from __future__ import annotations

import json
from typing import Any

from pama_exp.build.parts import program_of
from pama_exp.build.task import TextTask, make_task
from pama_exp.config.schema import Config
from pama_exp.supervised import text_tasks
from pama_exp.supervised.testbed import reward_model
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Returns the result: each model's folder and its accuracy on held-out pairs."""
    task = make_task(config)
    if isinstance(task, TextTask):
        return text_tasks.reward_model(config, record, task)
    models = {}
    for name, objective in config.objectives.items():
        program = program_of(objective, config.data.domain)
        if program is None:
            note(f"{name} is scored by its own function: there is no reward model to train.")
            continue
        folder = reward_model(config, task.world, program)
        models[name] = json.loads((folder / "accuracy.json").read_text()) | {"folder": str(folder)}
    return {"reward_models": models}
