"""`stage=align`: the main job, from the SFT policy to the aligned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from pama_exp.build.card import export_run
from pama_exp.build.conditioned import restore, stream_settings
from pama_exp.build.parts import (
    evaluation_stream,
    make_estimator,
    make_objectives,
    make_sampling,
    make_solver,
)
from pama_exp.build.task import Task, make_task
from pama_exp.config.instantiate import build
from pama_exp.config.naming import method_label
from pama_exp.config.schema import Config
from pama_exp.data.prompts import PromptStream
from pama_exp.data.streams import random_state
from pama_exp.errors import Interrupted, UserError, located
from pama_exp.parallel import collectives
from pama_exp.policy.compiling import compile_blocks
from pama_exp.policy.loading import load_model, load_tokenizer
from pama_exp.policy.policy import Policy, freeze
from pama_exp.policy.sharding import checkpoint_activations, put_together
from pama_exp.rewards.normalise import Frozen
from pama_exp.rewards.objective import score_all
from pama_exp.rl.kl import AdaptiveKL, FixedKL
from pama_exp.solvers.solver import Solver
from pama_exp.supervised.start_model import load_policy
from pama_exp.supervised.testbed import sft_policy
from pama_exp.tracking import checkpoints, plots, run_wandb
from pama_exp.tracking.console import note, progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training import shared_rollout
from pama_exp.training.alignment import Alignment, OptimizerSettings
from pama_exp.training.callbacks import Checkpoints, Evaluator, RandomStates, Recorder
from pama_exp.training.gramian import GramianSettings
from pama_exp.training.loggers import choose_mode, finish_logging, start_logging
from pama_exp.training.operating_points import (
    EVALUATION_SEED,
    conditioned_points,
    distances_to_front,
    gold_programs,
    hypervolume_share,
)
from pama_exp.training.strategies import distribution, trainer_settings
from pama_exp.training.update import UpdateSettings
from pama_exp.world import FactWorld


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Align, resuming where a checkpoint says so; returns the result as result.json holds it.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
        UserError: for anything the user can mend.
    """
    t = config.training
    mode = choose_mode(config, record)
    task = make_task(config)
    folder = sft_policy(config, task.world)
    module = build_alignment(config, task, str(folder))
    validation = held_out(config, task, module, "validation", config.data.evaluation_prompts)
    test = held_out(config, task, module, "test", config.data.evaluation_prompts)

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
        trainer = make_trainer(config, callbacks, loggers)
        steps = DataLoader(range(t.steps), batch_size=None)  # type: ignore[arg-type]
        with checkpoints.readable():
            trainer.fit(module, steps, ckpt_path=resumed.path if resumed is not None else None, weights_only=True)
    if saving.signum is not None and module.step < t.steps:
        record.write_status("interrupted", module.step, f"signal {saving.signum}")
        run_wandb.finish(wandb_run, {})
        raise Interrupted(saving.signum)

    result = _conclude(config, record, task.world, module, evaluator, test)
    put_together(module.policy)
    if collectives.is_main():
        export_run(config, record, module, result)
    programs = gold_programs(config)
    front = task.world.true_front(list(programs.values()), "test").points if programs is not None else None
    finish_logging(config, record, wandb_run, result, front)
    return result


def build_alignment(config: Config, task: Task, folder: str) -> Alignment:
    """The Lightning module for this configuration, its policy and reference read from `folder`.

    Raises:
        UserError: if nothing of the policy is trained, or for anything else that the user can mend.
    """
    t = config.training
    torch.manual_seed(random_state(config.seed, 0, "run"))  # in every process, whatever each has done before
    tokenizer = load_tokenizer(folder)
    solver, estimator = make_solver(config), make_estimator(config)
    model, adapter = load_policy(folder, config)
    told = len(config.objectives) if config.conditioning.name == "embedding" else None
    policy = Policy(model, solver.num_channels, t.critic_shapes_trunk, adapter, told)
    restore(policy, Path(folder), config)
    if not policy.actor_parameters():
        raise UserError(
            f"The policy from {folder} has no trained parameter: the run would end as it began.",
            "Give an adapter (adapter=lora), or a model whose weights are not frozen.",
        )
    m = config.model
    reference = None if adapter is not None else freeze(load_model(folder, m.dtype, None, m.allow_pickle))
    if config.trainer.compile:
        note("Compiling transformer blocks: the first step takes longer.")
        compile_blocks(policy.model)
        if reference is not None:
            compile_blocks(reference)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(policy.model)
    sampling = make_sampling(config).for_training()
    engine = build(config.rollout.engine, "rollout.engine", model=policy.model, tokenizer=tokenizer)
    if told is not None:
        engine.shift_of = policy.shift_of
    objectives = make_objectives(config, task.world)
    if config.trainer.accelerator in ("gpu", "cuda") and config.trainer.strategy == "single":
        # Calibration and stage=evaluate come without Lightning, which would move it all.
        for part in (policy, reference, *objectives):
            if part is not None:
                part.to(torch.device("cuda"))
    group = estimator.group_size
    prompts = PromptStream(
        task.texts("train"),
        tokenizer,
        prompts_per_step=t.batch_size // group,
        seed=config.seed,
        group_size=group,
        columns=task.columns("train"),
        said=task.said("train"),
        **stream_settings(config),
    )
    kl = (
        FixedKL(t.kl.coefficient)
        if t.kl.target is None
        else AdaptiveKL(t.kl.coefficient, target=t.kl.target, horizon=t.kl.horizon)
    )
    with located("Calibration"):
        _calibrate(objectives, solver, engine, sampling, prompts, config)
    return Alignment(
        policy=policy,
        reference=reference,
        objectives=objectives,
        solver=solver,
        estimator=estimator,
        engine=engine,
        sampling=sampling,
        prompts=prompts,
        kl=kl,
        update=UpdateSettings(
            epochs=t.epochs,
            mini_batch_size=t.mini_batch_size,
            micro_batch_tokens=t.micro_batch_tokens,
            clip=t.clip,
            value_clip=t.value_clip,
            value_coefficient=t.value_coefficient,
            entropy_coefficient=t.entropy_coefficient,
            max_grad_norm=t.max_grad_norm,
            target_kl=t.target_kl,
            kl_in_loss=t.kl.placement == "loss",
            kl_estimator=t.kl.estimator,
            temperature=sampling.temperature,
            gramian=GramianSettings(**asdict(t.gramian)),
        ),
        optimizer=OptimizerSettings(
            learning_rate=t.learning_rate,
            value_learning_rate=t.value_learning_rate,
            schedule=t.schedule,
            warmup_steps=t.warmup_steps,
            weight_decay=t.weight_decay,
            steps=t.steps,
            map_learning_rate=config.conditioning.learning_rate,
        ),
        diagnostics_every=t.diagnostics_every,
        seed=config.seed,
        distribute=distribution(config.trainer),
    )


def held_out(config: Config, task: Task, module: Alignment, split: str, count: int) -> PromptStream:
    """The first `count` prompts of a split; a conditioned policy is asked to answer by the run's own weights."""
    stream = evaluation_stream(config, task, module.prompts.tokenizer, split, count)
    if config.conditioning.name == "none":
        return stream
    stream.writer = module.prompts.writer
    return stream.asking(module.solver.weights.tolist())


def make_trainer(config: Config, callbacks: list[Any], loggers: list[Logger]) -> Trainer:
    """Lightning's trainer, quiet: the record, the console and the checkpoints are our callbacks'."""
    return Trainer(
        **trainer_settings(config.trainer),
        max_epochs=1,
        logger=loggers or False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # a step is every process's
    )


@torch.no_grad()
def _calibrate(
    objectives: Any, solver: Solver, engine: Any, sampling: Any, prompts: PromptStream, config: Config
) -> None:
    """Give frozen normalisers the mean and deviation of the SFT policy's own rewards, and the solver these rewards."""
    if not (solver.needs_calibration or any(isinstance(o.normaliser, Frozen) for o in objectives)):
        return
    collected: list[torch.Tensor] = []
    step = 0
    while sum(scores.shape[1] for scores in collected) < config.training.calibration_prompts:
        seed = random_state(config.seed, step, "calibrate")
        rollout = shared_rollout.generate(engine, prompts.batch(step), sampling, seed, engine.model.device)
        collected.append(shared_rollout.score(partial(score_all, objectives), rollout))
        step += 1
    whole = torch.cat(collected, dim=1)
    for objective, scores in zip(objectives, whole, strict=True):
        if isinstance(objective.normaliser, Frozen):
            objective.normaliser.calibrate(scores)
    if solver.needs_calibration:  # no normaliser is a running one here: check_before_work refuses them
        rows = zip(objectives, whole, strict=True)
        solver.calibrate(whole, torch.stack([o.normaliser.update_and_apply(scores) for o, scores in rows]))


def _conclude(
    config: Config,
    record: RunRecord,
    world: FactWorld | None,
    module: Alignment,
    evaluator: Evaluator,
    test: PromptStream,
) -> dict[str, Any]:
    """Evaluate the aligned policy on the test prompts, draw the pictures, and put the result together."""
    assert evaluator.before is not None
    evaluation = module.evaluate_policy(test, EVALUATION_SEED)
    record.log_generations(config.training.steps, [{"split": "test", **row} for row in evaluation.rows(limit=64)])
    before, after = evaluator.before, evaluation.means()
    share = {
        "before": hypervolume_share(world, before, config, "test"),
        "after": hypervolume_share(world, after, config, "test"),
    }
    points = {}
    if config.conditioning.name != "none":
        points = {"points": conditioned_points(config, record, module, test, world, "test")}
    plots.curves_plot(record.folder / "curves.png", record.read_metrics(), module.names)
    if len(module.names) == 2:
        _front_picture(config, record, world, before, after, points.get("points", []))
    bill = asdict(module.bill)
    return {
        "status": "complete",
        "objectives": {name: {"before": before[name], "after": after[name]} for name in module.names},
        "true_hypervolume_share": share,
        "true_front": {
            "before": distances_to_front(world, before, config, "test"),
            "after": distances_to_front(world, after, config, "test"),
        },
        "calibration": evaluator.calibration,
        **points,
        "bill": bill,
        "seconds": bill["seconds"],
        "run_dir": str(record.folder),
    }


def _front_picture(
    config: Config, record: RunRecord, world: FactWorld | None, before: Any, after: Any, asked: Sequence[Any]
) -> None:
    programs = gold_programs(config)
    kind = "gold" if programs is not None else "proxy"
    names = list(config.objectives)
    points = world.true_front(list(programs.values()), "test").points if programs is not None else None
    plots.front_plot(
        record.folder / "front.png",
        points,
        [before[name][kind] for name in names],
        [after[name][kind] for name in names],
        names,
        f"{config.model.name}, {method_label(asdict(config))}: {kind} rewards on unseen prompts",
        [[point["objectives"][name][kind] for name in names] for point in asked],
    )
