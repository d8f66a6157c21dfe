"""The loss of pairs beside TRL's, on the same tokens, where TRL is installed."""

import copy

import pytest
import torch

import tiny
from pama_exp.data.pairs import Pair
from pama_exp.policy.policy import Policy, freeze
from pama_exp.supervised.encoded_pairs import encode_pairs, rollout_of
from pama_exp.supervised.pair_learning import PairLearner

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

WORDS = tiny.tokenizer()
PAIRS = [
    Pair("a b c ", "a b c", "d e f", "g"),
    Pair("d ", "d", "a", "b c d e f"),
    Pair("e f g h i ", "e f g h i", "p", "p a b"),
]
BETA = 0.1


def as_trl_reads(encoded):
    """Chosen rows, then rejected ones, padded on the right, with a mask of the responses."""
    rows = [
        (one.prompt, said) for said_of in ("chosen", "rejected") for one in encoded for said in [getattr(one, said_of)]
    ]
    width = max(len(prompt) + len(said) for prompt, said in rows)
    pads = [width - len(prompt) - len(said) for prompt, said in rows]
    return {
        "input_ids": torch.tensor([[*p, *s, *[WORDS.pad_token_id] * n] for (p, s), n in zip(rows, pads, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - n) + [0] * n for n in pads]),
        "completion_mask": torch.tensor(
            [[0] * len(p) + [1] * len(s) + [0] * n for (p, s), n in zip(rows, pads, strict=True)]
        ),
    }


@pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_loss_and_its_gradient_are_trls(architecture, tmp_path):
    model, reference = (tiny.language_model(architecture, seed=seed) for seed in (1, 2))
    encoded, _ = encode_pairs(PAIRS, WORDS, 40, skip=False, may_be_empty=False)
    table = datasets.Dataset.from_list(
        [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in PAIRS]
    )
    settings = trl.DPOConfig(
        output_dir=str(tmp_path), beta=BETA, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False
    )
    theirs = trl.DPOTrainer(
        copy.deepcopy(model), copy.deepcopy(reference), settings, train_dataset=table, processing_class=WORDS
    )
    theirs.model.eval()
    wanted = theirs.compute_loss(theirs.model, as_trl_reads(encoded))
    wanted.backward()
    learner = PairLearner(Policy(model, 1), freeze(reference), BETA, 0.0, 1.0, 10_000)
    rollout = rollout_of(encoded, WORDS, torch.device("cpu"))
    found = sum(learner.losses(rollout, torch.zeros(len(PAIRS))))
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert abs(found.item() - 0.6931) > 1e-2
    gradients = {name: p.grad for name, p in theirs.model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4)
