"""`stage=align`: reinforcement learning from the SFT policy to a policy aligned to the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pama_exp.assembly.card import export_run
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup
from pama_exp.comparison.reference import Means
from pama_exp.config.naming import method_label, rewards_of
from pama_exp.data.prompts import PromptStream
from pama_exp.errors import Interrupted
from pama_exp.parallel import collectives
from pama_exp.policy.sharding import gather_for_saving
from pama_exp.tracking import checkpoints, plots, run_wandb
from pama_exp.tracking.console import phase, progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.alignment import Alignment
from pama_exp.training.callbacks import Checkpoints, Evaluator, RandomStates, Recorder
from pama_exp.training.evaluation import Evaluation
from pama_exp.training.fitting import fit_alignment
from pama_exp.training.loggers import choose_mode, finish_logging, start_logging
from pama_exp.training.operating_points import EVALUATION_SEED, conditioned_points


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Align the policy, resuming at the newest checkpoint; returns the content of result.json.

    Raises:
        Interrupted: after a signal, when a checkpoint has been written.
        UserError: for whatever the user can fix.
    """
    config, t = setup.config, setup.config.training
    mode = choose_mode(config, record)
    module = build_alignment(setup, setup.task.start_policy())
    validation = held_out(setup, module, "validation", config.data.evaluation_prompts)
    test = held_out(setup, module, "test", config.data.evaluation_prompts)

    checkpoint = record.resume(t.steps)
    wandb_run, loggers = start_logging(config, record, mode)
    label = method_label(asdict(config))
    evaluator = Evaluator(record, validation, test, t.evaluate_every, t.steps, EVALUATION_SEED)
    saving = Checkpoints(record.checkpoints, t.checkpoint_every, t.steps)
    path, step = (checkpoint.path, checkpoint.step) if checkpoint is not None else (None, 0)
    with progress(f"Aligning to {' + '.join(module.names)} with {label}", t.steps, done=step) as bar:
        callbacks = [RandomStates(), Recorder(record, bar), evaluator, saving]
        with checkpoints.readable():
            fit_alignment(module, config.trainer, t.steps, callbacks, loggers, path)
    if saving.signum is not None and module.step < t.steps:
        record.write_status("interrupted", module.step, f"signal {saving.signum}")
        run_wandb.finish(wandb_run, {})
        raise Interrupted(saving.signum)

    assert evaluator.before is not None
    evaluation = module.evaluate_policy(test, EVALUATION_SEED)
    outcome = operating_result(setup, record, module, test, evaluator.before, evaluation, t.steps)
    plots.curves_plot(record.folder / "curves.png", record.read_metrics(), module.names)
    cost = asdict(module.cost)
    result = {
        "status": "complete",
        **outcome,
        "calibration": evaluator.calibration,
        "bill": cost,
        "seconds": cost["seconds"],
        "run_dir": str(record.folder),
    }
    gather_for_saving(module.policy)
    if collectives.is_main():
        with phase("Saving the policy"):
            export_run(setup, record, module, result)
    finish_logging(config, record, wandb_run, result, setup.front("test").support)
    return result


def operating_result(
    setup: Setup,
    record: RunRecord,
    module: Alignment,
    test: PromptStream,
    before: Means,
    evaluation: Evaluation,
    step: int,
) -> dict[str, Any]:
    """Record the trained policy's responses, evaluate it at other preferences, and draw the front of two objectives.

    Args:
        setup: of the run.
        record: of the run.
        module: the alignment that holds the policy.
        test: the test prompts.
        before: mean rewards on the test prompts before training.
        evaluation: on the test prompts after training.
        step: the number of training steps.

    Returns:
        The part of result.json that says where the policy stands.
    """
    record.log_generations(step, [{"split": "test", **row} for row in evaluation.rows()])
    after, front = evaluation.means(), setup.front("test")
    points = conditioned_points(setup.config.conditioning, record, module, test, front)
    if len(module.names) == 2:
        _draw_front(setup, record, before, after, points)
    return {
        "objectives": {name: {"before": before[name], "after": after[name]} for name in module.names},
        "true_hypervolume_share": {"before": front.share_of(before), "after": front.share_of(after)},
        "true_front": {"before": front.distances_of(before), "after": front.distances_of(after)},
        **({"points": points} if points else {}),
    }


def _draw_front(setup: Setup, record: RunRecord, before: Any, after: Any, points: Sequence[Any]) -> None:
    """front.png: the mean rewards before and after training, and at each preference of a conditioned policy."""
    kind, names = "gold" if setup.gold_programs else "proxy", setup.names
    plots.front_plot(
        record.folder / "front.png",
        setup.front("test").support,
        [before[name][kind] for name in names],
        [after[name][kind] for name in names],
        names,
        f"{setup.config.model.name}, {method_label(asdict(setup.config))}: {rewards_of(kind)} on unseen prompts",
        [[point["objectives"][name][kind] for name in names] for point in points],
    )
