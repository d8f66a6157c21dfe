"""The loss of pairs, every text scored alone."""

import math

import pytest
import torch

import tiny
from pama_exp.policy.loading import build_classifier
from pama_exp.supervised import batch_losses

WORDS = tiny.tokenizer()
PAIRS = [("a b", "c d e", "f"), ("g", "a", "b c d e f"), ("h i", "", "p")]
# More than go into one pass, of lengths in no order.
MANY = [
    ("a b c"[: 1 + 2 * (i % 3)], "d e f g h"[: 1 + 2 * (7 * i % 5)], "i p c b a"[: 1 + 2 * (3 * i % 5)])
    for i in range(21)
]


def test_the_loss_of_pairs_is_bradley_and_terrys():
    check_the_loss_of(PAIRS)


def test_pairs_of_several_passes_have_the_loss_of_each_text_alone():
    check_the_loss_of(MANY)


def check_the_loss_of(pairs):
    model = tiny.sharpen(build_classifier(tiny.language_model("gpt2"), WORDS), seed=4)

    def score(prompt, response):
        return model(input_ids=torch.tensor([WORDS(f"{prompt} {response}")["input_ids"]])).logits[0, 0].item()

    with torch.no_grad():
        margins = [score(prompt, chosen) - score(prompt, rejected) for prompt, chosen, rejected in pairs]
        found = batch_losses.preference_loss(model, WORDS, pairs).item()
    chances = [1 / (1 + math.exp(-margin)) for margin in margins]  # that the chosen one is preferred
    assert found == pytest.approx(-sum(map(math.log, chances)) / len(pairs), abs=tiny.ROUNDING)
    assert abs(sum(margins)) / len(pairs) > 0.03  # or the sign would not matter
