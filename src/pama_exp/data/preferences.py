"""Preferences of a conditioned policy: drawn for training, fixed for evaluation, and written before prompts.

Legend: N objectives, B prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.data.streams import random_state
from pama_exp.errors import UserError


@runtime_checkable
class Preferences(Protocol):
    """Gives a preference for each of `count` prompts of a step."""

    def __call__(self, step: int, count: int) -> Float[Tensor, "count N"]:
        """(count,N) rows on the simplex; the same arguments give the same rows."""
        ...


@dataclass(frozen=True)
class DrawnPreferences:
    """Draws w ~ Dirichlet(α, …, α) for every prompt, a pure function of (seed, step); α = 1 is uniform.

    Attributes:
        objectives: their number N.
        concentration: α.
        seed: of the draws.
    """

    objectives: int
    concentration: float
    seed: int

    def __call__(self, step: int, count: int) -> Float[Tensor, "count N"]:
        """(count,N) preferences drawn for this step."""
        generator = np.random.default_rng(random_state(self.seed, step, "preferences"))
        drawn = generator.dirichlet([self.concentration] * self.objectives, count)
        return torch.from_numpy(drawn).float()


@dataclass(frozen=True)
class FixedPreference:
    """Gives the same preference, `weights` (N,), to every prompt."""

    weights: Sequence[float]

    def __call__(self, step: int, count: int) -> Float[Tensor, "count N"]:
        """(count,N) copies of the preference."""
        return torch.tensor(list(self.weights)).expand(count, -1)


@dataclass(frozen=True)
class Writer:
    """Writes a preference as text before the prompt, such as "helpful: 0.7, concise: 0.3" and a line break.

    Rewards-in-Context (Yang et al. 2024, arXiv 2402.10207) writes rewards into prompts in this way, for supervised
    learning; here the policy learns by reinforcement.

    Args:
        names: of the objectives.
        item: the text of one objective, in which {name} and {share} are filled in.
        separator: between items.
        end: after the last item.
        levels: shares are written in steps of 1/levels.

    Raises:
        UserError: for an item without {name} or {share}, or levels below 1.
    """

    names: Sequence[str]
    item: str = "{name}: {share}"
    separator: str = ", "
    end: str = "\n"
    levels: int = 20

    def __post_init__(self) -> None:
        try:
            is_plain = not any(spec or conversion for *_, spec, conversion in Formatter().parse(self.item))
            pairs = [(name, share) for name in "ab" for share in (0, 1) if is_plain]
            written = {self.item.format(name=name, share=share) for name, share in pairs}
        except (KeyError, IndexError, ValueError):
            written = set()
        if len(written) < 4:
            raise UserError(f"conditioning.item={self.item!r}.", "It holds {name} and {share}.")
        if self.levels < 1:
            raise UserError(f"conditioning.levels={self.levels}.", "It is at least 1.")

    def rounded(self, preferences: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """(B,N) nearest multiples of 1/levels that sum to 1, by the method of largest remainders."""
        scaled = preferences.double() * self.levels
        floors = (scaled + 1e-6).floor()  # a float32 share of 0.3 is a little less
        missing = (self.levels - floors.sum(1, keepdim=True)).long()
        rank = (scaled - floors).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return ((floors + (rank < missing)) / self.levels).float()

    def write(self, text: str, preference: Sequence[float]) -> str:
        """The prompt `text` with the preference (N,) before it."""
        shares = (f"{round(share, 6):g}" for share in preference)
        items = [self.item.format(name=n, share=share) for n, share in zip(self.names, shares, strict=True)]
        return self.separator.join(items) + self.end + text


def shares(count: int, steps: int) -> Iterator[tuple[float, ...]]:
    """Every point of the simplex over `count` objectives whose coordinates are multiples of 1/steps."""
    for parts in itertools.product(range(steps + 1), repeat=count):
        if sum(parts) == steps:
            yield tuple(part / steps for part in parts)
