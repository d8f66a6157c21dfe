"""Several objectives from one reward model, and how often it is asked."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import classifiers
import tiny
from pama_exp.errors import UserError
from pama_exp.rewards.classifier import ClassifierScorer
from pama_exp.rewards.multi_head import MultiHead
from pama_exp.rewards.objective import Objective, score_all

HEADS = ["helpfulness", "correctness", "verbosity"]
RESPONSES = ["Human", "Human Assistant", "no", "yes Human"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A regressor of three attributes, labelled by numbers alone, as those of HelpSteer are."""
    made = classifiers.distilbert(tmp_path_factory.mktemp("models") / "regressor")
    model = AutoModelForSequenceClassification.from_pretrained(made, num_labels=3, ignore_mismatched_sizes=True)
    tiny.sharpen(model, seed=5).save_pretrained(made)
    return made


def objectives(folder, **settings):
    return [Objective(name, MultiHead(head=name, path=str(folder), heads=HEADS, **settings)) for name in HEADS]


def test_three_objectives_cost_one_forward_pass_a_batch(folder):
    made = objectives(folder)
    calls = []
    model = made[0].scorer.shared.classifier.model
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    found = score_all(made, tiny.prompts(), RESPONSES)
    assert len(calls) == 1
    score_all(made, tiny.prompts(), RESPONSES[::-1])
    assert len(calls) == 2
    handle.remove()
    apart = [ClassifierScorer(folder, label_index=i).score(tiny.prompts(), RESPONSES) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(apart))
    assert len({round(value, 4) for value in found.flatten().tolist()}) > 6


def test_a_head_is_chosen_by_name_by_place_or_by_the_models_own_label(folder):
    batch = tiny.prompts()
    by_name = MultiHead(head="verbosity", path=str(folder), heads=HEADS, sign=-1.0).score(batch, RESPONSES)
    torch.testing.assert_close(by_name, -MultiHead(head=2, path=str(folder)).score(batch, RESPONSES))
    torch.testing.assert_close(by_name, -MultiHead(head="LABEL_2", path=str(folder)).score(batch, RESPONSES))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"head": "verbostiy", "heads": HEADS}, "Did you mean 'verbosity'"),
        ({"head": 3}, "has no head 3"),
        ({"head": "a", "heads": ["a"]}, "has 3 heads, and 1 are named"),
        ({"head": 0, "heads": ["a", "b", "a"]}, "holds 'a' twice"),
        ({"head": 0, "sign": 0}, "sign=0"),
        ({}, "has no head null"),
        ({"head": 0, "template": "{prompt} {response:>100000000000}"}, "does not place the response"),
    ],
)
def test_a_head_that_is_not_there_is_named(folder, settings, says):
    with pytest.raises(UserError) as caught:
        MultiHead(path=str(folder), **settings)
    assert says in str(caught.value)


def test_neither_id_nor_path():
    with pytest.raises(UserError, match="neither id nor path"):
        MultiHead(head="a")


def test_objectives_of_other_settings_have_a_model_of_their_own(folder):
    one, two = MultiHead(head=0, path=str(folder)), MultiHead(head=0, path=str(folder), template="{response}")
    assert one.shared is not two.shared
    assert one.shared is MultiHead(head=1, path=str(folder)).shared
