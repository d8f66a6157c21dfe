"""The solvers as advantage estimators of verl: `VERL_USE_EXTERNAL_MODULES=pama_exp.integrations.verl`.

One import registers every solver that needs no gradients under its name, `algorithm.adv_estimator=pama`. Settings:

- `+algorithm.gdpo_reward_keys=[helpful,brief]`: components that the reward function returns, as for verl's own gdpo.
- `+algorithm.gdpo_reward_weights=[0.5,0.5]`: the solver's weights; equal where there are none.
- `algorithm.norm_adv_by_std_in_grpo`: true: standardised within the group; false: the leave-one-out baseline.
- `+algorithm.solver.SETTING=VALUE`: the solver's own settings.

Legend: N reward components, B responses, T response tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.integrations.combining import Combiner, refuse_gradients
from pama_exp.integrations.group_baselines import leave_one_out, standardise
from pama_exp.integrations.named_solvers import left_open, named_solver, names

try:
    from verl.trainer.ppo import core_algos, ray_trainer
except ImportError as error:
    raise UserError(f"verl cannot be imported ({error}).", "Install verl as its documentation says.") from None

_SETTINGS = "+algorithm.solver"
# What verl hands to its own gdpo alone: the reward components and the tensors of the batch.
_HANDED: ContextVar[tuple[Mapping[str, Any], Mapping[str, Any]] | None] = ContextVar("handed", default=None)


@contextmanager
def handed(components: Mapping[str, Any], batch: Mapping[str, Any]) -> Iterator[None]:
    """Have the estimators find these, where verl gives them neither."""
    token = _HANDED.set((components, batch))
    try:
        yield
    finally:
        _HANDED.reset(token)


class SolverEstimator:
    """One solver as an advantage estimator; its state lives in the process that computes advantages.

    Args:
        name: of the solver, as `solver=NAME` here and `algorithm.adv_estimator=NAME` in verl.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._combiners: dict[str, Combiner] = {}

    def __call__(
        self,
        token_level_rewards: Tensor,
        response_mask: Tensor,
        config: Any = None,
        index: Any = None,
        non_tensor_batch: Mapping[str, Any] | None = None,
        batch: Mapping[str, Any] | None = None,
        **ignored: Any,
    ) -> tuple[Tensor, Tensor]:
        """(B,T) advantages, and the same as returns, as verl's outcome estimators give them.

        Args:
            token_level_rewards: only its device and, where the KL is in the reward, its distance from the scores count.
            response_mask: (B,T), 1 on tokens the policy chose.
            config: verl's `algorithm`.
            index: (B,) the prompt's uid of each response.
            non_tensor_batch: {component: (B,) numbers}; None or NaN where it abstains.
            batch: verl's tensors, with `token_level_scores` where a KL penalty was taken off them.
            ignored: what verl gives to other estimators.

        Raises:
            UserError: for settings that do not fit, or components that are missing.
        """
        found = _HANDED.get()
        if non_tensor_batch is None and found is not None:
            non_tensor_batch, batch = found
        keys = self._keys(config, non_tensor_batch)
        assert non_tensor_batch is not None, "the keys were found in it"
        device = token_level_rewards.device
        rows = [np.asarray(non_tensor_batch[key], dtype=np.float32) for key in keys]
        scores = torch.from_numpy(np.stack(rows)).to(device)
        groups = torch.from_numpy(np.unique(np.asarray(index).astype(str), return_inverse=True)[1]).to(device)
        penalty = None
        if config.get("use_kl_in_reward", False) and batch is not None:
            penalty = ((batch["token_level_scores"] - token_level_rewards) * response_mask).sum(-1)
        combiner = self._combiner(config, keys, int(torch.bincount(groups).max()))
        advantages = combiner(scores, groups, response_mask.bool(), penalty).advantages
        return advantages, advantages

    def _keys(self, config: Any, components: Mapping[str, Any] | None) -> list[str]:
        keys = list((config or {}).get("gdpo_reward_keys", None) or [])
        if not keys:
            raise UserError(
                f"algorithm.adv_estimator={self.name} is not told its rewards.",
                "Set algorithm.gdpo_reward_keys to the components that the reward function returns.",
            )
        missing = [key for key in keys if key not in (components or {})]
        if missing:
            raise UserError(
                f"The reward function returns no '{missing[0]}' (algorithm.gdpo_reward_keys).",
                "Return {'score': …} and each of the components from compute_score.",
            )
        return keys

    def _combiner(self, config: Any, keys: list[str], group_size: int) -> Combiner:
        """The one of these settings, made when first asked for."""
        given = config.get("solver", None)
        settings = {} if given is None else {key: given[key] for key in given}
        weights = config.get("gdpo_reward_weights", None)
        weights = [1.0] * len(keys) if weights is None else [float(weight) for weight in weights]
        is_standardised = bool(config.get("norm_adv_by_std_in_grpo", True))
        key = json.dumps([keys, weights, settings, is_standardised], default=str, sort_keys=True)
        if key not in self._combiners:
            baseline, label = (standardise, "standardise") if is_standardised else (leave_one_out, "leave_one_out")
            solver = named_solver(self.name, weights, group_size, settings, _SETTINGS)
            self._combiners[key] = Combiner(solver, baseline, f"group/{label}", "verl")
        return self._combiners[key]


def register() -> list[str]:
    """Register what verl can use; returns the names. verl's own estimators stay as they are."""
    found = [name for name in names() if name not in core_algos.ADV_ESTIMATOR_REGISTRY and _is_usable(name)]
    for name in found:
        core_algos.register_adv_est(name)(SolverEstimator(name))
    return found


def _is_usable(name: str) -> bool:
    """Without gradients, and without validation."""
    try:
        solver = named_solver(name, [0.5, 0.5], 2, dict.fromkeys(left_open(name), 1))
        refuse_gradients(solver, "verl")
    except UserError:
        return False
    return not solver.needs_validation


def _handing_components(compute: Callable[..., Any]) -> Callable[..., Any]:
    """verl's `compute_advantage`, inside which estimators find the reward components."""

    @functools.wraps(compute)
    def wrapped(data: Any, *args: Any, **kwargs: Any) -> Any:
        outer = _HANDED.get()
        components = data.non_tensor_batch if outer is None else {**outer[0], **data.non_tensor_batch}
        with handed(components, data.batch):
            return compute(data, *args, **kwargs)

    return wrapped


def _fetching_components(compute: Callable[..., Any], fetch: Callable[..., Any]) -> Callable[..., Any]:
    """Where verl's V1 trainers compute advantages: the reward components are fetched for our estimators."""

    @functools.wraps(compute)
    def wrapped(trainer: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.config.algorithm.adv_estimator not in NAMES:
            return compute(trainer, batch, *args, **kwargs)
        found = fetch(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        rows = [row.get("reward_extra_info", {}) for row in found["extra_fields"].tolist()]
        keys = {key for row in rows for key in row}
        with handed({key: [row.get(key) for row in rows] for key in keys}, {}):
            return compute(trainer, batch, *args, **kwargs)

    return wrapped


def _attach() -> None:
    """Put both in their places in verl."""
    ray_trainer.compute_advantage = _handing_components(ray_trainer.compute_advantage)
    try:
        import transfer_queue
        from verl.trainer.ppo.v1 import trainer_base, utils
    except ImportError:  # the V1 trainers need the queue; the others do not
        return
    utils.compute_advantage = ray_trainer.compute_advantage
    own = trainer_base.PPOTrainer._compute_advantage
    trainer_base.PPOTrainer._compute_advantage = _fetching_components(own, transfer_queue.kv_batch_get)


NAMES = register()
_attach()
