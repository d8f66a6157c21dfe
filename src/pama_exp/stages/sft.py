"""`stage=sft`: the SFT policy, trained unless the cache holds it, and evaluated."""

from __future__ import annotations

from typing import Any

from pama_exp.assembly.card import write_supervised_card
from pama_exp.assembly.setup import Setup
from pama_exp.assembly.task import TextTask
from pama_exp.stages import evaluate
from pama_exp.supervised.text_models import Learner, train_policy
from pama_exp.tracking.record import RunRecord


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Train the SFT policy. On the testbed it is kept in the cache, and scored by every objective.

    On text it is trained on the demonstrations of the training split, and saved in the run's folder.

    Returns:
        The content of result.json: the policy's folder, and on the testbed its mean rewards, on text the held-out loss
        in nats per token before and after.

    Raises:
        UserError: if there are no demonstrations, or all are too long.
    """
    task = setup.task
    if isinstance(task, TextTask):
        return _on_text(setup, task, record)
    folder = task.start_policy()
    return evaluate.run(setup, record) | {"policy": str(folder)}


def _on_text(setup: Setup, task: TextTask, record: RunRecord) -> dict[str, Any]:
    config, folder = setup.config, record.folder / "policy"
    learner = Learner(setup.start, task.start_policy(), setup.device, config.trainer.precision)
    train, test = task.data.demonstrations("train"), task.data.demonstrations("test")[: config.evaluate.prompts]
    loss, learned, tested = train_policy(learner, train, test, config.sft, config.seed, folder)
    made = f"Fine-tuned on {learned} demonstrations; loss on {tested} held-out ones {loss['after']:.3f} nats."
    write_supervised_card(folder, setup, "text-generation", made, "AutoModelForCausalLM.from_pretrained(FOLDER)")
    return {"status": "complete", "policy": str(folder), "held_out_loss": loss, "run_dir": str(record.folder)}
