"""Building the Lightning module of a run from its setup and the folder of its policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.assembly.conditioned import make_drawn, make_writer, restore_map
from pama_exp.assembly.setup import Setup
from pama_exp.config.instantiate import build
from pama_exp.config.schema import TrainerConfig
from pama_exp.data.prompts import PromptStream
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError, located
from pama_exp.policy.compiling import compile_blocks
from pama_exp.policy.loading import load_model, load_tokenizer
from pama_exp.policy.policy import Policy, freeze
from pama_exp.policy.sharding import checkpoint_activations
from pama_exp.rewards.normalise import Frozen
from pama_exp.rewards.objective import Objective, score_all
from pama_exp.rl.kl import AdaptiveKL, FixedKL
from pama_exp.rollout.engine import RolloutEngine, Sampling
from pama_exp.solvers.solver import Solver
from pama_exp.tracking.console import note, phase
from pama_exp.training import shared_rollout
from pama_exp.training.alignment import Alignment
from pama_exp.training.gramian import GramianSettings
from pama_exp.training.optimizer import OptimizerSettings
from pama_exp.training.strategies import sharding_of
from pama_exp.training.update import UpdateSettings


def build_alignment(setup: Setup, folder: Path) -> Alignment:
    """The module, with policy and reference loaded from `folder`. Reward models that the cache lacks are trained first.

    Raises:
        UserError: if the folder's content does not fit the setup, or if no parameter of the policy is trained.
    """
    config, t = setup.config, setup.config.training
    torch.manual_seed(random_state(config.seed, 0, "run"))  # the same in every process
    tokenizer = load_tokenizer(folder)
    with phase(f"Loading the model {config.model.name}"):
        policy, reference = policy_and_reference(setup, folder)
    engine = _engine(setup, policy, tokenizer)
    _arrange_blocks(config.trainer, policy, reference)
    setup.task.reward_models([plan.program for plan in setup.objectives if plan.program and plan.is_learned])
    with phase("Loading reward models", len(setup.objectives)) as loading:
        objectives = []
        for plan in setup.objectives:
            objectives.append(plan.build())
            loading.advance()
    if config.trainer.uses_gpu and config.trainer.strategy == "single":
        # Calibration and stage=evaluate run without Lightning, which would move these.
        for part in (policy, reference, *objectives):
            if part is not None:
                part.to(setup.device)
    group = setup.estimator.group_size
    prompts = training_prompts(setup, tokenizer, t.batch_size // group, group)
    with located("Calibration"):
        _calibrate(objectives, setup.solver, engine, setup.sampling, prompts, t.calibration_prompts, config.seed)
    return Alignment(
        policy=policy,
        reference=reference,
        objectives=objectives,
        solver=setup.solver,
        estimator=setup.estimator,
        engine=engine,
        sampling=setup.sampling,
        prompts=prompts,
        kl=FixedKL(t.kl.coefficient)
        if t.kl.target is None
        else AdaptiveKL(t.kl.coefficient, target=t.kl.target, horizon=t.kl.horizon),
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
            importance_cap=t.importance_cap,
            kl_in_loss=t.kl.placement == "loss",
            kl_combined=t.kl.placement == "combined",
            scale_combined=t.scale_combined,
            kl_estimator=t.kl.estimator,
            temperature=setup.sampling.temperature,
            gramian=GramianSettings(**asdict(t.gramian)),
            diagnostics=None
            if t.diagnostics_target == "auto"
            else GramianSettings(**{**asdict(t.gramian), "target": t.diagnostics_target}),
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
        distribute=sharding_of(config.trainer),
    )


def training_prompts(
    setup: Setup, tokenizer: PreTrainedTokenizerBase, prompts_per_step: int, group_size: int
) -> PromptStream:
    """The training prompts, each with a preference where the policy is told one, each `group_size` times."""
    return PromptStream(
        setup.task.texts("train"),
        tokenizer,
        prompts_per_step=prompts_per_step,
        seed=setup.config.seed,
        group_size=group_size,
        columns=setup.task.columns("train"),
        plain_texts=setup.task.plain_texts("train"),
        preferences=make_drawn(setup.config),
        writer=make_writer(setup.config),
    )


def held_out(setup: Setup, module: Alignment, split: str, count: int) -> PromptStream:
    """The first `count` prompts of a split; for a conditioned policy, all with the run's weights as preference."""
    texts, plain = setup.task.texts(split)[:count], setup.task.plain_texts(split)[:count]
    columns = {name: values[:count] for name, values in setup.task.columns(split).items()}
    is_conditioned = setup.config.conditioning.name != "none"
    stream = PromptStream(
        texts,
        module.prompts.tokenizer,
        prompts_per_step=len(texts),
        seed=0,
        columns=columns,
        plain_texts=plain,
        writer=module.prompts.writer if is_conditioned else None,
    )
    return stream.with_preference(module.solver.weights.tolist()) if is_conditioned else stream


def policy_and_reference(setup: Setup, folder: Path) -> tuple[Policy, PreTrainedModel | None]:
    """The policy with its value heads, and a frozen copy of it as the reference.

    The reference is None if the policy has an adapter: the policy without its adapter then is the reference.
    """
    config, m = setup.config, setup.config.model
    kind = config.conditioning.name
    model, adapter = setup.start.load_policy(folder, config.seed, keep_adapter=kind == "adapter")
    told = len(config.objectives) if kind in ("embedding", "adapter") else None
    shapes_trunk = config.training.critic_shapes_trunk
    policy = Policy(model, setup.solver.num_channels, shapes_trunk, adapter, told, kind == "adapter")
    restore_map(policy, folder, list(config.objectives))
    half = config.trainer.half_type
    if half is not None:
        policy.to(getattr(torch, half))
    if not policy.actor_parameters():
        raise UserError(
            f"The policy from {folder} has no trained parameter: the run would end as it began.",
            "Give an adapter (adapter=lora), or a model whose weights are not frozen.",
        )
    reference = None if adapter is not None else freeze(load_model(folder, half or m.dtype, None, m.allow_pickle))
    return policy, reference


def _arrange_blocks(settings: TrainerConfig, policy: Policy, reference: nn.Module | None) -> None:
    """Compile the transformer blocks, or checkpoint their activations, as the trainer's settings say.

    Call it after the engine is built, whose check of the model would be compiled too.
    """
    if settings.compile:
        note("Compiling transformer blocks: the first step takes longer.")
        compile_blocks(policy.model)
        if reference is not None:
            compile_blocks(reference)
    if settings.activation_checkpointing:
        checkpoint_activations(policy.model)


def _engine(setup: Setup, policy: Policy, tokenizer: Any) -> RolloutEngine:
    settings = setup.config.rollout.engine
    shift = {"shift_of": policy.shift_of} if policy.preference_map is not None else {}
    engine: RolloutEngine = build(settings, "rollout.engine", model=policy.model, tokenizer=tokenizer, **shift)
    reason = getattr(engine, "reason", None)
    if reason is not None:
        note(f"rollout=hf: {reason}.")
    return engine


@torch.no_grad()
def _calibrate(
    objectives: Sequence[Objective],
    solver: Solver,
    engine: Any,
    sampling: Sampling,
    prompts: PromptStream,
    count: int,
    seed: int,
) -> None:
    """Calibrate frozen normalisers, and a solver that needs it, with the rewards of the policy before training."""
    if not (solver.needs_calibration or any(isinstance(o.normaliser, Frozen) for o in objectives)):
        return
    collected: list[torch.Tensor] = []
    step = 0
    with phase("Calibrating on the model's own responses", count) as calibrating:
        while calibrating.done < count:
            stream = random_state(seed, step, "calibrate")
            rollout = shared_rollout.generate(engine, prompts.batch(step), sampling, stream, engine.model.device)
            collected.append(shared_rollout.score(partial(score_all, objectives), rollout))
            calibrating.advance(len(rollout))
            step += 1
    scores_of_all = torch.cat(collected, dim=1)
    for objective, scores in zip(objectives, scores_of_all, strict=True):
        if isinstance(objective.normaliser, Frozen):
            objective.normaliser.calibrate(scores)
    if solver.needs_calibration:  # no normaliser is a running one here: the solver's check refuses them
        rows = zip(objectives, scores_of_all, strict=True)
        solver.calibrate(scores_of_all, torch.stack([o.normaliser.update_and_apply(scores) for o, scores in rows]))
