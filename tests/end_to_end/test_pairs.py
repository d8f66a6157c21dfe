"""Learning from pairs: on the testbed and on text, interrupted and resumed, and what is refused."""

import json
import signal
import subprocess
import time

import pytest
import torch

from commands import FAST, command, composed, environment, learning, run_here
from pama_exp.assembly.setup import resolve
from pama_exp.comparison import load_runs
from pama_exp.config import schema
from pama_exp.errors import UserError
from pama_exp.policy.export import load_preference_map
from pama_exp.policy.loading import load_model
from pama_exp.stages.dpo import _pairs
from pama_exp.tracking.record import RunRecord
from texts import policy_folder, write_jsonl

QUICK = ["stage=dpo", "reward=gold", "dpo.steps=6", "dpo.batch_size=8", "dpo.examples=64"]
ONLINE = ["dpo.method=mo-odpo", "conditioning=embedding", "conditioning.grid=2", "objectives=[harmless,concise]"]


def test_dpo_learns_to_rank_held_out_pairs_and_is_an_operating_point(tmp_path, shared_cache):
    settings = ["objectives=concise", "dpo.steps=40", "dpo.learning_rate=3e-3", "dpo.examples=512"]
    record = run_here(*QUICK[:2], *settings, "dpo.batch_size=16", output=tmp_path / "run", cache=shared_cache)
    result = record.read_result()
    assert result["held_out_pairs"]["pairs"] == 512
    assert result["held_out_pairs"]["accuracy"] > 0.8
    concise = result["objectives"]["concise"]
    assert concise["after"]["gold"] != concise["before"]["gold"]
    # Every pair is two sequences, passed through policy and reference, and once back.
    bill = result["bill"]
    assert (bill["pairs"], bill["forwards"], bill["backwards"]) == (40 * 16, 4 * 40 * 16, 2 * 40 * 16)
    assert (bill["prompts"], bill["tokens"], bill["reward_calls"]) == (0, 0, 0)
    rows = [row for row in record.read_metrics() if "train/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["train/loss"] == pytest.approx(0.6931, abs=1e-3)  # the policy begins as its reference
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    run = load_runs([record.folder])[0]
    assert (run.status, run.solver, run.preference) == ("complete", "dpo", {"concise": 1.0})
    assert (record.folder / "policy" / "README.md").exists()
    assert not (record.folder / "policy" / "value_heads.safetensors").exists()
    seen = ["stage=evaluate", f"evaluate.run={record.folder}", "reward=gold", "objectives=concise"]
    evaluated = run_here(*seen, output=tmp_path / "seen", cache=shared_cache)
    assert evaluated.read_result()["objectives"]["concise"]["after"] == concise["after"]


def test_modpo_pays_for_its_margins_and_follows_its_weights(tmp_path, shared_cache):
    ends = {}
    for share in (0.9, 0.2):
        record = run_here(
            *QUICK,
            "dpo.method=modpo",
            f"solver.weights=[{share},{round(1 - share, 1)}]",
            output=tmp_path / f"{share}",
            cache=shared_cache,
        )
        assert record.read_result()["bill"]["reward_calls"] == 6 * 2 * 8  # of the other objective alone
        run = load_runs([record.folder])[0]
        assert run.solver == "modpo"
        assert run.preference["helpful"] == pytest.approx(share)
        ends[share] = load_model(record.folder / "policy").state_dict()
    assert any(not torch.equal(ends[0.9][name], ends[0.2][name]) for name in ends[0.9])


@pytest.mark.slow("two whole runs")
def test_modpo_with_all_weight_on_its_pairs_ends_where_dpo_does(tmp_path, shared_cache):
    states = [
        load_model(
            run_here(*QUICK, *settings, output=tmp_path / f"{len(settings)}", cache=shared_cache).folder / "policy"
        ).state_dict()
        for settings in (["dpo.method=modpo", "solver=linear", "solver.weights=[1,0]"], ["dpo.method=dpo"])
    ]
    for name, weight in states[0].items():
        torch.testing.assert_close(weight, states[1][name], atol=1e-6, rtol=0)


def test_one_policy_learns_all_preferences_from_pairs_of_its_own(tmp_path, shared_cache):
    record = run_here(*QUICK, *ONLINE, output=tmp_path / "run", cache=shared_cache)
    result = record.read_result()
    assert [tuple(p["preference"].values()) for p in result["points"]] == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    bill = result["bill"]
    assert bill["prompts"] == 6 * 8 * 2  # each prompt is answered twice
    assert bill["reward_calls"] == 2 * bill["prompts"]
    assert bill["backwards"] == 2 * bill["pairs"]
    ties = [row["pairs/ties"] for row in record.read_metrics() if "pairs/ties" in row]
    assert bill["pairs"] == round(sum(8 * (1 - share) for share in ties))
    weight, names = load_preference_map(record.folder / "policy")
    assert names == ["harmless", "concise"]
    assert weight.abs().max() > 0
    assert load_runs([record.folder])[0].solver == "mo-odpo-conditioned"
    seen = run_here(
        *["stage=evaluate", f"evaluate.run={record.folder}", "conditioning=embedding", "conditioning.grid=2"],
        *["reward=gold", "objectives=[harmless,concise]"],
        output=tmp_path / "seen",
        cache=shared_cache,
    )
    assert seen.read_result()["points"] == result["points"]


def test_what_is_to_be_kept_low_prefers_the_other_response(shared_cache):
    def learned(*overrides):
        settings = [*FAST, *QUICK, "objectives=concise", *overrides, f"cache_dir={shared_cache}", "output=unused"]
        setup = resolve(schema.typed(composed(*settings)))
        return _pairs(setup, setup.start.tokenizer, "test")

    up, down = learned(), learned("objectives.concise.direction=minimize")
    assert [(one.chosen, one.rejected) for one in up] == [(one.rejected, one.chosen) for one in down]


# ---- interrupted and resumed ------------------------------------------------------------------------------------------

LONG = {
    "modpo": ["dpo.method=modpo", "adapter=lora", "adapter.dropout=0.1"],
    "mo-odpo": ONLINE,
}


def long(method):
    return [*QUICK, *LONG[method], "dpo.steps=12", "dpo.checkpoint_every=3", "trainer.threads=1"]


MORE = pytest.mark.slow("another of the same processes that are stopped and started again")


@pytest.mark.slow("processes that are killed and started again")
@pytest.mark.parametrize(
    ("method", "signum"),
    [
        ("modpo", signal.SIGKILL),
        ("mo-odpo", signal.SIGTERM),
        pytest.param("modpo", signal.SIGTERM, marks=MORE),
        pytest.param("mo-odpo", signal.SIGKILL, marks=MORE),
    ],
)
def test_interrupted_and_run_again_is_bit_equal(method, signum, tmp_path, shared_cache):
    whole = run_here(*long(method), output=tmp_path / "whole", cache=shared_cache)
    output = tmp_path / "run"
    arguments = command(*FAST, *long(method), f"output={output}", f"cache_dir={shared_cache}")
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 200
    while not ((output / "metrics.jsonl").exists() and '"step": 5' in (output / "metrics.jsonl").read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signum)
    said, _ = process.communicate(timeout=100)
    if signum == signal.SIGTERM:
        assert process.returncode == 143, said
        status = RunRecord.open(output).read_status()
        assert status["state"] == "interrupted"
        assert sorted((output / "checkpoints").glob("*.ckpt"))[-1].name == f"step-{status['step']:08d}.ckpt"
    assert not (output / "result.json").exists()
    again = run_here(*long(method), output=output, cache=shared_cache)
    assert learning(again.read_metrics()) == learning(whole.read_metrics())
    assert again.read_generations() == whole.read_generations()
    ends = [load_model(record.folder / "policy").state_dict() for record in (again, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    bills = [record.read_result()["bill"] for record in (again, whole)]
    for name in ("pairs", "prompts", "tokens", "reward_calls", "forwards", "backwards"):
        assert bills[0][name] == bills[1][name]


# ---- text -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return policy_folder(tmp_path_factory.mktemp("policy"))


def on_pairs(path, policy, *more):
    return [
        *("stage=dpo", "data=file", f"data.path={path}", f"model.path={policy}", "rollout.sampling.max_new_tokens=8"),
        *("data.splits={train: 0.6, validation: 0.2, test: 0.2}", "dpo.batch_size=8", "dpo.max_length=40", *more),
    ]


def rows(count=120, **more):
    return [{"prompt": f"q {i} ", "chosen": "good" + "!" * (i % 3), "rejected": "bad", **more} for i in range(count)]


def test_pairs_of_text_need_no_scorer(tmp_path, policy):
    path = write_jsonl(tmp_path / "pairs.jsonl", rows())
    settings = on_pairs(path, policy, "dpo.steps=30", "dpo.learning_rate=3e-3")
    record = run_here(*settings, output=tmp_path / "run", cache=tmp_path / "cache")
    result = record.read_result()
    assert result["held_out_pairs"]["accuracy"] > 0.95
    assert result["held_out_pairs"]["loss"] < 0.5
    assert "objectives" not in result
    assert load_runs([record.folder])[0].status == "complete"
    assert "preference pairs" in (record.folder / "policy" / "README.md").read_text()
    learned, base = (load_model(folder).state_dict() for folder in (record.folder / "policy", policy))
    assert learned.keys() == base.keys()


def test_modpo_on_text_scores_the_other_objective(tmp_path, policy, monkeypatch):
    (tmp_path / "pair_scores.py").write_text(
        "def short(prompts, completions, **columns):\n"
        "    assert 'topic' in columns and all(prompt.startswith('q ') for prompt in prompts)\n"
        "    return [-float(len(text)) for text in completions]\n"
        "def never(prompts, completions, **columns):\n"
        "    return [1.0 if text.startswith('good') else 0.0 for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = write_jsonl(tmp_path / "pairs.jsonl", rows(topic="t"))
    chosen = ["dpo.method=modpo", "dpo.steps=4", "training.batch_size=8", "training.mini_batch_size=8"]
    for name, function in (("helpful", "never"), ("concise", "short")):
        chosen += [f"~objectives.{name}.scorers", f"objectives.{name}.range=null"]
        chosen.append(f"+objectives.{name}.scorers={{any: {{function: 'pair_scores:{function}'}}}}")
    record = run_here(*on_pairs(path, policy, *chosen), output=tmp_path / "run", cache=tmp_path / "cache")
    result = record.read_result()
    assert result["bill"]["reward_calls"] == 4 * 2 * 8
    assert result["objectives"]["concise"]["after"]["proxy"] < 0


BAD = {
    "identical": ({"chosen": "same", "rejected": "same"}, "its two responses are the same"),
    "empty": ({"rejected": " "}, "a response is empty"),
    "null": ({"rejected": None}, "a response is empty"),
    "long": ({"chosen": "x" * 60}, "too long"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_pair_of_a_table_is_refused_by_its_row_or_skipped(bad, tmp_path, policy, capfd):
    table = rows()
    whole = on_pairs(write_jsonl(tmp_path / "whole.jsonl", table), policy, f"cache_dir={tmp_path / 'cache'}")
    learned = resolve(schema.typed(composed(*FAST, *whole, "output=unused"))).task.texts("train")
    row = next(i for i, one in enumerate(table) if one["prompt"] in learned)
    table[row] |= BAD[bad][0]
    settings = on_pairs(write_jsonl(tmp_path / "pairs.jsonl", table), policy, "dpo.steps=2")
    with pytest.raises(UserError) as caught:
        run_here(*settings, output=tmp_path / "run", cache=tmp_path / "cache")
    assert f"row {row + 1} of the table: {BAD[bad][1]}" in caught.value.message
    assert "dpo.bad_pairs=skip" in caught.value.hint
    run_here(*settings, "dpo.bad_pairs=skip", output=tmp_path / "skipped", cache=tmp_path / "cache")
    assert "are left out" in capfd.readouterr().out


def test_a_missing_column_and_pairs_without_prompts_are_named(tmp_path, policy):
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": f"q {i}", "chosen": "a"} for i in range(60)])
    with pytest.raises(UserError, match=r"data\.rejected=rejected: the data has no such column"):
        run_here(*on_pairs(path, policy), output=tmp_path / "run", cache=tmp_path / "cache")
    whole = on_pairs(write_jsonl(tmp_path / "w.jsonl", rows()), policy, "data.format=whole")
    with pytest.raises(UserError, match="no prompt to answer"):
        run_here(*whole, output=tmp_path / "whole", cache=tmp_path / "cache")


REFUSED = [
    (["dpo.objective=helpfull"], ["dpo.objective=helpfull", "helpful"]),
    (["dpo.method=modpo", "solver=linear", "solver.weights=[0,1]"], ["divides by the weight of 'helpful'", "above 0"]),
    (["dpo.method=modpo", "dpo.objective=concise", "solver=linear", "solver.weights=[1,0]"], ["weight of 'concise'"]),
    (["conditioning=embedding"], ["learns one preference", "mo-odpo"]),
    (["dpo.method=mo-odpo", "objectives.helpful.normaliser=running"], ["normaliser=running moves them"]),
    (["dpo.method=ppo"], ["dpo.method=ppo", "modpo"]),
    (["dpo.beta=0"], ["dpo.beta=0"]),
    (["objectives=readability"], ["no pairs of 'readability'", "mo-odpo"]),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
def test_what_cannot_be_learned_from_pairs_is_refused_before_any_work(overrides, said):
    with pytest.raises(UserError) as caught:
        resolve(schema.typed(composed(*FAST, *QUICK, *overrides, "cache_dir=unused", "output=unused")))
    assert "\n" not in caught.value.message + caught.value.hint
    for words in said:
        assert words in str(caught.value)


def test_other_stages_runs_know_nothing_of_these_settings(tmp_path, shared_cache):
    """So a run that was begun before there were such settings is still the same, in the same folder."""
    plain = schema.typed(composed("solver=linear")).output
    assert plain == schema.typed(composed("solver=linear", "dpo.steps=3", "judge.responses=2")).output
    assert plain != schema.typed(composed("solver=linear", "stage=dpo")).output
    record = run_here("stage=sft", "reward=gold", output=tmp_path / "run", cache=shared_cache)
    assert not {"dpo", "mod", "judge"} & set(record.read_config())
    kept = json.loads(json.dumps(record.read_config()))
    assert "soup" in kept
