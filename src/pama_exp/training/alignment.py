"""Alignment as one Lightning module: generate, score, estimate advantages per objective, combine, update.

Legend: N objectives, K reward channels (N, or 1 where the solver scalarises rewards), K' surrogate losses,
B responses, T response tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import clip_grad_norm_

from pama_exp.data.prompts import PromptStream
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError, located
from pama_exp.parallel import collectives, finite
from pama_exp.policy.policy import Policy, frozen_log_probs, select, trim
from pama_exp.policy.sharding import gathered
from pama_exp.rewards.objective import Objective, score_all
from pama_exp.rl.estimators import Estimator
from pama_exp.rl.kl import AdaptiveKL, FixedKL, kl_estimate, kl_to_come
from pama_exp.rl.masks import masked_mean
from pama_exp.rollout.engine import RolloutEngine, Sampling
from pama_exp.solvers.solver import Solver
from pama_exp.tracking.console import phase
from pama_exp.training import shared_rollout
from pama_exp.training.cost import Cost, peak_memory_bytes
from pama_exp.training.description import described
from pama_exp.training.evaluation import Evaluation, answers, distribution, evaluate
from pama_exp.training.experience import Experience
from pama_exp.training.gramian import trainable
from pama_exp.training.importance import correction
from pama_exp.training.optimizer import OptimizerSettings, build_optimizer, build_schedule
from pama_exp.training.update import MiniBatchLoss, UpdateSettings, check_learned, check_weights
from pama_exp.types import PromptBatch, Rollout


class Alignment(LightningModule):
    """Multi-objective PPO with a solver; one `training_step` is one step of the algorithm.

    It holds policy, value heads, frozen reference and reward models. With the solver PAMA it is the algorithm of He &
    Maghsudi 2025, "Pareto Multi-Objective Alignment for Language Models".

    Args:
        policy: the trained policy with its value heads.
        reference: the frozen reference model; None: the policy with its adapter off.
        objectives: what responses are scored by, in the order of the solver's weights.
        solver: combines the objectives.
        estimator: estimates advantages.
        engine: generates responses.
        sampling: how tokens are drawn.
        prompts: the training prompts, one batch per step.
        kl: the coefficient of the KL penalty.
        update: settings of the update.
        optimizer: settings of the optimizer.
        diagnostics_every: steps between diagnostics of gradients; 0: never.
        seed: of all random streams.
        distribute: shards policy and reference over a device mesh; None: every process holds all.
    """

    def __init__(
        self,
        policy: Policy,
        reference: nn.Module | None,
        objectives: Sequence[Objective],
        solver: Solver,
        estimator: Estimator,
        engine: RolloutEngine,
        sampling: Sampling,
        prompts: PromptStream,
        kl: FixedKL | AdaptiveKL,
        update: UpdateSettings,
        optimizer: OptimizerSettings,
        diagnostics_every: int,
        seed: int,
        distribute: Callable[[Policy, nn.Module | None, DeviceMesh], None] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self._frozen = (reference,)  # in a tuple, to be neither a submodule nor part of the checkpoint
        self.objectives = list(objectives)
        self.names = [objective.name for objective in self.objectives]
        self.solver, self.estimator, self.kl = solver, estimator, kl
        self.engine, self.sampling, self.prompts = engine, sampling, prompts
        self.update, self.optimizer_settings = update, optimizer
        self.loss = MiniBatchLoss(policy, solver, update, self.names, estimator.needs_critic)
        self.diagnostics_every, self.seed, self.distribute = diagnostics_every, seed, distribute
        self.step = 0
        self.is_between_steps = False  # the last step is finished, with its evaluation, and the next has not begun
        self.cost = Cost()
        self.metrics: dict[str, float] = {}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step: rollout, rewards, advantages, combination and updates. `self.step` counts steps, not Lightning."""
        started = time.perf_counter()
        torch.set_default_dtype(torch.float32)  # scores, advantages; in a step Lightning's is the weights' dtype
        self.policy.eval()  # no dropout: the ratio of the first update is 1
        self.metrics = {}
        with located(f"Step {self.step + 1}"):
            experience = self._collect()
            with self._timed("update"):
                self._learn(experience)
                check_learned(self.policy, experience.rollout, self._remedy)
            self.metrics |= described(experience, self.solver, self.names, self.estimator.needs_critic)
        self.step += 1
        seconds = time.perf_counter() - started
        self.cost.seconds += seconds
        self.cost.peak_memory_bytes = max(self.cost.peak_memory_bytes, peak_memory_bytes(self.device))
        self.metrics |= {
            "train/step": float(self.step),
            "train/episodes": float(self.cost.prompts),
            "time/step": seconds,
            "throughput/tokens_per_second": experience.rollout.response_mask.sum().item() / seconds,
            "memory/peak_bytes": float(self.cost.peak_memory_bytes),
        }

    def _collect(self) -> Experience:
        with self._timed("generate"):
            seed = random_state(self.seed, self.step, "generate")
            rollout = trim(self._generate(self.prompts.batch(self.step), seed))
        mask = rollout.response_mask
        with self._timed("score"):
            scores = shared_rollout.score(partial(score_all, self.objectives), rollout).to(mask.device)
            self.is_between_steps = False
            if rollout.prompts.preferences is not None:
                self.solver.prefer(rollout.prompts.preferences.T)
            rewards = torch.stack(
                [o.normaliser.update_and_apply(row) for o, row in zip(self.objectives, scores, strict=True)]
            )
            self.solver.observe(scores)
            channels = self.solver.on_rewards(rewards)
        with self._timed("evaluate"), torch.no_grad():
            old_log_probs, old_values = self._old(rollout)
            reference = self._by_micro_batch(rollout, self._reference_log_probs)
        kl = kl_estimate(old_log_probs, reference, self.update.kl_estimator) * mask
        self._require_finite(
            {"A log-probability of the policy": old_log_probs}
            | finite.named("A value", self.names, old_values)
            | {"A log-probability of the reference": reference, "The KL divergence from the reference": kl}
            | finite.named("A reward", self.names, rewards)
            | {"A reward of the solver": channels}
        )
        is_outside = self.update.kl_in_loss or self.update.kl_combined
        penalty = torch.zeros_like(kl) if is_outside else self.kl.coefficient * kl
        with self._timed("advantages"):
            advantages, returns = self.estimator.estimate(channels, penalty, old_values, mask)
            self._require_finite(finite.named("An advantage", self.names, advantages * mask))
        with self._timed("solve"):
            combined = self.solver.on_advantages(advantages, mask)
            self._require_finite({"An advantage of the solver": combined * mask})
        if rollout.log_probs is not None and rollout.states is None:  # computed by the engine's own kernels
            weights, mismatch = correction(old_log_probs, rollout.log_probs, mask, self.update.importance_cap)
            combined = combined * weights
            self.metrics |= mismatch
        self.cost.prompts += len(rollout)
        self.cost.tokens += int(mask.sum())
        self.cost.reward_calls += scores.numel()
        self.cost.forwards += (1 if rollout.states is not None else 2) * len(rollout)
        for name, row in zip(self.names, scores, strict=True):
            self.metrics |= distribution(f"reward/{name}", row)
        response_kl = kl.sum(-1).mean().item()
        self.metrics |= {
            "kl/response": response_kl,
            "kl/token": masked_mean(kl, mask).item(),
            "kl/coefficient": self.kl.coefficient,
            "response/length": mask.sum(-1).float().mean().item(),
            "response/finished": rollout.finished.float().mean().item(),
        }
        to_come, mean = kl_to_come(kl, mask), rewards.mean(-1, keepdim=True)
        return Experience(
            rollout, rewards, old_log_probs, reference, old_values, advantages, returns, combined, to_come, mean
        )

    def _old(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B,T) and values (K,B,T) of the sampling policy, from the rollout if it has them."""
        log_probs, states = rollout.log_probs, rollout.states
        if log_probs is not None and states is not None and not collectives.is_sharded(self.policy.parameters()):
            return log_probs, self.policy.values_of(states, rollout.response_mask)

        def both(part: Rollout) -> Tensor:
            output = self.policy.score_rollout(part, self.sampling.temperature)
            return torch.cat([output.log_probs[None], output.values])

        stacked = self._by_micro_batch(rollout, both)
        return stacked[0], stacked[1:]

    def _reference_log_probs(self, part: Rollout) -> Tensor:
        """Log-probabilities (b,t) under the reference: the frozen copy, or the base of the policy's adapter."""
        return frozen_log_probs(self.policy, self.reference, part, self.sampling.temperature)

    @property
    def reference(self) -> Any:
        """The frozen copy; None if the policy without its adapter is the reference."""
        return self._frozen[0]

    def _by_micro_batch(self, rollout: Rollout, compute: Callable[[Rollout], Tensor]) -> Tensor:
        """`compute` over micro-batches, (…, b, t) each, shared by the processes; the results in order as (…, B, T)."""
        parts = shared_rollout.parts_of(rollout, self.update.micro_batch_tokens)
        if len(parts[0]) == len(rollout):
            return compute(rollout)
        pieces = [compute(trim(select(rollout, part))) for part in parts]
        result = pieces[0].new_zeros((*pieces[0].shape[:-2], *rollout.response_mask.shape))
        for part, piece in zip(parts, pieces, strict=True):
            result[..., part, : piece.shape[-1]] = piece
        return collectives.total(result)  # each row is zero on all processes but the one that computed it

    def _learn(self, experience: Experience) -> None:
        """Several epochs of mini-batch updates, stopped early when the policy moves past `target_kl`."""
        optimizer: Any = self.optimizers()  # one of each, made by `configure_optimizers`
        scheduler: Any = self.lr_schedulers()
        diagnose = self.diagnostics_every > 0 and self.step % self.diagnostics_every == 0
        observed: list[dict[str, Tensor]] = []
        for index, rows in enumerate(self._mini_batches(len(experience.rollout))):
            batch = experience.rows(rows.to(experience.rewards.device))
            optimizer.zero_grad(set_to_none=True)
            seed = random_state(self.seed, self.step, f"sketch-{index}")
            logs = self.loss.backward(batch, self.kl.coefficient, self.cost, self.manual_backward, seed)
            if diagnose and not observed:
                with self._timed("diagnose"):
                    self.metrics |= self.loss.diagnose(batch)
            logs["policy/grad_norm"] = self._clip(self.policy.actor_parameters())
            value_norm = self._clip(trainable(self.policy.value_heads))
            self._require_finite(
                {f"The loss ({name})": logs[name] for name in ("policy/loss", "value/loss") if name in logs}
                | {"The norm of the policy's gradient": logs["policy/grad_norm"]}
                | {"The norm of the value heads' gradient": value_norm}
            )
            optimizer.step()
            observed.append(logs)
            if self.update.target_kl is not None and logs["policy/approx_kl"].item() > self.update.target_kl:
                break
        self.kl.update(self.metrics["kl/response"], len(experience.rollout))
        self.metrics |= {name: torch.stack([logs[name] for logs in observed]).mean().item() for name in observed[0]}
        self.metrics |= {
            "policy/updates": float(len(observed)),
            "policy/learning_rate": scheduler.get_last_lr()[0],
        }
        scheduler.step()

    def _clip(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Clip the gradients by their norm over all parameters of all processes; returns the norm."""
        return collectives.full(clip_grad_norm_(parameters, self.update.max_grad_norm))

    @property
    def _remedy(self) -> str:
        rate = self.optimizer_settings.learning_rate
        return f"Lower training.learning_rate={rate:g}, which begins another run; nothing of this step is kept."

    def _require_finite(self, quantities: Mapping[str, Tensor]) -> None:
        finite.require_finite(quantities, self._remedy)

    def _mini_batches(self, count: int) -> Iterator[Tensor]:
        for epoch in range(self.update.epochs):
            generator = torch.Generator().manual_seed(random_state(self.seed, self.step, f"order-{epoch}"))
            yield from torch.split(torch.randperm(count, generator=generator), self.update.mini_batch_size)

    def _generate(self, prompts: PromptBatch, seed: int) -> Rollout:
        """One response to each prompt; every process generates its share."""
        with gathered(self.policy):
            return shared_rollout.generate(self.engine, prompts, self.sampling, seed, self.device)

    @torch.no_grad()
    def evaluate_policy(self, stream: PromptStream, seed: int) -> Evaluation:
        """Sample one response to every prompt of the stream and score it by every objective, proxy and gold."""
        self.policy.eval()

        def rollouts() -> Iterator[Rollout]:
            for rollout in answers(self._generate, stream, seed):
                yield rollout
                evaluating.advance(len(rollout))

        what = f"Evaluation at step {self.step}"
        with located(what), phase(what, len(stream.texts)) as evaluating:
            return evaluate(self.objectives, rollouts())

    def configure_model(self) -> None:
        """Shard the parameters over the processes, if the strategy does so; called by Lightning."""
        if self.distribute is not None and not collectives.is_sharded(self.policy.parameters()):
            assert self.device_mesh is not None, "the strategy has made one"
            self.distribute(self.policy, self._frozen[0], self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """AdamW over policy and value heads, and its schedule, stepped once per alignment step; called by Lightning."""
        optimizer = build_optimizer(self.policy, self.optimizer_settings)
        return {"optimizer": optimizer, "lr_scheduler": build_schedule(optimizer, self.optimizer_settings)}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note that the previous step is finished; called by Lightning."""
        self.is_between_steps = True

    def on_fit_start(self) -> None:
        """Move reference and reward models to the policy's device; called by Lightning."""
        for objective in self.objectives:
            objective.to(self.device)
        if self._frozen[0] is not None:
            self._frozen[0].to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the run to Lightning's checkpoint; with an adapter, keep only trained weights.

        Raises:
            UserError: if a weight or a state is not finite, since a resumed run could only fail.
        """
        with located(f"The checkpoint of step {self.step}"):
            check_weights(self.policy, self._remedy)
        if self.policy.adapter is not None:
            trained = {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
            checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in trained}
        checkpoint["alignment"] = {
            "step": self.step,
            "bill": asdict(self.cost),
            "solver": self.solver.state_dict(),
            "kl": self.kl.state_dict(),
            "normalisers": {o.name: o.normaliser.state_dict() for o in self.objectives},
        }
        for name in ("solver", "kl", "normalisers"):
            if not finite.is_finite(checkpoint["alignment"][name]):
                raise UserError(
                    f"The checkpoint of step {self.step}: the state of the {name} is not finite.",
                    "Is a reward or a setting of it too large?",
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state that `on_save_checkpoint` added."""
        self.strict_loading = self.policy.adapter is None  # the frozen base is not in it
        state = checkpoint["alignment"]
        self.step, self.cost = state["step"], Cost(**state["bill"])
        self.solver.load_state_dict(state["solver"])
        self.kl.load_state_dict(state["kl"])
        for objective in self.objectives:
            objective.normaliser.load_state_dict(state["normalisers"][objective.name])

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        with phase(part):
            yield
        self.metrics[f"time/{part}"] = time.perf_counter() - started
