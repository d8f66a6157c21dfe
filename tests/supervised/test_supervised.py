"""The loss of pairs, every text scored alone."""

import math

import pytest
import torch

import tiny
from pama_exp.policy.loading import build_classifier
from pama_exp.supervised import batch_losses

WORDS = tiny.tokenizer()
PAIRS = [("a b", "c d e", "f"), ("g", "a", "b c d e f"), ("h i", "", "p")]


def test_the_loss_of_pairs_is_bradley_and_terrys():
    model = tiny.sharpen(build_classifier(tiny.language_model("gpt2"), WORDS), seed=4)

    def score(prompt, response):
        return model(input_ids=torch.tensor([WORDS(f"{prompt} {response}")["input_ids"]])).logits[0, 0].item()

    with torch.no_grad():
        margins = [score(prompt, chosen) - score(prompt, rejected) for prompt, chosen, rejected in PAIRS]
        found = batch_losses.preference_loss(model, WORDS, PAIRS).item()
    chances = [1 / (1 + math.exp(-margin)) for margin in margins]  # that the chosen one is preferred
    assert found == pytest.approx(-sum(map(math.log, chances)) / len(PAIRS), abs=tiny.ROUNDING)
    assert abs(sum(margins)) > 0.1  # or the sign would not matter
