"""Losses of demonstrations, padded and packed, against each example alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import folders
from pama_exp.supervised.batch_losses import encode, pack, packed_response_loss, response_loss

PAIRS = [("what is the name", " of it"), ("the", " color is red and the"), ("tell me of this", "")]
WORDS = folders.byte_pair_tokenizer("<pad>")


@pytest.fixture(scope="module", params=folders.CLASSES)
def model(request, tmp_path_factory):
    folder = folders.save_folder(tmp_path_factory.mktemp(request.param), request.param)
    made = AutoModelForCausalLM.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2, generator=generator)
    return made


def by_hand(model):
    """Mean negative log-likelihood of the responses' tokens and ends, each example alone."""
    total, count = 0.0, 0
    for prompt, response in PAIRS:
        start = len(WORDS(prompt)["input_ids"])
        ids = torch.tensor([*WORDS(prompt)["input_ids"], *WORDS(response)["input_ids"], WORDS.eos_token_id])
        log_probs = model(ids[None]).logits[0].log_softmax(-1)
        total -= sum(log_probs[at - 1, ids[at]].item() for at in range(start, len(ids)))
        count += len(ids) - start
    return total / count


@torch.no_grad()
def test_the_loss_is_of_the_responses_tokens_alone_padded_or_packed(model):
    rows = encode(PAIRS, WORDS, 64)
    expected = by_hand(model)
    assert response_loss(model, WORDS, rows).item() == pytest.approx(expected, abs=folders.ROUNDING, rel=0)
    for packed in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
        assert packed_response_loss(model, WORDS, packed).item() == pytest.approx(expected, abs=folders.ROUNDING, rel=0)


def test_packed_and_padded_have_the_same_gradient(model):
    rows, parameters = encode(PAIRS, WORDS, 64), list(model.parameters())
    padded = torch.autograd.grad(response_loss(model, WORDS, rows), parameters, allow_unused=True)
    loss = packed_response_loss(model, WORDS, [rows[:2], rows[2:]])
    packed = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one, other in zip(padded, packed, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80))
def test_packing_holds_every_example_once_in_rows_that_fit(lengths):
    rows = pack(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert max(filled) <= 50
    assert len(rows) <= 1 + 2 * sum(lengths) / 50  # no two rows could have been one
