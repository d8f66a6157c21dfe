"""Rewards for TRL, verl and this project alike: f(prompts, completions, **columns) -> list[float], higher is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WORDS = 60  # from which on an answer is no longer brief


def brief(completions: Sequence[str], **columns: Any) -> list[float]:
    """1 less the share of sixty words, 0 to 1."""
    return [max(0.0, 1.0 - len(text.split()) / WORDS) for text in completions]


def varied(completions: Sequence[str], **columns: Any) -> list[float]:
    """The share of words that are not there twice, 0 to 1."""
    words = [text.lower().split() for text in completions]
    return [len(set(said)) / len(said) if said else 0.0 for said in words]


def positive(completions: Sequence[str], **columns: Any) -> list[float]:
    """VADER's compound score, -1 to 1 (Hutto & Gilbert 2014); needs vaderSentiment."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(text)["compound"]) for text in completions]


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **more: Any
) -> dict[str, float]:
    """As verl calls it: the components for `algorithm.gdpo_reward_keys`, and their sum as `score`."""
    found = {function.__name__: function(completions=[solution_str])[0] for function in (brief, varied)}
    return {"score": sum(found.values()), **found}
