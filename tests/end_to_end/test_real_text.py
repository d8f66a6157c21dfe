"""Real text end to end: a policy's local folder, a local table, a Python function as objective."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from commands import composed, learning, run_here
from pama_exp.assembly.task import build_task
from pama_exp.config.schema import typed
from pama_exp.data.prompts import collate
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model, load_tokenizer, save
from pama_exp.rewards.classifier import ClassifierScorer
from texts import TEMPLATE, policy_folder, write_jsonl

SCORES = """
def vowels(prompts, completions, topic, **columns):
    assert "prompt" not in columns
    return [float(sum(letter in "aeiou" for letter in text)) + len(name) for text, name in zip(completions, topic)]

def short(prompts, completions, **columns):
    return [-float(len(text)) for text in completions]
"""
QUICK = [
    "rollout.sampling.max_new_tokens=8",
    "data.splits={train: 0.6, validation: 0.2, test: 0.2}",
    "data.evaluation_prompts=8",
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return policy_folder(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def scores(tmp_path, monkeypatch):
    (tmp_path / "text_scores.py").write_text(SCORES)
    monkeypatch.syspath_prepend(tmp_path)
    objectives = []
    for name, function in (("helpful", "vowels"), ("concise", "short")):
        objectives.append(f"~objectives.{name}.scorers")
        objectives.append(f"+objectives.{name}.scorers={{any: {{function: 'text_scores:{function}'}}}}")
        objectives.append(f"objectives.{name}.range=null")
    return objectives


def questions(path, count=120):
    return write_jsonl(path, [{"prompt": f"q {i}", "topic": "ab" * (i % 4)} for i in range(count)])


def on_file(path, policy, *overrides):
    return ["data=file", f"data.path={path}", f"model.path={policy}", *QUICK, *overrides]


def test_align_runs_on_a_local_table_and_leaves_a_whole_record(tmp_path, policy, scores):
    path = questions(tmp_path / "questions.jsonl")
    records = [
        run_here(*on_file(path, policy, *scores), output=tmp_path / name, cache=tmp_path / "cache") for name in "ab"
    ]
    result = records[0].read_result()
    json.dumps(result, allow_nan=False)
    assert result["status"] == "complete"
    for means in result["objectives"].values():
        assert means["before"]["gold"] is means["after"]["gold"] is None
        assert isinstance(means["after"]["proxy"], float)
    assert result["true_hypervolume_share"] == result["true_front"] == {"before": None, "after": None}
    rows = [row for row in records[0].read_generations() if row.get("split") == "test"]
    assert {row["prompt"] for row in rows} <= {f"q {i}" for i in range(120)}
    topics = {f"q {i}": 2 * (i % 4) for i in range(120)}
    for row in rows:  # each score is of its own prompt's columns
        assert row["proxy/helpful"] == sum(letter in "aeiou" for letter in row["response"]) + topics[row["prompt"]]
    assert (records[0].folder / "policy" / "config.json").exists()
    assert (records[0].folder / "front.png").exists()
    assert learning(records[0].read_metrics()) == learning(records[1].read_metrics())


def test_a_run_whose_data_file_has_changed_is_neither_finished_nor_gone_on_with(tmp_path, policy, scores):
    path = questions(tmp_path / "questions.jsonl")
    before = path.read_bytes()

    def run():
        return run_here(*on_file(path, policy, *scores), output=tmp_path / "run", cache=tmp_path / "cache")

    result = run().folder / "result.json"
    said, written = result.read_text(), result.stat().st_mtime_ns
    path.write_bytes(before.replace(b"q 7", b"q seven"))
    with pytest.raises(UserError, match=r"other data: .*questions\.jsonl has changed since"):
        run()
    path.write_bytes(before)
    assert run().folder / "result.json" == result
    assert (result.read_text(), result.stat().st_mtime_ns) == (said, written)  # it was not run again
    result.unlink()  # as if it had been interrupted: its checkpoint is there
    path.write_bytes(before + b'{"prompt": "q new", "topic": ""}\n')
    with pytest.raises(UserError, match="has changed since"):
        run()


def test_a_run_on_text_is_evaluated_on_the_same_prompts_again(tmp_path, policy, scores):
    path = questions(tmp_path / "questions.jsonl")
    base = on_file(path, policy, "advantage=group", *scores)
    run = run_here(*base, output=tmp_path / "run", cache=tmp_path / "cache")
    again = run_here(
        *base,
        "stage=evaluate",
        f"evaluate.run={run.folder}",
        "evaluate.prompts=8",
        "model.path=null",
        output=tmp_path / "again",
        cache=tmp_path / "cache",
    )
    after = {name: means["after"] for name, means in run.read_result()["objectives"].items()}
    assert {name: means["after"] for name, means in again.read_result()["objectives"].items()} == after


def test_hh_rlhf_from_a_local_copy_takes_the_subsets_asked_for(tmp_path, policy, scores):
    for folder, name in (("helpful-base", "u"), ("helpful-online", "w"), ("harmless-base", "v")):
        dialogue = f"\n\nHuman: {name}%d\n\nAssistant: %s"
        rows = [{"chosen": dialogue % (i, "yes"), "rejected": dialogue % (i, "no")} for i in range(60)]
        write_jsonl(tmp_path / "hh" / folder / "train.jsonl.gz", rows)
    seen = {}
    scores = [override.replace("vowels", "short") for override in scores]
    for subsets in ("[helpful]", "[helpful,harmless]"):
        record = run_here(
            "data=hh-rlhf",
            f"data.path={tmp_path / 'hh'}",
            f"data.subsets={subsets}",
            f"model.path={policy}",
            "stage=evaluate",
            "evaluate.prompts=24",
            *QUICK,
            *scores,
            output=tmp_path / str(len(seen)),
            cache=tmp_path / "cache",
        )
        prompts = [row["prompt"] for row in record.read_generations()]
        assert all(prompt.startswith("\n\nHuman: ") and prompt.endswith("\n\nAssistant:") for prompt in prompts)
        seen[subsets] = {prompt[9] for prompt in prompts}
    assert seen == {"[helpful]": set("uw"), "[helpful,harmless]": set("uvw")}


@pytest.mark.parametrize("files", ["[]", "[questions.jsonl]"])
def test_subsets_that_no_pattern_of_files_names_are_refused(files, tmp_path, policy, scores):
    path = questions(tmp_path / "questions.jsonl")
    changed = {"data.path": tmp_path, "data.files": files, "data.subsets": "[helpful]"}
    words = [word for word in on_file(path, policy, *scores) if word.split("=", 1)[0] not in changed]
    with pytest.raises(UserError, match=r"data\.subsets=\['?helpful'?\] has no effect") as caught:
        run_here(*words, *(f"{key}={value}" for key, value in changed.items()), output=tmp_path / "run", cache=tmp_path)
    assert "{subset}" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "files", "column", "rows"),
    [
        ("imdb", ["plain_text/train-0.parquet", "plain_text/test-0.parquet"], "text", {"label": 1}),
        ("tldr", ["data/train-0.parquet", "data/validation-0.parquet"], "prompt", {"completion": " short."}),
    ],
)
def test_published_layouts_are_read(option, files, column, rows, tmp_path, policy):
    bodies = [f"{name} {i:02d} " + "went on and on " * 20 + "TL;DR:" for name in ("a", "b") for i in range(60)]
    for file, part in zip(files, (bodies[:60], bodies[60:]), strict=True):
        table = {column: part, **{name: [value] * 60 for name, value in rows.items()}}
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / file)
    (tmp_path / files[0]).with_name("unsupervised-0.txt").write_text("not read")
    overrides = [f"data={option}", f"data.path={tmp_path}", f"model.path={policy}", f"cache_dir={tmp_path / 'cache'}"]
    task = build_task(
        typed(composed(*overrides, "data.prefix_tokens=[6,9]") if option == "imdb" else composed(*overrides))
    )
    texts = [text for split in ("train", "validation", "test") for text in task.texts(split)]
    if option == "tldr":
        assert sorted(texts) == bodies
        assert set(task.columns("train")) == {"completion"}
    else:
        assert {len(text) for text in texts} == {6, 7, 8, 9}
        assert all(any(body.startswith(text) for body in bodies) for text in texts)
        assert set(task.columns("train")) == {"text", "label"}


FIT = ["evaluate.prompts=64", "data.splits={train: 0.6, validation: 0.2, test: 0.2}"]


def test_sft_learns_its_demonstrations_and_saves_the_policy(tmp_path, policy):
    rows = [{"prompt": f"say {i % 50}: ", "completion": "abcabc"} for i in range(100)]
    path = write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    record = run_here(
        "stage=sft",
        *on_file(path, policy, *FIT, "sft.steps=60", "sft.learning_rate=1e-2"),
        output=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    result = record.read_result()
    assert result["held_out_loss"]["before"] > 3.0
    assert result["held_out_loss"]["after"] < 0.5
    folder = Path(result["policy"])
    assert folder == record.folder / "policy"
    assert "Fine-tuned on" in (folder / "README.md").read_text()
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ids = tokenizer("say 7: ", return_tensors="pt")
    response = model.generate(**ids, max_new_tokens=10, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(response) == "abcabc<eos>"


def test_sft_with_packing_learns_too_and_with_an_adapter_trains_the_adapter_alone(tmp_path, policy):
    rows = [{"prompt": f"say {i % 50}: ", "completion": "abcabc"} for i in range(100)]
    path = write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    base = load_model(policy).state_dict()
    for name, chosen in (("packed", ["sft.packing=true"]), ("adapted", ["adapter=lora", "adapter.rank=8"])):
        record = run_here(
            "stage=sft",
            *on_file(path, policy, *FIT, "sft.steps=60", "sft.learning_rate=1e-2", *chosen),
            output=tmp_path / name,
            cache=tmp_path / "cache",
        )
        loss = record.read_result()["held_out_loss"]
        # An adapter leaves the random output layer as it is, which bounds what it can learn.
        assert loss["after"] < {"packed": 0.1, "adapted": 0.95}[name] * loss["before"]
        learned = load_model(record.folder / "policy").state_dict()
        assert learned.keys() == base.keys()
        is_base = [torch.equal(learned[key], base[key]) for key in base if "wte" in key or "ln_" in key]
        assert all(is_base) == (name == "adapted")


def test_conversations_are_written_in_the_template_only_where_the_model_says_so(tmp_path, policy, scores):
    words = load_tokenizer(policy)
    words.chat_template = TEMPLATE
    templated = tmp_path / "templated"
    save(load_model(policy), words, templated)
    rows = [{"talk": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}]} for i in range(90)]
    path = write_jsonl(tmp_path / "talks.jsonl", rows)
    for choice, start in (("tokenizer", "<user>q"), ("none", "\n\nHuman: q")):
        chosen = ["model=hf", "data.format=messages", "data.column=talk", f"model.chat_template={choice}"]
        task = build_task(typed(composed(*on_file(path, templated, *chosen), f"cache_dir={tmp_path / 'cache'}")))
        assert all(text.startswith(start) for text in task.texts("train"))
    # A plain prompt is a user's turn; other formats are not prompts to put into one.
    plain = write_jsonl(tmp_path / "plain.jsonl", [{"prompt": f"q {i}", "completion": "a"} for i in range(90)])
    for choice, kind, start, end in (
        ("tokenizer", "prompt", "<user>q", "<assistant>"),
        ("none", "prompt", "q ", ""),
        ("tokenizer", "whole", "q ", ""),
    ):
        chosen = ["model=hf", f"data.format={kind}", f"model.chat_template={choice}"]
        task = build_task(typed(composed(*on_file(plain, templated, *chosen), f"cache_dir={tmp_path / 'cache'}")))
        texts = [text for split in ("train", "validation", "test") for text in task.texts(split)]
        assert {text.removesuffix(end)[len(start) :].strip() for text in texts} == {str(i) for i in range(90)}
        assert all(text.startswith(start) and text.endswith(end) for text in texts)
        assert task.data.demonstrations("train")[0] == (task.texts("train")[0], "a")


def test_scorers_and_people_read_prompts_without_the_policys_template(tmp_path, policy, scores):
    words = load_tokenizer(policy)
    words.chat_template = TEMPLATE
    templated = tmp_path / "templated"
    save(load_model(policy), words, templated)
    seen = tmp_path / "seen.txt"
    (tmp_path / "text_listens.py").write_text(
        f"def listen(prompts, completions, **_):\n"
        f"    with open({str(seen)!r}, 'a') as file:\n        file.write('|'.join([*prompts, '']))\n"
        f"    return [0.0] * len(prompts)\n"
    )
    listening = "+objectives.concise.scorers={any: {function: 'text_listens:listen'}}"
    chosen = ["model=hf", "model.chat_template=tokenizer", *scores, listening, "training.steps=1"]
    path = questions(tmp_path / "questions.jsonl")
    record = run_here(*on_file(path, templated, *chosen), output=tmp_path / "run", cache=tmp_path / "cache")
    plain = {f"q {i}" for i in range(120)}
    assert set(seen.read_text().split("|")[:-1]) <= plain
    assert {row["prompt"] for row in record.read_generations()} <= plain


def test_an_objective_that_text_cannot_be_scored_by_names_those_that_can(tmp_path, policy):
    path = questions(tmp_path / "questions.jsonl")
    with pytest.raises(UserError, match="'polite' has no scorer") as caught:
        run_here(*on_file(path, policy), "objectives=[polite]", output=tmp_path / "run", cache=tmp_path / "cache")
    for name in ("helpful", "readability", "http"):
        assert name in caught.value.hint
    assert "honest" not in caught.value.hint


def test_sft_leaves_out_what_is_too_long_and_says_if_that_is_all(tmp_path, policy):
    path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"p {i}", "completion": "x" * 200} for i in range(60)])
    with pytest.raises(UserError, match="longer than 96 tokens"):
        run_here("stage=sft", *on_file(path, policy, *FIT), output=tmp_path / "run", cache=tmp_path / "cache")


def test_a_reward_model_ranks_separable_pairs_and_is_a_scorer(tmp_path, policy):
    rows = [
        {"prompt": f"q {i}", "chosen": "good" + "!" * (i % 3), "rejected": "bad" + "!" * (i % 2)} for i in range(120)
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    record = run_here(
        "stage=reward_model",
        *on_file(path, policy, *FIT, "reward_model.steps=40", "reward_model.learning_rate=5e-3"),
        output=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    found = record.read_result()["reward_models"]["preferences"]
    assert found["held_out_accuracy"] > 0.95
    assert found["pairs"] > 10
    folder = Path(found["folder"])
    assert "preference pairs" in (folder / "README.md").read_text()
    prompts = collate(load_tokenizer(folder), ["q 500", "q 501"])
    scorer = ClassifierScorer(folder)
    assert torch.all(scorer.score(prompts, ["good", "good!"]) > scorer.score(prompts, ["bad", "bad!"]))


@pytest.mark.parametrize("stage", ["sft", "reward_model"])
def test_supervised_stages_need_their_columns(stage, tmp_path, policy):
    path = questions(tmp_path / "questions.jsonl")
    with pytest.raises(UserError, match="no such column") as caught:
        run_here(f"stage={stage}", *on_file(path, policy), output=tmp_path / "run", cache=tmp_path / "cache")
    assert "prompt, topic" in caught.value.hint


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.path=null"], ["model=micro", "tokenizer", "model.path=FOLDER"]),
        (["data.column=promt"], ["promt", "prompt, topic"]),
        (["data.format=chat"], ["data.format=chat", "transcript"]),
        (["data.path=/nowhere.jsonl"], ["/nowhere.jsonl"]),
        (["data.max_prompt_tokens=2"], ["none is left", "max_prompt_tokens=2"]),
        (["data.prefix_tokens=[3]"], ["prefix_tokens=[3]"]),
        (["rollout.sampling.max_new_tokens=95"], ["max_new_tokens=95", "96", "at most 91"]),
        (["+objectives.helpful.scorers.text.program=helpful"], ["text", "no program 'helpful'"]),
        (["data=imdb", "data.path=null"], ["stanfordnlp/imdb", "hf download stanfordnlp/imdb --repo-type dataset"]),
        (["data=hub"], ["neither data.path nor data.id"]),
        (["data=tldr", "data.path=null"], ["trl-lib/tldr", "hf download"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_named_before_any_work(overrides, said, tmp_path, policy, scores):
    path = questions(tmp_path / "questions.jsonl")
    base = on_file(path, policy, *scores)
    if overrides[0] in ("data=imdb", "data=hub", "data=tldr"):
        base = [word for word in base if not word.startswith(("data=", "data.path="))]
    with pytest.raises(UserError) as caught:
        run_here(*base, *overrides, output=tmp_path / "run", cache=tmp_path / "cache")
    assert "\n" not in caught.value.message + caught.value.hint
    for words in said:
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_prompt_beyond_the_positions_is_named(tmp_path, policy, scores):
    path = write_jsonl(tmp_path / "long.jsonl", [{"prompt": "x" * (50 + i), "topic": ""} for i in range(60)])
    with pytest.raises(UserError, match="96 positions") as caught:
        run_here(*on_file(path, policy, *scores), output=tmp_path / "run", cache=tmp_path / "cache")
    assert "data.max_prompt_tokens" in caught.value.hint
