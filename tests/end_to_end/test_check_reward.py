"""Scorers against the pairs of a table, in the columns of the published data sets."""

import pyarrow
import pyarrow.parquet
import pytest

from commands import composed, run_here
from pama_exp.assembly.task import build_task
from pama_exp.config.schema import typed
from pama_exp.errors import UserError
from texts import policy_folder, write_jsonl

SPLITS = "data.splits={train: 0.4, validation: 0.3, test: 0.3}"
SHORTER = ["objectives=[length]", "objectives.length.direction=minimize"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return policy_folder(tmp_path_factory.mktemp("policy"))


def said(text):
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]


def good_and_bad(**columns):
    """Rows of a prompt each; the better answer is `good`, first or second as the row's number is even or odd."""
    return [{key: value(i) for key, value in columns.items()} for i in range(60)]


def first(i):
    return "good" if i % 2 == 0 else "bad"


def second(i):
    return "bad" if i % 2 == 0 else "good"


PUBLISHED = {
    "ultrafeedback": (
        "data/train_prefs-0.parquet",
        good_and_bad(
            prompt=lambda i: f"q {i}", chosen=lambda i: said("good"), rejected=lambda i: said("bad"), score_chosen=float
        ),
    ),
    "helpsteer2": (
        "preference/preference.jsonl.gz",
        good_and_bad(
            prompt=lambda i: f"q {i}",
            response_1=first,
            response_2=second,
            preference_strength=lambda i: [-2, 3][i % 2],
            split=lambda i: "train",
        ),
    ),
    "helpsteer3": (
        "preference/train.jsonl.gz",
        good_and_bad(
            context=lambda i: [{"role": "user", "content": f"q {i}"}],
            response1=first,
            response2=second,
            overall_preference=lambda i: [-1, 1][i % 2],
        ),
    ),
    "pku-saferlhf": (
        "data/Alpaca-7B/train.jsonl",
        good_and_bad(
            prompt=lambda i: f"q {i}",
            response_0=first,
            response_1=second,
            better_response_id=lambda i: i % 2,
            safer_response_id=lambda i: 1 - i % 2,
        ),
    ),
    "tldr-preference": (
        "data/train-0.parquet",
        good_and_bad(prompt=lambda i: f"q {i} TL;DR:", chosen=lambda i: " good", rejected=lambda i: " bad"),
    ),
    "beavertails": (
        "round0/330k/train.jsonl.gz",
        good_and_bad(prompt=lambda i: f"q {i}", response=lambda i: "good", is_safe=lambda i: True),
    ),
}


def read(option, folder, policy, *overrides):
    path, rows = PUBLISHED[option]
    if path.endswith(".parquet"):
        (folder / path).parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / path)
    else:
        write_jsonl(folder / path, rows)
    words = [f"data={option}", f"data.path={folder}", f"model.path={policy}", f"cache_dir={folder / 'cache'}", SPLITS]
    return build_task(typed(composed(*words, "objectives=[length]", *overrides))).data


@pytest.mark.parametrize("option", sorted(set(PUBLISHED) - {"beavertails"}))
def test_published_pairs_are_read_with_the_better_answer_first(option, tmp_path, policy):
    pairs = read(option, tmp_path, policy).preference_pairs("train")
    assert len(pairs) > 5
    assert {(chosen.strip(), rejected.strip()) for _, chosen, rejected in pairs} == {("good", "bad")}
    assert all("q " in prompt for prompt, _, _ in pairs)


def test_the_safer_answer_may_be_another_than_the_more_helpful_one(tmp_path, policy):
    pairs = read("pku-saferlhf", tmp_path, policy, "data.choice=safer_response_id").preference_pairs("train")
    assert {pair[1:] for pair in pairs} == {("bad", "good")}


def test_beavertails_has_answers_and_no_pairs(tmp_path, policy):
    data = read("beavertails", tmp_path, policy)
    assert {answer.strip() for _, answer in data.demonstrations("train")} == {"good"}
    with pytest.raises(UserError, match="no such column"):
        data.preference_pairs("train")


def test_a_pair_without_a_preference_is_left_out_and_a_strange_one_is_named(tmp_path, policy):
    rows = [{"prompt": f"q {i}", "a": "x", "b": "y", "strength": i % 3 - 1, "word": "left"} for i in range(60)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    words = ["data=file", f"data.path={path}", f"model.path={policy}", f"cache_dir={tmp_path}", SPLITS, "data.chosen=a"]
    words += ["data.rejected=b", "objectives=[length]"]

    def pairs(*more):
        return build_task(typed(composed(*words, *more))).data.preference_pairs("train")

    assert {pair[1:] for pair in pairs("data.choice=strength", "data.choice_kind=sign")} == {("x", "y"), ("y", "x")}
    assert len(pairs("data.choice=strength", "data.choice_kind=sign")) < len(pairs())
    for wrong in ("strength", "word"):
        with pytest.raises(UserError, match=f"data.choice={wrong} holds"):
            pairs(f"data.choice={wrong}")


def test_the_stage_says_how_often_a_reward_agrees_with_the_pairs(tmp_path, policy, capsys):
    rows = [
        {"prompt": f"q {i}", "chosen": "a b" if i % 4 else "a b c d", "rejected": "a b c", "note": i} for i in range(80)
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    words = ["stage=check_reward", "data=file", f"data.path={path}", f"model.path={policy}", SPLITS, *SHORTER]
    result = run_here(*words, output=tmp_path / "run", cache=tmp_path / "cache").read_result()
    found = result["reward_models"]["length"]
    test = build_task(typed(composed(*words[1:], f"cache_dir={tmp_path / 'cache'}"))).data.preference_pairs("test")
    agreeing = sum(len(chosen) < len(rejected) for _, chosen, rejected in test)
    assert 0 < agreeing < len(test)
    assert found["held_out_accuracy"] == pytest.approx(agreeing / len(test))
    assert found["pairs"] == len(test)
    assert found["ties"] == 0
    assert "of held-out pairs" in capsys.readouterr().out


def test_the_testbed_has_no_pairs_to_check_against(tmp_path, shared_cache):
    with pytest.raises(UserError, match="reads pairs from a table"):
        run_here("stage=check_reward", "reward=gold", output=tmp_path / "run", cache=shared_cache)
