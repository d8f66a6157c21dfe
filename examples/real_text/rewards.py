"""Five rewards for English text that need no network: three packages carry their whole models, two are formulas.

Each is a function in the signature of TRL's reward functions, f(prompts, completions, **columns) -> list[float], or a
scorer as `pama_exp.rewards.scorer.Scorer` describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor


def sentiment(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """VADER's compound score of the completion, from -1 (negative) to 1 (Hutto & Gilbert 2014)."""
    return [_vader().polarity_scores(text)["compound"] for text in completions]


def clean(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """1 less alt-profanity-check's probability that the completion is profane; an empty one is clean."""
    from profanity_check import predict_prob

    return [1.0 - float(p) for p in predict_prob(list(completions))]


def relevance(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """Cosine of the texts' counts of letter groups, 0 to 1: alike words, not meaning; repeating the prompt games it."""
    asked, said = _letters().transform(prompts), _letters().transform(completions)
    return np.asarray(asked.multiply(said).sum(axis=1)).ravel().tolist()


class Brevity:
    """max(0, 1 - tokens / limit). Tokens of the policy's own: a limit in words is met by words of a hundred digits.

    Args:
        tokenizer: the folder of the policy, which holds tokenizer.json.
        limit: tokens from which the score is 0.
    """

    def __init__(self, tokenizer: str, limit: float) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
        self.limit = limit

    def score(self, prompts: Any, responses: Sequence[str]) -> Tensor:
        """(B,) in [0, 1]."""
        encoded = self.tokenizer.encode_batch(list(responses), add_special_tokens=False)
        return torch.tensor([max(0.0, 1.0 - len(each.ids) / self.limit) for each in encoded])


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@cache
def _letters() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False)
