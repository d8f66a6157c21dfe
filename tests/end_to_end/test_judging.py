"""stage=judge: finished runs against the SFT policy by a scorer of the user's, and what it refuses."""

import json

import pytest
import torch

from commands import run_here
from pama_exp.errors import UserError
from pama_exp.stages.judge import compare

pytestmark = pytest.mark.slow("four whole runs, and each is judged")
COMMON = ["reward=gold", "solver=linear", "training.learning_rate=1e-2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_cache):
    root = tmp_path_factory.mktemp("runs")
    told = ["conditioning=embedding", "conditioning.grid=2"]
    pairs = ["stage=dpo", "reward=gold", "dpo.steps=3", "dpo.batch_size=8"]
    made = {"plain": COMMON, "told": [*COMMON, *told], "pairs": pairs, "adapted": [*COMMON, "adapter=lora"]}
    return {n: run_here(*settings, output=root / n, cache=shared_cache).folder for n, settings in made.items()}


@pytest.fixture(autouse=True)
def judges(tmp_path, monkeypatch):
    (tmp_path / "judges.py").write_text(
        "def words(prompts, completions, **columns):\n"
        "    return [float(len(text.split())) for text in completions]\n"
        "def same(prompts, completions, **columns):\n"
        "    return [1.0] * len(completions)\n"
        "def coin(prompts, completions, **columns):\n"
        "    return [float(len(text) % 2) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def judged(folders, scorer, *more, output, cache):
    listed = ",".join(map(str, folders))
    settings = ["stage=judge", f"judge.runs=[{listed}]", f"judge.scorer={scorer}", "judge.prompts=24", *more]
    return run_here(*settings, output=output, cache=cache)


def test_every_kind_of_run_is_judged_against_the_sft_policy(runs, tmp_path, shared_cache, capfd):
    record = judged(
        runs.values(), "{program: polite}", "judge.responses=3", output=tmp_path / "out", cache=shared_cache
    )
    result = record.read_result()
    assert set(result["judged"]) == {"plain", "told", "pairs", "adapted"}
    assert (result["responses"], result["prompts"]) == (3, 24)
    for found in result["judged"].values():
        shares = {name: found[name]["mean"] for name in ("wins", "ties", "losses", "win_rate")}
        assert shares["wins"] + shares["ties"] + shares["losses"] == pytest.approx(1)
        assert shares["win_rate"] == pytest.approx(shares["wins"] + shares["ties"] / 2)
        assert found["best_of"]["mean"] >= found["mean"]["mean"]
    assert result["sft"]["best_of"]["mean"] >= result["sft"]["mean"]["mean"]
    printed = capfd.readouterr().out
    assert "win rate" in printed
    assert "plain" in printed


def test_rewards_are_of_the_responses_recorded_and_the_best_is_of_several(runs, tmp_path, shared_cache):
    settings = ["judge.responses=2", "judge.prompts=8"]
    record = judged([runs["plain"]], "{function: judges:words}", *settings, output=tmp_path / "out", cache=shared_cache)
    rows = record.read_generations()
    assert len(rows) == 2 * 2 * 8  # of the SFT policy and of the run
    assert all(row["proxy/judge"] == len(row["response"].split()) for row in rows)
    sft, own = rows[:16], rows[16:]
    result = record.read_result()
    found = result["judged"]["plain"]
    assert result["sft"]["mean"]["mean"] == pytest.approx(sum(row["proxy/judge"] for row in sft) / 16)
    assert found["mean"]["mean"] == pytest.approx(sum(row["proxy/judge"] for row in own) / 16)
    best = [max(own[i]["proxy/judge"], own[8 + i]["proxy/judge"]) for i in range(8)]
    assert found["best_of"]["mean"] == pytest.approx(sum(best) / 8)
    pairs = [(own[8 * a + i], sft[8 * b + i]) for i in range(8) for a in range(2) for b in range(2)]
    wins = sum(one["proxy/judge"] > other["proxy/judge"] for one, other in pairs)
    assert found["wins"]["mean"] == pytest.approx(wins / len(pairs))
    # What is to be kept low is judged the other way round.
    lower = judged(
        [runs["plain"]],
        "{function: judges:words}",
        *settings,
        "judge.direction=minimize",
        output=tmp_path / "low",
        cache=shared_cache,
    ).read_result()["judged"]["plain"]
    assert lower["wins"]["mean"] == pytest.approx(found["losses"]["mean"])
    assert lower["ties"]["mean"] == pytest.approx(found["ties"]["mean"])


def test_a_judge_that_tells_nothing_apart_gives_ties_and_a_win_rate_of_a_half(runs, tmp_path, shared_cache):
    record = judged([runs["plain"]], "{function: judges:same}", output=tmp_path / "out", cache=shared_cache)
    found = record.read_result()["judged"]["plain"]
    assert (found["win_rate"]["mean"], found["ties"]["mean"], found["wins"]["mean"]) == (0.5, 1.0, 0.0)


def test_each_response_is_compared_with_each_of_the_others():
    scores, others = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([[1.0, 5.0], [2.0, 2.0], [0.0, 1.0]])
    by_hand = []
    for prompt in range(2):
        pairs = [(scores[a, prompt].item(), others[b, prompt].item()) for a in range(2) for b in range(3)]
        count = len(pairs)
        wins, ties = (sum(one > other for one, other in pairs), sum(one == other for one, other in pairs))
        by_hand.append([(wins + ties / 2) / count, wins / count, ties / count, (count - wins - ties) / count])
    found = compare(scores, others)
    torch.testing.assert_close(
        torch.stack([found[n] for n in ("win_rate", "wins", "ties", "losses")], 1), torch.tensor(by_hand)
    )


def test_a_judge_that_a_run_was_trained_on_is_refused(runs, tmp_path, shared_cache):
    with pytest.raises(UserError, match="trained on as 'helpful'"):
        judged([runs["plain"]], "{program: helpful}", output=tmp_path / "out", cache=shared_cache)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["judge.runs=[]", "judge.scorer={program: honest}"], "names no run"),
        (["judge.runs=[{plain},{plain}]", "judge.scorer={program: honest}"], "twice"),
        (["judge.runs=[{plain}]"], "names no judge"),
        (["judge.runs=[{plain}/checkpoints]", "judge.scorer={program: honest}"], "No run in"),
        (
            ["judge.runs=[{plain}]", "judge.scorer={program: honestt}"],
            "judge.scorer: the domain 'factworld' has no program 'honestt'",
        ),
        (["judge.runs=[{plain}]", "judge.scorer={rule: x}"], "judge.scorer holds none of program"),
        (
            ["judge.runs=[{plain}]", "judge.scorer={program: honest, function: x}"],
            "judge.scorer holds program and function",
        ),
        (["judge.runs=[{plain}]", "judge.scorer={program: honest}", "judge.responses=0"], "judge.responses=0"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_two_lines(settings, said, runs, tmp_path, shared_cache):
    filled = [one.replace("{plain}", str(runs["plain"])) for one in settings]
    with pytest.raises(UserError, match=said) as caught:
        run_here("stage=judge", *filled, output=tmp_path / "out", cache=shared_cache)
    assert "\n" not in caught.value.message + caught.value.hint


def test_the_result_is_read_back(runs, tmp_path, shared_cache):
    record = judged([runs["plain"]], "{program: polite}", output=tmp_path / "out", cache=shared_cache)
    written = json.loads((record.folder / "result.json").read_text())
    assert {key: value for key, value in written.items() if key != "sha256"} == record.read_result()
