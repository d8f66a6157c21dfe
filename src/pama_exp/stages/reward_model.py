"""`stage=reward_model`: train or find a Bradley-Terry reward model for each objective, or of text for its pairs."""

from __future__ import annotations

import json
from typing import Any

from pama_exp.schema import Config
from pama_exp.stages import on_text
from pama_exp.stages.parts import program_of
from pama_exp.stages.task import TextTask, make_task
from pama_exp.stages.trained import reward_model
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Returns the result: each model's folder and its accuracy on held-out pairs."""
    task = make_task(config)
    if isinstance(task, TextTask):
        return on_text.reward_model(config, record, task)
    models = {}
    for name, objective in config.objectives.items():
        program = program_of(objective, config.data.domain)
        if program is None:
            note(f"{name} is scored by its own function: there is no reward model to train.")
            continue
        folder = reward_model(config, task.world, program)
        models[name] = json.loads((folder / "accuracy.json").read_text()) | {"folder": str(folder)}
    return {"reward_models": models}
