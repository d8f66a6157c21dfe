"""`stage=reward_model`: a Bradley-Terry reward model for each objective of the testbed, or for the pairs of a table."""

from __future__ import annotations

import json
from typing import Any

from pama_exp.assembly.card import write_supervised_card
from pama_exp.assembly.setup import Setup
from pama_exp.assembly.task import TextTask
from pama_exp.supervised.text_models import Learner, train_reward_model
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Train the reward models: on the testbed one per gold program, in the cache; on text one, in the run's folder.

    Returns:
        The content of result.json: each model's folder and its accuracy on held-out pairs.

    Raises:
        UserError: if there are no pairs, or all are too long.
    """
    if isinstance(setup.task, TextTask):
        return _on_text(setup, setup.task, record)
    programs = {plan.name: plan.program for plan in setup.objectives if plan.program is not None}
    for plan in setup.objectives:
        if plan.program is None:
            note(f"{plan.name} is scored by its own function: there is no reward model to train.")
    folders = dict(zip(programs, setup.task.reward_models(list(programs.values())), strict=True))
    models = {
        name: json.loads((folder / "accuracy.json").read_text()) | {"folder": str(folder)}
        for name, folder in folders.items()
    }
    return {"reward_models": models}


def _on_text(setup: Setup, task: TextTask, record: RunRecord) -> dict[str, Any]:
    config, folder = setup.config, record.folder / "reward_model"
    learner = Learner(setup.start, task.start_policy(), setup.device, config.trainer.precision)
    train, test = task.data.preference_pairs("train"), task.data.preference_pairs("test")[: config.evaluate.prompts]
    accuracy, learned, tested = train_reward_model(learner, train, test, config.reward_model, folder)
    made = f"Trained on {learned} preference pairs; ranks {accuracy:.1%} of {tested} held-out ones as they do."
    load = 'ClassifierScorer("FOLDER")` of pama_exp.rewards.classifier, or `AutoModelForSequenceClassification'
    write_supervised_card(folder, setup, "text-classification", made, load)
    model = {"held_out_accuracy": accuracy, "pairs": tested, "folder": str(folder)}
    return {"status": "complete", "reward_models": {"preferences": model}, "run_dir": str(record.folder)}
