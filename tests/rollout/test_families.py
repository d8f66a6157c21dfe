"""Every family of architectures: what the engines draw from is what the update computes and what the model itself says.

The table in docs/models.md is checked against this one; `python tests/rollout/test_families.py` prints it.
"""

import copy

import pytest
import torch

import families
import tiny
from pama_exp.config.schema import CONF
from pama_exp.policy.attention import is_arranged
from pama_exp.policy.logits import head_of
from pama_exp.policy.policy import Policy
from pama_exp.rollout.auto import choose_engine
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.fast import FastEngine
from pama_exp.rollout.hf import HFEngine
from pama_exp.types import Rollout

PROMPTS = ("a b c", "d", "e f g h i", "a b c", "b a")  # padded on the left, one twice
LENGTHS = (9, 1, 5, 9, 3)  # tokens of the responses; some end early


def ended(rollout: Rollout) -> Rollout:
    """The rollout cut to `LENGTHS`, as if rows had ended there."""
    mask = rollout.response_mask & (torch.arange(rollout.response_mask.shape[1]) < torch.tensor(LENGTHS)[:, None])
    return type(rollout)(rollout.prompts, rollout.response_ids, mask, rollout.finished, rollout.texts)


def row(family: str) -> str:
    """The family's line of the table in docs/models.md."""
    model = families.model(family)
    engine = choose_engine(model, tiny.tokenizer())
    policy = Policy(model, 1)
    logits = "output layer" if head_of(model) is model.get_output_embeddings() else "the model's own function"
    name = "`fast`" if isinstance(engine, FastEngine) else "`hf`"
    return f"| {family} | {name} | {'packed' if is_arranged(policy.model) else 'padded'} | {logits} |"


@pytest.mark.parametrize("family", families.FAMILIES)
def test_both_engines_and_the_update_give_the_models_own_log_probabilities(family):
    model = families.model(family)
    untouched = copy.deepcopy(model)
    policy = Policy(model, 1)
    for kind in (FastEngine, HFEngine):
        rollout = kind(model, tiny.tokenizer()).generate(tiny.prompts(PROMPTS), Sampling(9), seed=[1, 2, 3, 4, 5])
        cut = ended(rollout)
        updated, early = policy.score_rollout(rollout).log_probs, policy.score_rollout(cut).log_probs
        for i, log_probs in enumerate(tiny.log_probs_by_hand(untouched, rollout)):
            said = rollout.response_mask[i]
            wanted = log_probs.gather(1, rollout.response_ids[i][said][:, None]).squeeze(1)
            torch.testing.assert_close(updated[i][said], wanted, atol=1e-5, rtol=0)
            kept = cut.response_mask[i]
            torch.testing.assert_close(early[i][kept], wanted[: kept.sum()], atol=1e-5, rtol=0)
        if rollout.log_probs is not None:
            torch.testing.assert_close((updated - rollout.log_probs).exp(), torch.ones_like(updated), atol=1e-5, rtol=0)


def test_the_table_in_the_documents_is_what_runs():
    lines = (CONF.parent / "docs" / "models.md").read_text().splitlines()
    shown = [line for line in lines if line.split("|")[1:2] and line.split("|")[1].strip() in families.FAMILIES]
    assert shown == [row(family) for family in families.FAMILIES]


if __name__ == "__main__":
    print("\n".join(row(family) for family in families.FAMILIES))
