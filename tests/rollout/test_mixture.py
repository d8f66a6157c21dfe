"""Mixed logits: with a unit weight the mixture is that model, token for token; else it is the normalised product."""

import pytest
import torch

import tiny
from pama_exp.errors import UserError
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.fast import FastEngine
from pama_exp.rollout.hf import HFEngine
from pama_exp.rollout.mixture import MixedFastEngine, MixedHFEngine, check_mixable, mixed_engine

WORDS = tiny.tokenizer()
SAMPLING = Sampling(max_new_tokens=12)
ENGINES = {"fast": (FastEngine, MixedFastEngine), "hf": (HFEngine, MixedHFEngine)}


def models(architecture):
    # Of other widths too: experts need the same tokens, not the same sizes.
    wide = {"gpt2": {"n_embd": 24}, "opt": {"word_embed_proj_dim": 12}}.get(architecture, {})
    return [tiny.language_model(architecture, seed=1), tiny.language_model(architecture, seed=2, **wide)]


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("unit", [0, 1])
def test_a_unit_weight_is_that_expert_token_for_token(architecture, unit, kind):
    plain, mixed = ENGINES[kind]
    both, batch = models(architecture), tiny.prompts()
    seeds = [3, 4, 5, 6]
    alone = plain(both[unit], WORDS).generate(batch, SAMPLING, seeds)
    together = mixed(both, WORDS, [1.0 - unit, float(unit)]).generate(batch, SAMPLING, seeds)
    assert torch.equal(together.response_ids, alone.response_ids)
    assert torch.equal(together.response_mask, alone.response_mask)
    assert together.texts == alone.texts
    other = plain(both[1 - unit], WORDS).generate(batch, SAMPLING, seeds)
    assert together.texts != other.texts


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_tokens_are_drawn_from_the_normalised_product_of_the_experts(architecture):
    """Each token drawn is the one that inverting Π πᵉ ^ wᵉ gives, computed with no cache and no padding."""
    from pama_exp.rollout.engine import uniform_noise

    both, weights, batch, seeds = models(architecture), [0.3, 0.7], tiny.prompts(), [3, 4, 5, 6]
    made = MixedFastEngine(both, WORDS, weights).generate(batch, SAMPLING, seeds)
    noise = uniform_noise(seeds, len(batch), SAMPLING.max_new_tokens)
    each = [tiny.log_probs_by_hand(model, made) for model in both]
    for row in range(len(batch)):
        product = (weights[0] * each[0][row].double() + weights[1] * each[1][row].double()).exp()
        reached = (product / product.sum(-1, keepdim=True)).cumsum(-1)
        for at, token in enumerate(made.response_ids[row][made.response_mask[row]].tolist()):
            below = reached[at, token - 1].item() if token else 0.0
            assert below - 1e-4 <= noise[row, at].item() <= reached[at, token].item() + 1e-4


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_transformers_own_engine_draws_from_the_same_mixture(architecture):
    """With one token likelier than all others together the two engines must agree, however they draw."""
    both, batch = models(architecture), tiny.prompts()
    sure = Sampling(max_new_tokens=8, top_k=1)
    fast = MixedFastEngine(both, WORDS, [0.4, 0.6]).generate(batch, sure, [0, 1, 2, 3])
    slow = MixedHFEngine(both, WORDS, [0.4, 0.6]).generate(batch, sure, [0, 1, 2, 3])
    assert fast.texts == slow.texts


def test_a_model_that_the_fast_engine_does_not_decode_is_mixed_by_transformers():
    llama, falcon = tiny.language_model("llama"), tiny.language_model("llama", seed=2)
    assert isinstance(mixed_engine([llama, falcon], WORDS, [0.5, 0.5]), MixedFastEngine)
    assert isinstance(mixed_engine([llama, falcon], WORDS, [0.5, 0.5], by_transformers=True), MixedHFEngine)
    assert mixed_engine([llama, falcon], WORDS, [0.5, 0.5]).reason is None


def test_experts_of_other_vocabularies_are_refused():
    words = tiny.tokenizer()
    words.add_tokens(["zebra"])
    both = models("gpt2")
    check_mixable(both, [WORDS, WORDS])
    with pytest.raises(UserError, match="other vocabularies"):
        check_mixable(both, [WORDS, words])
