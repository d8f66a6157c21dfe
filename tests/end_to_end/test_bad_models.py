"""Models and reward models that will not do: each is named, with the fix, before any work."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

import classifiers
import folders
from commands import FAST, composed, run_command, run_config, run_here
from pama_exp.errors import UserError
from texts import write_jsonl

ANY = "objectives.classifier.scorers.any"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = {"model_type": "unheard-of", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}


def pickle_weights(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(1)}, folder / "pytorch_model.bin")


def tear(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lose_a_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {f"w{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def describe(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def bring_code(folder):
    describe(folder, **CODE)
    (folder / "code.py").write_text(f"open({str(folder / 'code-was-run')!r}, 'w')")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders by name; those of reward models begin with it."""
    root = tmp_path_factory.mktemp("models")
    policy, reward = folders.save_folder(root / "policy", "gpt2"), classifiers.gpt2(root / "reward")
    classifiers.distilbert(root / "reward-two-labels")

    def variant(source, name, change):
        change(shutil.copytree(source, root / name))

    def without_head(folder):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        model.base_model.save_pretrained(folder)

    variant(policy, "pickled", pickle_weights)
    variant(policy, "torn", tear)
    variant(policy, "shardless", lose_a_shard)
    variant(policy, "unknown", lambda folder: describe(folder, model_type="unheard-of"))
    variant(policy, "code", bring_code)
    variant(policy, "adapter", lambda f: (f / "config.json").rename(f / "adapter_config.json"))
    variant(reward, "reward-fresh", without_head)
    variant(reward, "reward-pickled", pickle_weights)
    variant(reward, "reward-torn", tear)
    variant(reward, "reward-code", bring_code)
    variant(reward, "reward-empty", lambda folder: (folder / "model.safetensors").unlink())
    variant(reward, "reward-speechless", lambda folder: (folder / "vocab.json").unlink())
    return root


@pytest.fixture(scope="module")
def prompts(made):
    rows = [{"prompt": f"what is {i}?", "numbers": [i]} for i in range(80)]
    return write_jsonl(made / "data.jsonl", rows)


def assert_named(said, error, *untouched):
    assert "\n" not in error.message + error.hint
    for word in said:
        assert word in str(error)
    for path in untouched:
        assert not path.exists()


@pytest.mark.parametrize(
    ("policy", "overrides", "said"),
    [
        ("pickled", [], ["pickled", "model.allow_pickle=true"]),
        ("torn", [], ["model.safetensors is damaged"]),
        ("shardless", [], ["lacks model-00002-of-00002.safetensors", "model.safetensors.index.json"]),
        ("unknown", [], ["unheard-of", "config.json"]),
        ("code", [], ["never run"]),
        ("adapter", [], ["adapter_config.json names no base"]),
        ("reward", [], ["GPT2ForSequenceClassification", "generates no text"]),
        ("policy", ["data.column=numbers"], ["data.column=numbers", "text or a list of messages"]),
        ("policy", ["data.column=numbers", "data.format=messages"], ["data.column=numbers", "a list of messages"]),
    ],
)
def test_a_policy_that_will_not_do(policy, overrides, said, made, prompts, tmp_path):
    chosen = ["model=hf", f"model.path={made / policy}", "data=file", f"data.path={prompts}", "objectives=[length]"]
    with pytest.raises(UserError) as caught:
        run_here(*chosen, *overrides, output=tmp_path / "run", cache=tmp_path / "cache")
    assert_named(said, caught.value, tmp_path / "run", made / policy / "code-was-run")


@pytest.mark.parametrize(
    ("reward", "overrides", "said"),
    [
        ("policy", [], ["causal language model", "GPT2LMHeadModel", "stage=reward_model"]),
        ("reward-fresh", [], ["score.weight", "random"]),
        ("reward-two-labels", [], ["2 label(s)", "label_index=None", "0 … 1"]),
        ("reward-two-labels", [f"{ANY}.label_index=2"], ["2 label(s)", "label_index=2"]),
        ("reward", [], ["no padding token", "pad_token"]),
        ("reward", [f"{ANY}.pad_token='<pad>'"], ["'<pad>'", "<|endoftext|>"]),
        ("reward-pickled", [], ["pickled", f"{ANY}.allow_pickle=true"]),
        ("reward-torn", [], ["model.safetensors is damaged"]),
        ("reward-code", [], ["never run"]),
        ("reward-empty", [], ["no weights"]),
        ("reward-speechless", [], ["tokenizer"]),
        ("nowhere", [], ["nowhere", "no classifier"]),
        ("reward-two-labels", [f"{ANY}.template=hello"], ["template='hello'", "{response}"]),
        ("reward-two-labels", [f"{ANY}.label_index=1", f"{ANY}.truncation_side=up"], ["truncation_side=up", "left"]),
        ("reward-two-labels", [f"{ANY}.label_index=1", f"{ANY}.max_length=0"], ["max_length=0"]),
        ("reward-two-labels", [f"{ANY}.label_index=1", f"{ANY}.sign=minus"], ["sign=minus"]),
        ("reward-two-labels", [f"{ANY}.label_index=1", f"+{ANY}.labels=1"], ["'labels'", "label_index"]),
    ],
)
def test_a_reward_model_that_will_not_do(reward, overrides, said, made, tmp_path):
    # On the testbed, where the SFT policy would be trained first.
    chosen = ["objectives=[concise,classifier]", f"{ANY}.path={made / reward}", *overrides]
    with pytest.raises(UserError) as caught:
        run_here(*chosen, output=tmp_path / "run", cache=tmp_path / "cache")
    assert caught.value.message.startswith(ANY)
    assert_named(said, caught.value, tmp_path / "run", tmp_path / "cache", made / reward / "code-was-run")


def test_one_that_will_do_is_read_with_the_padding_it_is_given(made, tmp_path, shared_cache):
    chosen = ["objectives=[concise,classifier]", f"{ANY}.path={made / 'reward'}", f"{ANY}.pad_token='<|endoftext|>'"]
    assert run_here(*chosen, "reward=gold", "training.steps=1", output=tmp_path / "run", cache=shared_cache).is_complete


@pytest.mark.slow("starts a process for each model")
def test_on_the_command_line_nothing_is_asked_and_no_code_is_run(made, prompts, tmp_path):
    chosen = ["model=hf", f"model.path={made / 'code'}", "data=file", f"data.path={prompts}", "objectives=[length]"]
    done = run_command(*FAST, *chosen, cwd=tmp_path)
    assert done.returncode == 2
    assert "[y/N]" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr
    assert not (made / "code" / "code-was-run").exists()


@pytest.fixture
def pickled_on_the_hub(made, tmp_path, monkeypatch):
    """facebook/opt-125m and a reward model as they are cached: weights in pytorch_model.bin alone."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for repo, source in (("facebook--opt-125m", "pickled"), ("owner--reward", "reward-pickled")):
        root = tmp_path / "hub" / f"models--{repo}"
        shutil.copytree(made / source, root / "snapshots" / COMMIT)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(COMMIT)


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["model=opt-125m", "model.revision=null", "objectives=[length]"], "model.allow_pickle"),
        (["model=micro", "objectives=[classifier]", f"{ANY}.id=owner/reward"], f"{ANY}.allow_pickle"),
    ],
)
def test_pickles_in_the_cache_are_refused_at_once_and_preflight_says_so(
    overrides, setting, pickled_on_the_hub, tmp_path, capsys
):
    chosen = [*overrides, "data=factworld", f"output={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="pickled") as caught:
        run_config(composed(*chosen))
    assert f"{setting}=true" in caught.value.hint
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="pickled"):
        run_config(composed(*chosen, "preflight=true"))
    # The table breaks its lines.
    assert f"add{setting}=true" in "".join(capsys.readouterr().out.replace("│", "").split())
