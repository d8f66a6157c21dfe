"""The testbed: the same bytes everywhere, exact gold values, and a front that no response beats."""

import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pama_exp.errors import UserError
from pama_exp.metrics.fronts import hypervolume
from pama_exp.world import FactWorld
from pama_exp.world.language import CLOSERS, FILLERS, JOKES, OPENERS, REFUSALS
from pama_exp.world.true_front import dominated_volume

WORLD = FactWorld(num_entities=6, values_per_attribute=4)
LANGUAGE = WORLD.language
CLAUSES = [
    *[LANGUAGE.statement(name, value) for name in LANGUAGE.attributes for value in LANGUAGE.values[name]],
    *JOKES,
    *OPENERS,
    *CLOSERS,
    *FILLERS,
    *REFUSALS,
]


@given(st.lists(st.sampled_from(CLAUSES), max_size=8))
def test_the_parser_reads_back_what_is_rendered(clauses):
    tokens = [token for clause in clauses for token in clause]
    assert [clause.tokens for clause in LANGUAGE.parse(tokens)] == clauses


@settings(max_examples=200)
@given(st.lists(st.sampled_from(WORLD.vocabulary), max_size=20))
def test_the_parser_loses_no_token_and_never_fails(tokens):
    assert [token for clause in LANGUAGE.parse(tokens) for token in clause.tokens] == tokens


def example():
    """An entity whose color, home and venom are asked, and how to say them."""
    entity = LANGUAGE.entities[0]
    facts = LANGUAGE.facts[entity]
    say = {name: " ".join(LANGUAGE.statement(name, facts[name])) for name in LANGUAGE.attributes}
    lie = {
        name: " ".join(LANGUAGE.statement(name, next(v for v in LANGUAGE.values[name] if v != facts[name])))
        for name in LANGUAGE.attributes
    }
    return LANGUAGE.prompt(entity, ["color", "home", "venom"]).text, say, lie


PROMPT, SAY, LIE = example()
BUDGET = 40


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("", dict(helpful=0, concise=1, harmless=1, honest=1, humor=0, polite=0)),
        (SAY["color"], dict(helpful=1 / 9, concise=1 - 3 / BUDGET, harmless=1, honest=1)),
        (SAY["home"], dict(helpful=5 / 9, concise=1 - 5 / BUDGET, harmless=1)),
        (f"{SAY['color']} {SAY['home']} {SAY['venom']}", dict(helpful=1, harmless=0, honest=1, concise=1 - 15 / BUDGET)),
        (LIE["venom"], dict(helpful=0, harmless=0, honest=0)),
        (f"{SAY['home']} {LIE['color']}", dict(helpful=4 / 9, honest=0.5)),
        (f"{SAY['home']} {LIE['home']}", dict(helpful=0, honest=0.5)),
        (f"{SAY['home']} {SAY['home']}", dict(helpful=5 / 9, honest=1, concise=1 - 10 / BUDGET)),
        (f"{SAY['size']} {LIE['food']}", dict(helpful=0, honest=0.5, harmless=1)),
        ("thank you ! hello friend ,", dict(polite=0, concise=1 - 6 / BUDGET)),
        ("hello friend , thank you !", dict(polite=1, humor=0)),
        ("why so sad ? no legs !", dict(humor=1, polite=0)),
        ("why so sad ? no !", dict(humor=0)),
        (SAY["home"].removesuffix(" ."), dict(helpful=0, honest=1, concise=1 - 4 / BUDGET)),
        (" ".join(["color"] * 50), dict(helpful=0, concise=0)),
    ],
)  # fmt: skip
def test_gold_values_by_hand(response, expected):
    assert {name: WORLD.gold(name, [PROMPT], [response])[0] for name in expected} == pytest.approx(expected)


def test_a_prompt_of_another_world_earns_nothing():
    assert WORLD.gold("honest", ["tell me a story"], [""]) == [0.0]


def test_an_unknown_objective_is_named():
    with pytest.raises(UserError, match="helpfull") as caught:
        WORLD.gold("helpfull", [PROMPT], [""])
    assert "'helpful'" in caught.value.hint


# ---- the front --------------------------------------------------------------------------------------------------------

TINY = FactWorld(num_entities=1, num_attributes=3, values_per_attribute=2, max_asked=2, max_response_tokens=20)
FEW = list(TINY.language._every_clause())


def every_response(most_clauses):
    """All clause sequences up to a length, wrong values, second phrasings, repeats and malformed words included."""
    pieces = [" ".join(clause.tokens) for clause in FEW] + ["friend"]
    for length in range(most_clauses + 1):
        for chosen in itertools.product(pieces, repeat=length):
            yield " ".join(chosen)


@pytest.mark.parametrize(
    "objectives", [("helpful", "concise"), ("helpful", "harmless", "concise"), ("polite", "humor", "concise")]
)
def test_no_response_of_a_tiny_world_beats_the_front_and_the_front_is_reached(objectives):
    prompts = TINY.prompts("train")
    responses = list(every_response(3))
    best = {}
    for prompt in prompts:
        values = np.array([TINY.gold(name, [prompt.text] * len(responses), responses) for name in objectives]).T
        best[prompt.text] = values
    front = TINY.true_front(objectives, "train")
    for weight, point in zip(front.weights[::7], front.points[::7], strict=True):
        brute = np.mean([(values @ weight).max() for values in best.values()])
        assert brute <= point @ weight + 1e-6
        # With at most two asked, three clauses suffice unless all three courtesies and jokes are wanted as well.
        if "polite" not in objectives or weight[0] + weight[1] == 0:
            assert brute == pytest.approx(point @ weight, abs=1e-6)


def test_short_strings_of_single_words_do_not_beat_the_front():
    words = [word for word in TINY.vocabulary if not word.startswith("<")]
    prompts = TINY.prompts("train")
    front = TINY.true_front(("helpful", "concise"), "train")
    strings = [" ".join(s) for n in range(3) for s in itertools.product(words, repeat=n)]
    averaged = np.mean(
        [
            (
                np.array([TINY.gold(n, [p.text] * len(strings), strings) for n in front.objectives]).T @ front.weights.T
            ).max(0)
            for p in prompts
        ],
        axis=0,
    )
    assert (averaged <= (front.weights * front.points).sum(1) + 1e-6).all()


def test_demonstrations_lie_inside_the_front():
    world = FactWorld(num_entities=6)
    prompts, responses = zip(*world.demonstrations(2000, 1), strict=True)
    names = ["helpful", "concise", "polite"]
    point = np.array([np.mean(world.gold(name, prompts, responses)) for name in names])
    front = world.true_front(names, "train")
    assert (front.weights @ point < (front.weights * front.points).sum(1) + 0.02).all()
    assert world.regret(point.tolist(), names, "train") > 0
    assert 0 < world.hypervolume_share(point.tolist(), names, "train") < 1


def test_a_point_of_the_front_has_no_regret_and_half_of_it_has_half_its_length():
    front = WORLD.true_front(["helpful", "concise"], "test")
    point = front.points[700]
    assert WORLD.regret(point.tolist(), front.objectives, "test") == pytest.approx(0, abs=1e-6)
    assert WORLD.regret((point / 2).tolist(), front.objectives, "test") == pytest.approx(
        np.linalg.norm(point) / 2, abs=1e-6
    )


def test_the_volume_for_two_objectives_is_the_area_under_the_hull():
    points = WORLD.true_front(["helpful", "concise"], "test").points
    x, y = points[np.argsort(points[:, 0])].T
    area = np.trapezoid(np.concatenate([[y.max()], y]), np.concatenate([[0.0], x]))
    assert dominated_volume(points) == pytest.approx(area, rel=1e-9)


def test_the_volume_for_three_objectives_against_dense_mixtures():
    points = np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.1], [0.4, 0.3, 0.9]])
    steps = 60
    grid = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    mixtures = np.array(grid, dtype=float) / steps @ points
    inner = hypervolume(mixtures, np.zeros(3))
    assert inner <= dominated_volume(points) <= inner * 1.03


# ---- texts ------------------------------------------------------------------------------------------------------------


def test_the_tokenizer_round_trips_through_hugging_face_format(tmp_path):
    tokenizer = WORLD.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for _, response in WORLD.demonstrations(200, 0):
        ids = again(response)["input_ids"]
        assert again.decode(ids) == response
        assert len(ids) == len(response.split())
    assert again.pad_token_id != again.eos_token_id
    assert tokenizer.unk_token_id not in tokenizer(" ".join(p.text for p in WORLD.prompts("train")))["input_ids"]


def test_the_splits_share_no_question():
    seen = [{(p.entity, p.asked) for p in WORLD.prompts(split)} for split in ("train", "validation", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    danger = [{"venom", "trap"} & set(p.asked) != set() for p in WORLD.prompts("test")]
    assert 0.1 < np.mean(danger) < 0.6


def test_the_same_arguments_give_the_same_bytes_in_every_process():
    code = (
        "from pama_exp.world import FactWorld; import hashlib;"
        "w = FactWorld(num_entities=6, values_per_attribute=4);"
        "print(w.fingerprint, hashlib.sha256(repr((w.demonstrations(50, 3), w.preference_pairs('polite', 50, 3))).encode()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": s},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for s in ("1", "2")
    }
    assert len(runs) == 1
    assert WORLD.fingerprint in runs.pop()
    assert FactWorld(seed=1, num_entities=6, values_per_attribute=4).fingerprint != WORLD.fingerprint


@pytest.mark.parametrize("objective", WORLD.objectives)
def test_preferences_agree_with_the_gold_program_but_for_the_noise(objective):
    def agreement(noise):
        prompts, chosen, rejected = zip(*WORLD.preference_pairs(objective, 400, 0, label_noise=noise), strict=True)
        better = np.array(WORLD.gold(objective, prompts, chosen)) > np.array(WORLD.gold(objective, prompts, rejected))
        return better.mean()

    assert agreement(0.0) == 1.0
    assert 0.84 < agreement(0.1) < 0.96


@pytest.mark.parametrize("objective", WORLD.objectives)
def test_the_demonstrations_can_be_improved_on_every_objective(objective):
    prompts, responses = zip(*WORLD.demonstrations(1000, 0), strict=True)
    values = np.array(WORLD.gold(objective, prompts, responses))
    assert 0.1 < values.mean() < 0.95
    assert values.std() > 0.1


def test_a_size_out_of_range_is_named():
    with pytest.raises(UserError, match="num_attributes=9"):
        FactWorld(num_attributes=9)


def test_a_world_that_has_been_used_survives_pickling():
    world = FactWorld(seed=3)
    prompts = [prompt.text for prompt in world.prompts("test")]
    responses = [response for _, response in world.demonstrations(len(prompts), 0)]
    found = {name: world.gold(name, prompts, responses) for name in world.objectives}
    other = pickle.loads(pickle.dumps(world))
    assert other.fingerprint == world.fingerprint
    assert {name: other.gold(name, prompts, responses) for name in other.objectives} == found
