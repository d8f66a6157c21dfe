"""The search space: Hydra's sweep values as Optuna's distributions, and trials as overrides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pama_exp.errors import UserError


@dataclass(frozen=True)
class Space:
    """The settings that a search varies, and those that all its trials have.

    Attributes:
        distributions: {key: distribution of its values}.
        fixed: overrides of every trial.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: Sequence[str]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> Space:
        """The space of these overrides. If a key is set twice, the last one counts.

        Raises:
            UserError: if no setting is varied, or the objectives are.
        """
        last = {override.get_key_element(): override for override in overrides}
        varied = {key: _distribution(override) for key, override in last.items() if override.is_sweep_override()}
        if not varied:
            raise UserError(
                "A search varies at least one setting.", "For example training.learning_rate=interval(1e-4,1e-3)."
            )
        if "objectives" in varied:
            raise UserError(
                "A search compares runs by the same objectives; these vary.", "Vary objectives with a grid."
            )
        fixed = [f"{k}={o.get_value_element_as_str()}" for k, o in last.items() if not o.is_sweep_override()]
        return cls(varied, fixed)

    def line(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of the trial with these {key: value}."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.distributions)]

    def corners(self) -> list[dict[str, Any]]:
        """{key: value} of trials to check in advance: each key at its lowest and highest value, or at every choice.

        The other keys have their first value.
        """
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        first = {key: values[0] for key, values in ends.items()}
        return [first, *(first | {key: value} for key, values in ends.items() for value in values[1:])]

    def grid(self) -> list[dict[str, Any]]:
        """{key: value} of every combination.

        Raises:
            UserError: if a key has infinitely many values.
        """
        return [
            dict(zip(self.distributions, values, strict=True))
            for values in itertools.product(*(_every(key, d) for key, d in self.distributions.items()))
        ]


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        steps = sorted(value.range())
        step = abs(value.step)
        if all(isinstance(each, int) for each in steps):
            return IntDistribution(int(steps[0]), int(steps[-1]), step=int(step))
        return FloatDistribution(steps[0], steps[-1], step=step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return list(dict.fromkeys([distribution.low, distribution.high]))


def _every(key: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        return [distribution.low + i * distribution.step for i in range(count)]
    raise UserError(
        f"sampler=grid cannot go through the interval of {key}.", "Give choice(…) or range(…), or another sampler."
    )
