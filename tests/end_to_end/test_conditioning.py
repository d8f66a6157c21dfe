"""One policy for all preferences: trained, evaluated at a grid, resumed, exported, compared, and what cannot be one."""

import copy
import json

import pytest
import torch
from torch.utils.data import DataLoader

from commands import FAST, composed, run_here
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import resolve
from pama_exp.cli import execute
from pama_exp.config import schema
from pama_exp.errors import UserError
from pama_exp.policy.export import load_preference_map
from pama_exp.training.callbacks import Checkpoints, RandomStates
from pama_exp.training.fitting import make_trainer
from records import BILL, write_run
from texts import policy_folder, write_jsonl

LORA = ["adapter=lora", "adapter.export=adapter", "adapter.rank=4"]
TOLD = ["conditioning=embedding", "solver=linear", "reward=gold", "objectives=[harmless,concise]"]
QUICK = [*FAST, *TOLD, "training.diagnostics_every=0", "logger=none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_cache):
    return run_here(*TOLD, "conditioning.grid=2", output=tmp_path_factory.mktemp("told") / "run", cache=shared_cache)


def built(*overrides, cache):
    execute.quieten()
    config = schema.typed(composed(*QUICK, *overrides, f"cache_dir={cache}"))
    setup = resolve(config)
    return setup, build_alignment(setup, setup.task.start_policy())


def trained(module, config, steps, callbacks=(), **options):
    make_trainer(config.trainer, callbacks, []).fit(module, DataLoader(range(steps), batch_size=None), **options)


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.policy.parameters()])


def test_one_training_gives_a_front(run, shared_cache):
    result = run.read_result()
    assert [tuple(point["preference"].values()) for point in result["points"]] == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    assert result["bill"]["prompts"] == 3 * 16
    # The even point is what stands for the run where one point is asked for.
    even = result["points"][1]
    assert even["objectives"] == {name: means["after"] for name, means in result["objectives"].items()}
    assert even["true_hypervolume_share"] == result["true_hypervolume_share"]["after"]
    assert result["points"][0]["objectives"] != result["points"][2]["objectives"]
    rows = [row for row in run.read_generations() if row.get("split") == "grid"]
    assert {row["preference/harmless"] for row in rows} == {0.0, 0.5, 1.0}


def test_before_training_every_preference_has_the_sft_policys_answers(shared_cache):
    setup, module = built(cache=shared_cache)
    stream = held_out(setup, module, "test", 16)
    answers = [module.evaluate_policy(stream.with_preference(asked), 0).responses for asked in ([1.0, 0.0], [0.3, 0.7])]
    plain = built("conditioning=none", cache=shared_cache)
    assert answers[0] == answers[1] == plain[1].evaluate_policy(held_out(*plain, "test", 16), 0).responses
    experience = module._collect()
    assert module.metrics["kl/response"] == pytest.approx(0.0, abs=1e-4)
    ratio = (module.policy.score_rollout(experience.rollout).log_probs - experience.old_log_probs).exp()
    assert (ratio - 1).abs().max() < 1e-4
    # The preferences of the step weigh its advantages: w¹ A¹ + w² A².
    asked = experience.rollout.prompts.preferences
    assert len(torch.unique(asked, dim=0)) == len(asked)
    torch.testing.assert_close(experience.combined[0], torch.einsum("bn,nbt->bt", asked, experience.advantages))


@pytest.mark.slow("whole runs")
@pytest.mark.parametrize(
    "overrides",
    [[], ["adapter=lora", "rollout=hf", "advantage=group"], ["conditioning=adapter", *LORA]],
    ids=["plain", "lora-hf-group", "adapter"],
)
def test_a_resumed_run_ends_where_the_whole_one_does(overrides, shared_cache, tmp_path):
    setup, whole = built(*overrides, "training.micro_batch_tokens=400", cache=shared_cache)
    before = copy.deepcopy(whole.policy.preference_map.weight)
    resumed = built(*overrides, "training.micro_batch_tokens=400", cache=shared_cache)[1]
    trained(whole, setup.config, 3, [RandomStates(), Checkpoints(tmp_path, every=2, steps=3)])
    trained(resumed, setup.config, 3, [RandomStates()], ckpt_path=tmp_path / "step-00000002.ckpt", weights_only=False)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert (whole.policy.preference_map.weight - before).abs().max() > 1e-3


def test_an_exported_policy_attains_the_same_points(run, shared_cache, tmp_path):
    weight, names = load_preference_map(run.folder / "policy")
    assert names == ["harmless", "concise"]
    assert weight.abs().max() > 0
    assert "preference_map.safetensors" in (run.folder / "policy" / "README.md").read_text()
    settings = [*TOLD, "conditioning.grid=2", "stage=evaluate", f"evaluate.run={run.folder}"]
    evaluated = run_here(*settings, output=tmp_path / "evaluated", cache=shared_cache)
    assert evaluated.read_result()["points"] == run.read_result()["points"]


def test_an_exported_policy_is_not_taken_for_another(run, shared_cache, tmp_path):
    settings = [*TOLD, "stage=evaluate", f"evaluate.run={run.folder}"]
    for changed, said in (
        ("conditioning=none", "Add conditioning=embedding"),
        ("objectives=[concise,harmless]", r"objectives=\[harmless,concise\]"),
    ):
        chosen = [one for one in settings if one.partition("=")[0] != changed.partition("=")[0]]
        with pytest.raises(UserError, match=said):
            run_here(*chosen, changed, output=tmp_path / said[:3], cache=shared_cache)


@pytest.mark.slow("whole runs")
def test_a_policy_told_in_its_adapter_is_trained_exported_and_evaluated(shared_cache, tmp_path):
    told = [*TOLD[1:], "conditioning=adapter", "conditioning.grid=2"]
    rates = ["training.learning_rate=5e-2", "conditioning.learning_rate=3.0"]  # three steps have to be heard
    trained = run_here(*told, *LORA, *rates, output=tmp_path / "run", cache=shared_cache)
    result = trained.read_result()
    assert result["points"][0]["objectives"] != result["points"][2]["objectives"]
    assert result["points"][1]["objectives"] == {name: m["after"] for name, m in result["objectives"].items()}
    folder = trained.folder / "policy"
    assert {"adapter_config.json", "preference_gates.safetensors"} <= {path.name for path in folder.iterdir()}
    assert "preference_gates.safetensors" in (folder / "README.md").read_text()
    seen = ["stage=evaluate", f"evaluate.run={trained.folder}"]
    evaluated = run_here(*told, *seen, output=tmp_path / "seen", cache=shared_cache)
    assert evaluated.read_result()["points"] == result["points"]
    other = [one for one in told if not one.startswith("conditioning=")]
    with pytest.raises(UserError, match=r"conditioning\.name|conditioning=adapter"):
        run_here(*other, "conditioning=embedding", *seen, output=tmp_path / "other", cache=shared_cache)


def test_its_front_is_compared_with_a_sweeps(run, shared_cache, tmp_path):
    plain = [*FAST, *(one for one in TOLD if not one.startswith("conditioning"))]
    for share in (0.2, 0.5):
        weights = f"solver.weights=[{share},{1 - share}]"
        write_run(tmp_path / "runs" / f"{share}", *plain, weights, after={"harmless": share, "concise": 1 - share})
    runs = f"compare.runs=[{tmp_path / 'runs'},{run.folder}]"
    done = run_here("stage=compare", runs, output=tmp_path / "comparison", cache=shared_cache)
    content = json.loads((done.folder / "comparison.json").read_text())
    fronts = {front["family"]: front for front in content["fronts"]}
    assert set(fronts) == {"linear", "linear-conditioned"}
    assert content["controlled"]
    assert fronts["linear"]["bill"]["prompts"] == 2 * BILL["prompts"]
    front, points = fronts["linear-conditioned"], run.read_result()["points"]
    assert front["bill"]["prompts"] == 3 * 16
    assert front["points"] == [[p["objectives"][name]["gold"] for name in content["objectives"]] for p in points]
    assert front["measures"]["share"]["mean"] > 0


def test_what_is_told_nothing_has_the_folder_and_the_configuration_it_always_had(tmp_path, shared_cache):
    def output(*overrides):
        return schema.typed(composed(*overrides)).output

    plain = output("solver=linear")
    assert plain == output("solver=linear", "conditioning=none")
    assert "-linear-s0-" in plain
    assert "-linear-conditioned-s0-" in output("solver=linear", "conditioning=embedding")
    record = run_here("stage=sft", "reward=gold", output=tmp_path / "run", cache=shared_cache)
    assert "conditioning" not in record.read_config()  # a run begun before there was such a setting goes on


REFUSED = [
    (["solver=mgda"], ["mgda", "linear", "pama", "tchebycheff", "gdpo"]),
    (["solver=p-gapo"], ["p-gapo", "linear"]),
    (["solver=pama", "solver.granularity=batch"], ["pama as it is set", "by token or by sequence"]),
    (["objectives=[helpful]"], ["one objective"]),
    (["conditioning.concentration=0"], ["conditioning.concentration=0"]),
    (["conditioning.grid=0"], ["conditioning.grid=0"]),
    (["rollout=vllm"], ["rollout=fast"]),
    (["conditioning=prompt"], ["no words for", "conditioning=embedding"]),
    (["conditioning=prompt", "conditioning.grid=3"], ["conditioning.levels=20", "conditioning.grid=3"]),
    (["conditioning=prompt", "conditioning.item='{name}'"], ["conditioning.item"]),
    (["conditioning=prompt", "+model.chat_template=tokenizer"], ["chat template", "conditioning=embedding"]),
    (["conditioning=adapter"], ["no adapter to act in", "adapter=lora"]),
    (["conditioning=adapter", "adapter=lora"], ["adapter.export=adapter"]),
    (["conditioning=adapter", *LORA, "rollout=vllm"], ["rollout=fast"]),
    (["conditioning.name=told"], ["conditioning.name=told", "embedding"]),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
def test_what_cannot_be_conditioned_is_refused_in_two_lines(overrides, said):
    with pytest.raises(UserError) as caught:
        resolve(schema.typed(composed(*QUICK, *overrides, "cache_dir=unused")))
    assert "\n" not in caught.value.message + caught.value.hint
    for word in said:
        assert word in str(caught.value)


def test_a_preference_is_written_before_the_prompt_of_text(tmp_path, monkeypatch):
    (tmp_path / "written_scores.py").write_text(
        "def vowels(prompts, completions, **columns):\n"
        "    assert all(prompt.startswith('q ') for prompt in prompts), prompts\n"
        "    return [float(sum(letter in 'aeiou' for letter in text)) for text in completions]\n"
        "def short(prompts, completions, **columns):\n"
        "    return [-float(len(text)) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": f"q {i}"} for i in range(120)])
    overrides = ["data=file", f"data.path={path}", f"model.path={policy_folder(tmp_path / 'policy')}"]
    overrides += ["rollout.sampling.max_new_tokens=8", "data.splits={train: 0.6, validation: 0.2, test: 0.2}"]
    overrides += ["data.evaluation_prompts=4", "solver=linear", "conditioning=prompt", "conditioning.grid=2"]
    for name, function in (("helpful", "vowels"), ("concise", "short")):
        overrides += [f"~objectives.{name}.scorers", f"objectives.{name}.range=null"]
        overrides.append(f"+objectives.{name}.scorers={{any: {{function: 'written_scores:{function}'}}}}")
    record = run_here(*overrides, output=tmp_path / "run", cache=tmp_path / "cache")
    assert len(record.read_result()["points"]) == 3
    assert not (record.folder / "policy" / "preference_map.safetensors").exists()
    config = schema.typed(composed(*FAST, *overrides, f"cache_dir={tmp_path / 'cache'}", "output=unused"))
    setup = resolve(config)
    module = build_alignment(setup, setup.task.start_policy())
    batch = module.prompts.batch(0)
    share, other = (f"{round(share, 6):g}" for share in batch.preferences[0].tolist())
    read = module.prompts.tokenizer.decode(batch.input_ids[0][batch.mask[0]])
    assert read == f"helpful: {share}, concise: {other}\n{batch.texts[0]}"


@pytest.mark.slow("trains until something is learned")
def test_the_preference_decides_the_trade_off(tmp_path, shared_cache):
    """A real run, if a short one: told to be polite it is, and told to be concise it is, at the cost of the other."""
    settings = ["experiment=study", "objectives=[polite,concise]", "conditioning.grid=2", "data.evaluation_prompts=64"]
    settings += ["sft.steps=60", "sft.examples=4096", "sft.batch_size=64", "training.diagnostics_every=0"]
    settings += ["training.steps=10", "training.batch_size=64", "training.mini_batch_size=64"]
    told = ["solver=linear", "conditioning=embedding", "reward=gold"]
    record = run_here(*settings, *told, output=tmp_path / "run", cache=shared_cache)
    points = record.read_result()["points"]
    concise, even, polite = ({name: p["objectives"][name]["gold"] for name in ("polite", "concise")} for p in points)
    # 0.01, 0.31, 0.48 and 0.98, 0.88, 0.79 where this was written.
    assert polite["polite"] > even["polite"] > concise["polite"]
    assert polite["concise"] < even["concise"] < concise["concise"]
    assert polite["polite"] - concise["polite"] > 0.3
    assert concise["concise"] - polite["concise"] > 0.05
