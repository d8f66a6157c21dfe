"""TRL's group-relative trainers with a solver in the place of TRL's sum of rewards: `pip install 'pama-exp[trl]'`.

    >>> from pama_exp.integrations.trl import MultiObjectiveGRPOTrainer  # doctest: +SKIP
    >>> from pama_exp.solvers import PAMA  # doctest: +SKIP
    >>> MultiObjectiveGRPOTrainer(solver=PAMA([0.5, 0.5]), model=…, reward_funcs=[helpful, brief], …)  # doctest: +SKIP

Legend: N reward functions, B responses of all processes, T response tokens.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.integrations.combining import Baseline, Combiner
from pama_exp.integrations.group_baselines import centre, leave_one_out, scale_by_batch, standardise
from pama_exp.solvers.solver import Solver

try:
    from accelerate.utils import gather
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
    from trl import GRPOTrainer, RLOOTrainer
except ImportError as error:
    raise UserError(f"TRL is not installed ({error}).", "pip install 'pama-exp[trl]'.") from None

EPSILON = 1e-4  # what TRL adds to a deviation before it divides by it
STATE = "solver_state.pt"


class _SolverAdvantages:
    """What both trainers share; the trainer of TRL comes after it among the bases.

    In training the rewards are those that TRL gathered from all processes, so that every process's solver sees them all
    and takes the same steps. In evaluation TRL's own weighted sum stands, and the solver's state stays as it is.
    """

    _trainer: str

    def __init__(self, *args: Any, solver: Solver, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        trainer: Any = self
        count = len(trainer.reward_funcs)
        if trainer.args.reward_weights is not None:
            raise UserError("reward_weights are given beside a solver.", "Give them to the solver alone.")
        if len(solver.weights) != count:
            raise UserError(
                f"{type(solver).__name__} has weights for {len(solver.weights)} objectives, and there are "
                f"{count} reward functions.",
                "Give one weight per reward function.",
            )
        trainer.reward_weights = solver.weights.clone()  # of the sum that TRL logs as `reward`
        baseline, label = self._baseline()
        validates = trainer.args.eval_strategy != "no"
        self.combiner = Combiner(solver, baseline, label, self._trainer, validates)
        self._scores: Tensor | None = None

    @property
    def solver(self) -> Solver:
        """The solver, with its state."""
        return self.combiner.solver

    def _baseline(self) -> tuple[Baseline, str]:
        raise NotImplementedError

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        """(B,N) rewards of all processes, as TRL computes them; kept for the solver."""
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        self._scores = rewards.T
        return rewards

    def _combined(self, output: dict[str, Any], kl_penalty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,T) the solver's advantages of all processes' responses, and (B,) how many tokens count; logs both."""
        trainer: Any = self
        assert self._scores is not None, "rewards come first"
        length = gather(output["completion_mask"].sum(1)).clamp(min=1)
        valid = torch.arange(int(length.max()), device=length.device) < length[:, None]
        found = self.combiner(self._scores, self._groups(), valid, kl_penalty)
        for name, value in found.metrics(trainer.reward_func_names).items():
            trainer._metrics["train"][name].append(value)
        _replace_newest(trainer._logs["advantages"], (found.advantages.sum(1) / length).tolist())
        return found.advantages, length

    def _groups(self) -> Tensor:
        """(B,) the prompt of each response."""
        assert self._scores is not None, "rewards come first"
        trainer: Any = self
        per_prompt: int = trainer.num_generations
        return torch.arange(self._scores.shape[1], device=self._scores.device) // per_prompt

    def _own(self, values: Tensor, count: int) -> Tensor:
        """This process's `count` rows of those of all."""
        trainer: Any = self
        first: int = trainer.accelerator.process_index * count
        own: Tensor = values[first : first + count]
        return own

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As TRL logs; a solver that is steered by validation is told its means."""
        trainer: Any = self
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
        found = [logs.get(f"eval_rewards/{name}/mean") for name in trainer.reward_func_names]
        if not trainer.model.training and None not in found:
            self.solver.on_validation(torch.tensor(found))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The trainer's checkpoint, with the solver's state in it."""
        trainer: Any = self
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if trainer.args.should_save:
            folder = os.path.join(
                trainer._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
            )
            torch.save(self.combiner.state_dict(), os.path.join(folder, STATE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """What the trainer resumes with, and the solver's state."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        path = os.path.join(checkpoint, STATE)
        if not os.path.isfile(path):
            raise UserError(f"{checkpoint} holds no solver's state ({STATE}).", "Resume what this trainer has saved.")
        self.combiner.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


class MultiObjectiveGRPOTrainer(_SolverAdvantages, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer, its advantages made by a solver from those of each reward function.

    `scale_rewards` says how each function's advantage is made, as TRL makes that of the sum: `group` (r − r̄)/(s + 1e-4)
    within the group, `batch` with the deviation of the batch, `none` r − r̄. The KL term is TRL's, in the loss.

    Args:
        solver: with one weight per reward function; they take the place of `reward_weights`.
        args, kwargs: what GRPOTrainer takes.

    Raises:
        UserError: for a solver that needs gradients, or does not go with the settings.
    """

    def __init__(self, *args: Any, solver: Solver, **kwargs: Any) -> None:
        super().__init__(*args, solver=solver, **kwargs)
        if self.args.multi_objective_aggregation != "sum_then_normalize":
            raise UserError(
                "multi_objective_aggregation is given beside a solver, which takes its place.",
                "solver=GDPO(weights, epsilon=1e-4) is normalize_then_sum.",
            )

    _trainer = "GRPOTrainer"

    def _baseline(self) -> tuple[Baseline, str]:
        kinds: dict[str, tuple[Baseline, str]] = {
            "group": (partial(standardise, epsilon=EPSILON), "group/standardise"),
            "batch": (partial(scale_by_batch, epsilon=EPSILON), "group/scale-by-batch"),
            "none": (centre, "group/leave_one_out"),  # up to the factor S/(S − 1) of groups of S
        }
        return kinds[self.scale_rewards]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """As TRL's, with the solver's advantages."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            advantages, length = self._combined(output)
            count, width = output["completion_mask"].shape
            own, length = self._own(advantages, count), self._own(length, count)
            inside = torch.arange(own.shape[1], device=own.device) < length[:, None]
            is_constant = bool((own == own[:, :1])[inside].all())
            fitted = torch.nn.functional.pad(own, (0, max(0, width - own.shape[1])))[:, :width]
            output["advantages"] = own[:, 0] if is_constant else fitted
        return output


class MultiObjectiveRLOOTrainer(_SolverAdvantages, RLOOTrainer):  # type: ignore[misc]
    """TRL's RLOOTrainer, its advantages made by a solver from the leave-one-out advantages of each reward function.

    The KL penalty, which TRL takes off the reward, is taken off every objective's.

    Args:
        solver: with one weight per reward function; they take the place of `reward_weights`.
        args, kwargs: what RLOOTrainer takes, but for `reward_clip_range`, which clips the sum of all rewards.

    Raises:
        UserError: for a solver that needs gradients, or does not go with the settings.
    """

    def __init__(self, *args: Any, solver: Solver, **kwargs: Any) -> None:
        super().__init__(*args, solver=solver, **kwargs)
        if self.args.reward_clip_range is not None:
            raise UserError(
                "reward_clip_range clips the sum of rewards, which a solver does not make.",
                "Clip in the reward functions.",
            )
        # TRL's own advantages are then linear in the KL penalty, which can be read off them.
        self._normalises, self.normalize_advantages = bool(self.args.normalize_advantages), False

    _trainer = "RLOOTrainer"

    def _baseline(self) -> tuple[Baseline, str]:
        return leave_one_out, "group/leave_one_out"

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """As TRL's, with the solver's advantages."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            assert self._scores is not None, "rewards come first"
            advantages, length = self._combined(output, self._kl_penalty(output) if self.beta != 0.0 else None)
            means = advantages.sum(1) / length  # its ratio is of whole responses
            if self._normalises:
                counted = torch.isfinite(self._scores).any(0)
                kept = means[counted]
                means = torch.where(counted, (means - kept.mean()) / (kept.std() + EPSILON), 0)
            output["advantages"] = self._own(means, len(output["advantages"]))
        return output

    def _kl_penalty(self, output: dict[str, Any]) -> Tensor:
        """(B,) β times each response's KL about its group's mean: what TRL took off the sum of the rewards.

        Its advantage is ((Σ w r − βKL) − mean) S/(S − 1), S the scored responses of the group.
        """
        assert self._scores is not None, "rewards come first"
        groups, counted = self._groups(), torch.isfinite(self._scores).any(0)
        total = torch.einsum("n,nb->b", self.reward_weights.to(self._scores), torch.nan_to_num(self._scores))
        without = leave_one_out(torch.where(counted, total, torch.nan)[None], groups)[0]
        size = torch.bincount(groups, counted.float())[groups].clamp(min=1)
        return torch.nan_to_num(without - gather(output["advantages"])) * (size - 1) / size


def _replace_newest(kept: Any, values: list[float]) -> None:
    """The last of what TRL keeps for its table of completions are this batch's."""
    for _ in range(min(len(values), len(kept))):
        kept.pop()
    kept.extend(values)
