"""Scorers that are formulas of the response's text: length, brevity, readability and patterns.

Legend: B responses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import regex
import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, Range, checked
from pama_exp.errors import UserError
from pama_exp.types import PromptBatch

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_VOWELS = re.compile(r"[aeiouy]+")
_PATIENCE = 2.0  # seconds for a pattern on one response; a usual one takes microseconds

UNITS: Mapping[str, Callable[[str], int]] = {"characters": len, "words": lambda text: len(text.split())}
Unit = Annotated[str, OneOf(*UNITS)]


class Length:
    """clip(l / scale, low / scale, high / scale): longer is better between two bounds (He & Maghsudi 2025, section 5).

    l is the response's length. The paper does not name its unit; see `unit`.

    Args:
        scale: length that adds 1 to the reward.
        low: shorter responses score as if they had this length.
        high: longer responses score as if they had this length.
        unit: characters or words.

    Raises:
        UserError: for an unknown unit, a scale that is not positive, or bounds in the wrong order.
    """

    @checked("length")
    def __init__(
        self,
        scale: Annotated[float, Range(above=0)] = 140.0,
        low: Annotated[float, Range(least=0)] = 0.0,
        high: Annotated[float, Range(above=0)] = 4096.0,
        unit: Unit = "characters",
    ) -> None:
        if not low < high:
            raise UserError(f"length: low={low}, high={high}.", "low lies below high.")
        self.scale, self.low, self.high, self.count = scale, low, high, UNITS[unit]

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) length rewards, between low / scale and high / scale."""
        return _scores([min(max(self.count(text), self.low), self.high) / self.scale for text in responses])


class Brevity:
    """Reward for short responses, max(0, 1 − l / limit) at length l: FactWorld's `concise` for real text.

    Args:
        limit: length from which the score is 0.
        unit: characters or words.

    Raises:
        UserError: for an unknown unit, or a limit that is not positive.
    """

    @checked("concise")
    def __init__(self, limit: Annotated[float, Range(above=0)] = 200.0, unit: Unit = "words") -> None:
        self.limit, self.count = limit, UNITS[unit]

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) rewards in [0, 1]."""
        return _scores([max(0.0, 1.0 - self.count(text) / self.limit) for text in responses])


class FleschReadingEase:
    """Readability of English text: 206.835 − 1.015 · words / sentences − 84.6 · syllables / words (Flesch 1948).

    About 100 for the easiest prose and 0 for the hardest, clipped to [low, high]. A text without words scores `low`.

    Args:
        low: lowest score.
        high: highest score.

    Raises:
        UserError: for bounds in the wrong order.
    """

    @checked("readability")
    def __init__(self, low: Annotated[float, Range()] = 0.0, high: Annotated[float, Range()] = 100.0) -> None:
        if not low < high:
            raise UserError(f"readability: low={low}, high={high}.", "low lies below high.")
        self.low, self.high = low, high

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) readability between low and high; higher is easier."""
        return _scores([min(max(reading_ease(text), self.low), self.high) for text in responses])


class Pattern:
    """Score 1 where a regular expression is found in the response, else 0.

    Args:
        pattern: the expression, in Python's syntax; `^` and `$` match at line ends. Limited to 2 seconds a response.
        whole: the expression must match the whole response.
        forbidden: score 1 where the expression is not found, else 0.

    Raises:
        UserError: for an expression that is not valid.
    """

    def __init__(self, pattern: str, whole: bool = False, forbidden: bool = False) -> None:
        try:
            self.pattern = regex.compile(pattern, regex.MULTILINE)
        except regex.error as error:
            raise UserError(
                f"pattern={pattern!r} is no regular expression ({error}).", "Correct the pattern."
            ) from None
        self.whole, self.forbidden = whole, forbidden

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) scores, 0 or 1.

        Raises:
            UserError: for an expression that takes too long, such as nested repetitions.
        """
        match = self.pattern.fullmatch if self.whole else self.pattern.search
        scores: list[float] = []
        for text in responses:
            try:
                scores.append(float((match(text, timeout=_PATIENCE) is None) == self.forbidden))
            except TimeoutError:
                raise UserError(
                    f"pattern={self.pattern.pattern!r} took more than {_PATIENCE:g} seconds on {text[:80]!r}.",
                    "Write it without repetitions of repetitions, such as (a+)+.",
                ) from None
        return _scores(scores)


def reading_ease(text: str) -> float:
    """Flesch reading ease of an English text, not clipped; −inf for a text without words."""
    words = _WORD.findall(text)
    if not words:
        return float("-inf")
    sentences = max(1, len(_SENTENCE_END.findall(text)))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


def syllables(word: str) -> int:
    """Estimated number of syllables of an English word: groups of vowels minus a silent final e, at least 1."""
    lower = word.lower()
    count = len(_VOWELS.findall(lower))
    is_silent = lower.endswith("e") and not lower.endswith(("le", "ee", "ye")) and count > 1
    return max(1, count - is_silent)


def _scores(values: Sequence[float]) -> Float[Tensor, " B"]:
    return torch.tensor(values, dtype=torch.float32)
