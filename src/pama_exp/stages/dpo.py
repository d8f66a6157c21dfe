"""`stage=dpo`: a policy learned from preference pairs, without reinforcement learning.

DPO: Rafailov et al. 2023, arXiv 2305.18290. MODPO: Zhou et al. 2024, arXiv 2310.03708. MO-ODPO: Gupta et al. 2025,
arXiv 2503.00295. Legend: N objectives, B pairs of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from pama_exp.assembly.card import export_pair_policy
from pama_exp.assembly.module import build_alignment, held_out, policy_and_reference, training_prompts
from pama_exp.assembly.setup import Setup
from pama_exp.data.streams import random_state
from pama_exp.policy.loading import load_tokenizer
from pama_exp.policy.policy import select, trim
from pama_exp.rewards.objective import score_all
from pama_exp.stages.align import operating_result
from pama_exp.supervised.batch_losses import max_tokens
from pama_exp.supervised.encoded_pairs import EncodedPair, encode_pairs, rollout_of
from pama_exp.supervised.fit import Batches, autocast, minimise
from pama_exp.supervised.journal import Journal
from pama_exp.supervised.pair_learning import PairLearner
from pama_exp.supervised.preference_losses import margins
from pama_exp.tracking.console import note, phase
from pama_exp.tracking.record import RunRecord
from pama_exp.training import shared_rollout
from pama_exp.training.alignment import Alignment
from pama_exp.training.cost import Cost, peak_memory_bytes
from pama_exp.training.operating_points import EVALUATION_SEED
from pama_exp.training.optimizer import OptimizerSettings, build_optimizer
from pama_exp.types import Rollout

_HELD_OUT = 512  # pairs of the testbed that the ranking is measured on
# From a step's number to its rollout of pairs and their margins (B,); None if all pairs of the step are ties.
Step = Callable[[int], tuple[Rollout, Tensor] | None]


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Learn from pairs, resuming at the newest checkpoint; returns the content of result.json.

    Raises:
        Interrupted: after a signal, when a checkpoint has been written.
        UserError: for pairs that cannot be learned from, and for whatever else the user can fix.
    """
    config, d = setup.config, setup.config.dpo
    folder = setup.task.start_policy()
    tokenizer = load_tokenizer(folder)
    is_online = d.method == "mo-odpo"
    pairs, test = ([], []) if is_online else [_pairs(setup, tokenizer, split) for split in ("train", "test")]
    with autocast(setup.device, config.trainer.precision):
        module = build_alignment(setup, folder) if setup.objectives else None
        policy, reference = (module.policy, module.reference) if module else policy_and_reference(setup, folder)
        for part in (policy, reference):
            if part is not None:
                part.to(setup.device)
        weight = float(setup.solver.weights[_pair_objective(setup)]) if d.method == "modpo" else 1.0
        learner = PairLearner(policy, reference, d.beta, d.label_smoothing, weight, config.training.micro_batch_tokens)
        stream = held_out(setup, module, "test", config.data.evaluation_prompts) if module else None
        before = module.evaluate_policy(stream, EVALUATION_SEED) if module and stream else None
        torch.manual_seed(random_state(config.seed, 0, "dpo"))  # of dropout
        journal = Journal(record, d.steps, d.checkpoint_every, asdict(Cost()) | {"pairs": 0})
        if before is not None and journal.first_step == 0:
            record.log_metrics(0, before.metrics())
        step = _online(setup, module, journal) if is_online else _offline(setup, module, pairs, tokenizer, journal)
        _learn(setup, learner, step, journal)
        slices = [test[at : at + d.batch_size] for at in range(0, len(test), d.batch_size)]
        rollouts = (rollout_of(part, tokenizer, setup.device) for part in slices)
        ranking = learner.measure(rollouts) if slices else None
        result: dict[str, Any] = {"status": "complete", "method": d.method, "held_out_pairs": ranking}
        if module and stream and before:
            evaluation = module.evaluate_policy(stream, EVALUATION_SEED)
            record.log_metrics(d.steps, evaluation.metrics())
            result |= operating_result(setup, record, module, stream, before.means(), evaluation, d.steps)
            result |= {"calibration": before.calibration()}
    bill = journal.counts | {"peak_memory_bytes": peak_memory_bytes(setup.device)}
    result |= {"bill": bill, "seconds": bill["seconds"], "run_dir": str(record.folder)}
    if ranking is not None:
        note(f"Ranks {ranking['accuracy']:.1%} of {ranking['pairs']} held-out pairs as they are ranked there.")
    with phase("Saving the policy"):
        export_pair_policy(setup, record, policy, tokenizer, int(bill["pairs"]))
    return result


def _learn(setup: Setup, learner: PairLearner, step: Step, journal: Journal) -> None:
    """Train for the steps that remain, and count prompts, passes and pairs in the journal."""

    def losses_of(batch: tuple[Rollout, Tensor] | None) -> Iterator[Tensor]:
        if batch is None:
            return
        rollout, margin = batch
        yield from learner.losses(rollout, margin, journal.row)
        journal.counts["pairs"] += len(rollout) // 2
        journal.counts["forwards"] += 2 * len(rollout)  # of the policy and of the reference
        journal.counts["backwards"] += len(rollout)

    d = setup.config.dpo
    optimizer = build_optimizer(learner.policy, _optimizer_settings(setup))
    minimise(learner.policy, d, d.method.upper(), step, losses_of, optimizer, journal)


def _pairs(setup: Setup, tokenizer: Any, split: str) -> list[EncodedPair]:
    """The encoded pairs of a split, of the objective that is learned from. On the testbed, test pairs have no noise."""
    config, d = setup.config, setup.config.dpo
    is_text = setup.task.has_rows
    count = d.examples if split == "train" else config.evaluate.prompts if is_text else _HELD_OUT
    plan = None if is_text else setup.objectives[_pair_objective(setup)]
    program = "" if plan is None else str(plan.program)
    pairs = setup.task.pairs(program, split, count, config.seed, d.label_noise)
    if plan is not None and plan.settings.direction == "minimize":
        pairs = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    limit = max_tokens(setup.start.skeleton, d.max_length)
    encoded, left_out = encode_pairs(pairs, tokenizer, limit, d.bad_pairs == "skip", not is_text)
    for reason, number in left_out.items():
        note(f"{number} of {len(pairs)} pairs of the {split} split are left out: {reason}.")
    return encoded


def _pair_objective(setup: Setup) -> int:
    """The index of the objective that the pairs are ranked by."""
    chosen = setup.config.dpo.objective
    return 0 if chosen is None else setup.names.index(chosen)


def _offline(
    setup: Setup, module: Alignment | None, pairs: list[EncodedPair], tokenizer: Any, journal: Journal
) -> Step:
    """The steps of DPO and MODPO: batches of pairs. MODPO's margins are the other objectives' reward differences."""
    d = setup.config.dpo
    batches = Batches(
        [pair.length for pair in pairs], d.batch_size, random_state(setup.config.seed, 0, "preference-pairs")
    )
    others, weights = [], []
    if d.method == "modpo":
        assert module is not None
        index = _pair_objective(setup)
        others = [o for i, o in enumerate(module.objectives) if i != index]
        weights = [float(w) for i, w in enumerate(setup.solver.weights) if i != index]

    def step(number: int) -> tuple[Rollout, Tensor]:
        rollout = rollout_of([pairs[i] for i in batches(number)], tokenizer, setup.device)
        count = len(rollout) // 2
        if not others:
            return rollout, torch.zeros(count)
        scores = d.margin_scale * score_all(others, rollout.prompts, rollout.texts)
        journal.counts["reward_calls"] += scores.numel()
        return rollout, margins(scores[:, :count], scores[:, count:], weights)

    return step


def _online(setup: Setup, module: Alignment | None, journal: Journal) -> Step:
    """The steps of MO-ODPO: two responses to each prompt, the one of higher w · r chosen. Ties are left out."""
    assert module is not None
    d, seed = setup.config.dpo, setup.config.seed
    stream = training_prompts(setup, module.prompts.tokenizer, d.batch_size, 2)

    def step(number: int) -> tuple[Rollout, Tensor] | None:
        module.policy.eval()
        with torch.no_grad():
            prompts, state = stream.batch(number), random_state(seed, number, "generate")
            rollout = trim(shared_rollout.generate(module.engine, prompts, setup.sampling, state, setup.device))
        module.policy.train()
        scores = score_all(module.objectives, rollout.prompts, rollout.texts)
        rewards = torch.stack(
            [o.normaliser.update_and_apply(r) for o, r in zip(module.objectives, scores, strict=True)]
        )
        preferences = rollout.prompts.preferences
        weights = setup.solver.weights[:, None].expand_as(rewards) if preferences is None else preferences.T.cpu()
        values = (weights * rewards).sum(0).view(-1, 2)
        journal.counts["prompts"] += len(rollout)
        journal.counts["tokens"] += int(rollout.response_mask.sum())
        journal.counts["reward_calls"] += scores.numel()
        differ = (values[:, 0] != values[:, 1]).nonzero().squeeze(1)
        journal.row |= {f"reward/{name}/mean": r.mean().item() for name, r in zip(module.names, scores, strict=True)}
        journal.row |= {"pairs/ties": 1 - len(differ) / len(values)}
        if len(differ) == 0:
            return None
        best = values[differ].argmax(1)
        rows = torch.cat([2 * differ + best, 2 * differ + 1 - best]).to(rollout.response_ids.device)
        return select(rollout, rows), torch.zeros(len(differ))

    return step


def _optimizer_settings(setup: Setup) -> OptimizerSettings:
    d = setup.config.dpo
    return OptimizerSettings(
        learning_rate=d.learning_rate,
        value_learning_rate=0.0,  # the value heads are not used
        schedule="cosine",
        warmup_steps=d.warmup_steps,
        weight_decay=d.weight_decay,
        steps=d.steps,
        map_learning_rate=setup.config.conditioning.learning_rate,
    )
