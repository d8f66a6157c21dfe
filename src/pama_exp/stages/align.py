"""`stage=align`: the main job, from the SFT policy to the aligned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pama_exp.assembly.card import export_run
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup
from pama_exp.config.naming import method_label, rewards_of
from pama_exp.data.prompts import PromptStream
from pama_exp.errors import Interrupted
from pama_exp.parallel import collectives
from pama_exp.policy.sharding import gather_for_saving
from pama_exp.tracking import checkpoints, plots, run_wandb
from pama_exp.tracking.console import note, phase, progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.alignment import Alignment
from pama_exp.training.callbacks import Checkpoints, Evaluator, RandomStates, Recorder
from pama_exp.training.fitting import fit_alignment
from pama_exp.training.loggers import choose_mode, finish_logging, start_logging
from pama_exp.training.operating_points import EVALUATION_SEED, conditioned_points


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Align, resuming where a checkpoint says so; returns the result as result.json holds it.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
        UserError: for anything the user can mend.
    """
    config, t = setup.config, setup.config.training
    mode = choose_mode(config, record)
    module = build_alignment(setup, setup.task.start_policy())
    validation = held_out(setup, module, "validation", config.data.evaluation_prompts)
    test = held_out(setup, module, "test", config.data.evaluation_prompts)

    resumed, passed_over = checkpoints.newest(record.checkpoints)
    done = resumed.step if resumed is not None else 0
    record.truncate(done, resumed.tables if resumed is not None else None)
    record.write_status("running", done)
    why = f" ({'; '.join(passed_over)})" if passed_over else ""
    if resumed is not None:
        note(f"Resuming from step {done} of {t.steps}{why}.")
    elif passed_over:
        note(f"Starting from the beginning{why}.")

    wandb_run, loggers = start_logging(config, record, mode)
    label = method_label(asdict(config))
    evaluator = Evaluator(record, validation, test, t.evaluate_every, t.steps, EVALUATION_SEED)
    saving = Checkpoints(record.checkpoints, t.checkpoint_every, t.steps)
    with progress(f"Aligning to {' + '.join(module.names)} with {label}", t.steps, done=done) as bar:
        callbacks = [RandomStates(), Recorder(record, bar), evaluator, saving]
        with checkpoints.readable():
            path = resumed.path if resumed is not None else None
            fit_alignment(module, config.trainer, t.steps, callbacks, loggers, path)
    if saving.signum is not None and module.step < t.steps:
        record.write_status("interrupted", module.step, f"signal {saving.signum}")
        run_wandb.finish(wandb_run, {})
        raise Interrupted(saving.signum)

    result = _conclude(setup, record, module, evaluator, test)
    gather_for_saving(module.policy)
    if collectives.is_main():
        with phase("Saving the policy"):
            export_run(setup, record, module, result)
    finish_logging(config, record, wandb_run, result, setup.front("test").support)
    return result


def _conclude(
    setup: Setup, record: RunRecord, module: Alignment, evaluator: Evaluator, test: PromptStream
) -> dict[str, Any]:
    """Evaluate the aligned policy on the test prompts, draw the pictures, and put the result together."""
    assert evaluator.before is not None
    evaluation = module.evaluate_policy(test, EVALUATION_SEED)
    rows = [{"split": "test", **row} for row in evaluation.rows()]
    record.log_generations(setup.config.training.steps, rows)
    before, after, front = evaluator.before, evaluation.means(), setup.front("test")
    share = {"before": front.share_of(before), "after": front.share_of(after)}
    points = {}
    if setup.config.conditioning.name != "none":
        points = {"points": conditioned_points(record, module, test, front, setup.config.conditioning.grid)}
    plots.curves_plot(record.folder / "curves.png", record.read_metrics(), module.names)
    if len(module.names) == 2:
        draw_front(setup, record, before, after, points.get("points", []))
    bill = asdict(module.cost)
    return {
        "status": "complete",
        "objectives": {name: {"before": before[name], "after": after[name]} for name in module.names},
        "true_hypervolume_share": share,
        "true_front": {"before": front.distances_of(before), "after": front.distances_of(after)},
        "calibration": evaluator.calibration,
        **points,
        "bill": bill,
        "seconds": bill["seconds"],
        "run_dir": str(record.folder),
    }


def draw_front(setup: Setup, record: RunRecord, before: Any, after: Any, points: Sequence[Any]) -> None:
    """front.png: the way of the policy's mean rewards, and where it stands at each preference that it was asked for."""
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
