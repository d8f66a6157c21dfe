"""Folders as the Hub has them, tiny: alignment starts from them, and what it exports loads with transformers and PEFT."""

import json
from functools import cache

import peft
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import classifiers
import folders
from commands import composed, run_here
from pama_exp.assembly.setup import resolve
from pama_exp.config.schema import typed
from pama_exp.data.prompts import collate
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model, load_tokenizer
from pama_exp.rewards.objective import score_all
from pama_exp.stages import align
from texts import write_jsonl

# Rewards that differ between untrained models' texts.
FUNCTIONS = {"helpful": "folders:share_of_vowels", "concise": "folders:distinct_characters"}
REWARDS = [
    override
    for name, function in FUNCTIONS.items()
    for where in [f"objectives.{name}.scorers.factworld"]
    for override in (f"~{where}.program", f"+{where}.function={function}")
]
BRIEF = ["training.steps=2", "training.evaluate_every=0", "data.evaluation_prompts=8"]
QUICK = [*REWARDS, "reward=gold", *BRIEF]
PROMPT = "\n\nHuman: what is the name of number %d?\n\nAssistant:"


@pytest.fixture(scope="module", params=folders.CLASSES)
def folder(request, tmp_path_factory):
    return folders.save_folder(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture
def aligned(monkeypatch):
    """The modules that runs leave behind, to compare with what they exported."""
    modules, export = [], align.export_run

    def remember(config, record, module, *rest):
        ids = torch.tensor([[5, 90, 200, 300, 17, 41]])
        module.policy.eval()
        with torch.no_grad():
            modules.append((ids, module.policy.model(input_ids=ids).logits.log_softmax(-1)))
        export(config, record, module, *rest)

    monkeypatch.setattr(align, "export_run", remember)
    return modules


@pytest.fixture(scope="session")
def reward_folders(tmp_path_factory):
    """Reward models of two classes, neither of which has the policies' tokenizer."""
    root = tmp_path_factory.mktemp("rewards")
    return {"helpful": classifiers.gpt2(root / "gpt2"), "sentiment": classifiers.distilbert(root / "distilbert")}


@pytest.fixture(scope="session")
def on_text(tmp_path_factory, reward_folders):
    """Prompts in a file, and the shipped objectives with these reward models in place of the Hub's."""
    path = write_jsonl(tmp_path_factory.mktemp("data") / "prompts.jsonl", [{"prompt": PROMPT % i} for i in range(60)])
    scorers = [f"objectives.{name}.scorers.text.path={folder}" for name, folder in reward_folders.items()]
    splits = "data.splits={train: 0.6, validation: 0.2, test: 0.2}"
    return ["data=file", f"data.path={path}", splits, "objectives=[helpful,sentiment]", *scorers]


@cache
def classifier(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()


@torch.no_grad()
def rewards_by_hand(reward_folders, prompt, response):
    """As the reward models' cards have it: GPT-2's only output; the positive label of DistilBERT's two."""
    words, model = classifier(reward_folders["helpful"])
    helpful = model(**words(prompt + response, return_tensors="pt")).logits[0, 0].item()
    words, model = classifier(reward_folders["sentiment"])
    sentiment = model(**words((prompt + response).strip(), return_tensors="pt")).logits[0, 1].item()
    return {"helpful": helpful, "sentiment": sentiment}


def assert_rewards_are_the_classifiers(record, reward_folders):
    rows = [row for row in record.read_generations() if row.get("split") == "test"]
    assert len(rows) == 8
    for row in rows:
        expected = rewards_by_hand(reward_folders, row["prompt"], row["response"])
        assert {name: row[f"proxy/{name}"] for name in expected} == pytest.approx(expected, abs=1e-4)
    after = record.read_result()["objectives"]
    for name in reward_folders:
        found = [row[f"proxy/{name}"] for row in rows]
        assert max(found) - min(found) > 1e-2
        assert after[name]["after"]["proxy"] == pytest.approx(sum(found) / len(found), abs=1e-4)


def log_probs(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.log_softmax(-1)


def test_the_whole_model_is_aligned_exported_and_loaded_again(
    folder, aligned, on_text, reward_folders, tmp_path, shared_cache
):
    chosen = ["training.learning_rate=0.01"]
    record = run_here(
        "model=hf", f"model.path={folder}", *on_text, *chosen, *BRIEF, output=tmp_path, cache=shared_cache
    )
    ids, expected = aligned[0]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(log_probs(exported, ids), expected, rtol=0, atol=folders.ROUNDING)
    assert (log_probs(AutoModelForCausalLM.from_pretrained(folder), ids) - expected).abs().max() > 1e-3
    words = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert (
        words("what is the name")["input_ids"] == AutoTokenizer.from_pretrained(folder)("what is the name")["input_ids"]
    )
    with safe_open(tmp_path / "policy" / "value_heads.safetensors", "pt") as heads:
        assert json.loads(heads.metadata()["channels"]) == ["helpful", "sentiment"]
        assert heads.get_tensor("weight").shape[0] == 2
        assert heads.get_tensor("weight").abs().max() > 0
    assert_rewards_are_the_classifiers(record, reward_folders)


@pytest.mark.slow("whole runs")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft's own loading
@pytest.mark.parametrize("export", ["merged", "adapter"])
def test_with_lora_too(folder, export, aligned, on_text, reward_folders, tmp_path, shared_cache):
    chosen = ["adapter=lora", "adapter.rank=4", f"adapter.export={export}", "training.learning_rate=0.01"]
    record = run_here(
        "model=hf", f"model.path={folder}", *on_text, *chosen, *BRIEF, output=tmp_path, cache=shared_cache
    )
    ids, expected = aligned[0]
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert (log_probs(base, ids) - expected).abs().max() > 1e-3
    loaded = {
        "merged": lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "policy"),
        "adapter": lambda: peft.PeftModel.from_pretrained(base, str(tmp_path / "policy")),
    }[export]()
    torch.testing.assert_close(log_probs(loaded, ids), expected, rtol=0, atol=folders.ROUNDING)
    torch.testing.assert_close(log_probs(load_model(tmp_path / "policy"), ids), expected, rtol=0, atol=folders.ROUNDING)
    card = (tmp_path / "policy" / "README.md").read_text()
    assert f"library_name: {'peft' if export == 'adapter' else 'transformers'}" in card
    assert_rewards_are_the_classifiers(record, reward_folders)


def test_the_reward_of_a_fixed_text_is_the_classifiers(on_text, reward_folders, folder, tmp_path):
    config = typed(composed("model=hf", f"model.path={folder}", *on_text, f"cache_dir={tmp_path}"))
    responses = [" It is Ann.", "no", "", " a b c d" * 40, "\n\nHuman: what [SEP"]
    prompts = [PROMPT % i for i in range(len(responses))]
    scores = score_all(
        [plan.build() for plan in resolve(config).objectives], collate(load_tokenizer(folder), prompts), responses
    )
    for text, found in zip(zip(prompts, responses, strict=True), scores.T.tolist(), strict=True):
        assert found == pytest.approx(list(rewards_by_hand(reward_folders, *text).values()), abs=1e-4)


@pytest.mark.slow("whole runs")
def test_only_what_is_trained_is_in_the_checkpoint_and_a_run_resumes_from_it(tmp_path, shared_cache):
    base = folders.save_folder(tmp_path / "base", "gpt2")
    chosen = ["model=hf", "data=factworld", f"model.path={base}", "adapter=lora", "reward=gold", *REWARDS]

    def run(name, steps):
        where = tmp_path / name
        done = run_here(
            *chosen, f"training.steps={steps}", "training.schedule=constant", output=where, cache=shared_cache
        )
        return where, done

    whole, _ = run("whole", 2)
    saved = torch.load(whole / "checkpoints" / "step-00000002.ckpt", weights_only=False)["state_dict"]
    assert all("lora_" in name or "value_heads" in name for name in saved)
    assert any("lora_" in name for name in saved)
    # The same run cut off after its first step: the checkpoint of the second is dropped, and it goes on.
    cut, record = run("cut", 2)
    (cut / "result.json").unlink()
    (cut / "checkpoints" / "step-00000002.ckpt").unlink()
    _, record = run("cut", 2)
    again = torch.load(cut / "checkpoints" / "step-00000002.ckpt", weights_only=False)["state_dict"]
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert record.is_complete


@pytest.mark.slow("a whole run")
def test_bfloat16_weights_with_lora(tmp_path, shared_cache):
    base = folders.save_folder(tmp_path / "base", "qwen2")  # its head is tied
    chosen = ["adapter=lora", "model.dtype=bfloat16", "training.critic_shapes_trunk=true"]
    record = run_here(
        "model=hf", "data=factworld", f"model.path={base}", *chosen, *QUICK, output=tmp_path / "run", cache=shared_cache
    )
    assert record.is_complete
    assert load_model(tmp_path / "run" / "policy").dtype == torch.bfloat16
    assert all(row["policy/grad_norm"] > 0 for row in record.read_metrics() if "policy/grad_norm" in row)


@pytest.mark.slow("whole runs")
def test_an_exported_adapter_is_evaluated_and_a_card_says_what_was_done(tmp_path, shared_cache):
    chosen = ["adapter=lora", "adapter.export=adapter"]
    run_here(*chosen, *QUICK, output=tmp_path / "run", cache=shared_cache)
    evaluated = run_here(
        "stage=evaluate",
        f"evaluate.run={tmp_path / 'run'}",
        "reward=gold",
        output=tmp_path / "again",
        cache=shared_cache,
    ).read_result()
    assert list(evaluated["objectives"]) == ["helpful", "concise"]
    # It is a policy to start from, too.
    further = ["data=factworld", f"model.path={tmp_path / 'run' / 'policy'}", "adapter=lora"]
    assert run_here(*further, *QUICK, output=tmp_path / "further", cache=shared_cache).is_complete
    card = (tmp_path / "run" / "policy" / "README.md").read_text()
    for said in ("helpful + concise with pama", "front.png", "seed: 0", "```sh"):
        assert said in card
    assert (tmp_path / "run" / "policy" / "front.png").is_file()


@pytest.mark.slow("a whole run")
def test_a_published_architecture_with_random_weights_runs_on_the_testbed_without_a_network(tmp_path, shared_cache):
    shrunk = [
        "model.config.n_embd=16",
        "model.config.n_layer=2",
        "model.config.n_head=2",
        "sft.steps=0",
        "rollout.sampling.max_new_tokens=4",
    ]
    record = run_here(
        "model=gpt2", "model.weights=random", "data=factworld", *shrunk, *QUICK, output=tmp_path, cache=shared_cache
    )
    assert record.is_complete
    assert load_model(tmp_path / "policy").config.vocab_size == 50257


@pytest.mark.slow("whole runs")
@pytest.mark.parametrize("reads", ["bytes", "folder"])
def test_a_published_architecture_with_random_weights_reads_text(reads, on_text, tmp_path):
    folder = folders.save_folder(tmp_path / "other", "gpt2")  # for its tokenizer
    tokenizer = {"bytes": "bytes", "folder": str(folder)}[reads]
    shrunk = ["model.config.n_embd=16", "model.config.n_layer=1", "model.config.n_head=2"]
    chosen = ["model=gpt2", "model.weights=random", f"model.tokenizer={tokenizer}", *shrunk]
    run_here(*chosen, *on_text, *BRIEF, "rollout.sampling.max_new_tokens=4", output=tmp_path / "a", cache=tmp_path)
    exported, words = load_model(tmp_path / "a" / "policy"), load_tokenizer(tmp_path / "a" / "policy")
    assert exported.config.vocab_size == 50257
    assert exported.config.eos_token_id == words.eos_token_id
    text = PROMPT % 3
    assert len(words(text)["input_ids"]) == len(text if reads == "bytes" else load_tokenizer(folder)(text)["input_ids"])
    assert "Starts from gpt2 with random weights." in (tmp_path / "a" / "policy" / "README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.weights=random"], ["no tokenizer for text", "model.tokenizer=bytes", "model.path=FOLDER"]),
        (["model.weights=random", "model.tokenizer=byte"], ["model.tokenizer=byte is neither bytes nor a folder"]),
        (["model.weights=random", "model.tokenizer=bytes", "model.config.vocab_size=100"], ["up to 257", "100 rows"]),
        (["model.tokenizer=bytes"], ["openai-community/gpt2 has the tokenizer", "model.weights=random"]),
    ],
)
def test_a_tokenizer_that_will_not_do_is_named_before_any_work(overrides, said, on_text, tmp_path):
    with pytest.raises(UserError) as caught:
        run_here("model=gpt2", *on_text, *overrides, output=tmp_path / "run", cache=tmp_path / "c")
    for word in said:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("c/random-*"))
