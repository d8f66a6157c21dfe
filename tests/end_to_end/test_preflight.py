"""What a run needs is said before it starts: offline, and without loading or fetching anything."""

import pytest
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

import classifiers
import folders
from commands import composed, run_command, run_config, run_here
from pama_exp.assembly import preflight
from pama_exp.config import schema
from pama_exp.errors import UserError


@pytest.mark.slow("a process")
def test_the_table_of_a_published_model_offline(tmp_path):
    command = ["model=opt-1.3b", "objectives=[helpful,concise]", "preflight=true"]
    done = run_command(*command, cwd=tmp_path, HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    for said in (
        "facebook/opt-1.3b",
        "missing",
        "hf download",
        "allow_pickle=true",
        "1,315,758,080",
        "optimiser",
        "reference",
        "peak",
        "free",
    ):
        assert said in done.stdout, said
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("offline", ["1", "0"])
def test_the_run_itself_names_what_is_missing_and_how_to_fetch_it(offline, tmp_path):
    # Where offline is 0 the Hub is a port of this machine that nothing listens on.
    extra = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_command("model=opt-1.3b", "objectives=[helpful,concise]", cwd=tmp_path, **extra)
    assert done.returncode == 2
    first, second = done.stderr.strip().splitlines()
    assert "facebook/opt-1.3b" in first
    assert str(tmp_path / "hub") in first
    assert "hf download facebook/opt-1.3b" in second
    assert "model.allow_pickle=true" in second  # its main branch holds no safetensors
    assert not (tmp_path / "runs").exists()


def estimated(*overrides):
    config = schema.typed(composed(*overrides))
    return preflight.estimate_memory(config, preflight.known_sizes(config, is_here=True))


# One of each class; they differ in size alone.
@pytest.mark.slow("builds every size without memory")
@pytest.mark.parametrize(
    "name", ["micro", "opt-350m", "gpt2", "llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b", "pythia-160m", "mistral-7b"]
)
def test_every_class_has_an_estimate(name):
    estimate = estimated(f"model={name}", "adapter=lora")
    assert {"weights", "gradients", "optimiser", "key-value cache", "activations", "logits"} <= set(estimate.parts)
    assert (
        sum(estimate.parts[p] for p in ("weights", "activations"))
        < estimate.peak
        < sum(estimate.parts.values()) + 2**30
    )


def test_reward_models_in_local_folders_are_counted(tmp_path):
    folder = classifiers.gpt2(tmp_path / "reward")
    given = ["objectives=[classifier,concise]", f"objectives.classifier.scorers.any.path={folder}", "reward=gold"]
    estimate = estimated("model=micro", *given)
    count = AutoModelForSequenceClassification.from_pretrained(folder).num_parameters()
    assert estimate.parts["reward models"] == 4 * count
    assert not estimate.unknown


def test_suggestions_are_made_until_it_fits(capsys, monkeypatch):
    monkeypatch.setattr(preflight, "free_bytes", lambda config: (24 * 2**30, "a card of 24 GiB"))
    run_config(composed("model=llama-2-7b", "preflight=true"))
    said = capsys.readouterr().out.replace("\n", " ")
    assert "It does not fit" in said
    assert "adapter=lora" in said
    run_config(composed("model=gpt2", "adapter=lora", "training.micro_batch_tokens=2048", "preflight=true"))
    assert "It fits" in capsys.readouterr().out


def test_a_gpu_that_is_not_here_is_no_obstacle_to_the_table(capsys):
    run_config(composed("model=llama-2-7b", "adapter=lora-8bit", "trainer=gpu", "preflight=true"))
    said = capsys.readouterr().out
    assert "no GPU here" in said
    assert "gated: ask for access" in " ".join(said.replace("│", " ").split())


def broken(folder, what):
    folders.save_folder(folder, "gpt2")
    words = folders.byte_pair_tokenizer()
    if what == "no end":
        folders.byte_pair_tokenizer(eos=None).save_pretrained(folder)
    if what == "vocabulary":
        words.add_tokens([f"<{i}>" for i in range(20)])
        words.save_pretrained(folder)
    if what == "short":
        folders.save_folder(folder, "gpt2", n_positions=8)
    if what == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("what", "overrides", "said"),
    [
        ("no end", [], ["no end token", "eos_token"]),
        ("vocabulary", [], ["ids up to 519", "512 rows", "resize_token_embeddings"]),
        ("short", [], ["longest prompt", "8 positions"]),
        ("pickled", [], ["pickled", "model.allow_pickle=true"]),
        ("whole", ["adapter=lora", "adapter.targets=[q_proj]"], ["'q_proj'", "c_attn"]),
        ("whole", ["adapter=lora-8bit"], ["8bit", "CUDA", "adapter=lora;"]),
        ("whole", ["adapter=lora", "adapter.rank=0"], ["adapter.rank=0"]),
        ("whole", ["adapter.name=lorra"], ["lorra", "lora"]),
    ],
)
def test_a_model_that_will_not_do_is_named_before_any_work(what, overrides, said, tmp_path):
    folder = broken(tmp_path / "model", what)
    with pytest.raises(UserError) as caught:
        run_here(
            "model=hf",
            "data=factworld",
            f"model.path={folder}",
            *overrides,
            output=tmp_path / "run",
            cache=tmp_path / "c",
        )
    for word in said:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_preset_that_names_no_model():
    for extra in ([], ["preflight=true"]):
        with pytest.raises(UserError, match="names no model") as caught:
            run_config(composed("model=hf", *extra))
        assert "model.id=owner/name" in caught.value.hint


def test_the_hubs_folder_is_used_where_it_is_cached(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--owner--small"
    folders.save_folder(root / "snapshots" / "abc", "gpt2")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    quick = ["reward=gold", "training.steps=1", "adapter=lora", "adapter.export=adapter"]
    run_here("model=hf", "data=factworld", "model.id=owner/small", *quick, output=tmp_path / "run", cache=shared_cache)
    assert "base_model: owner/small" in (tmp_path / "run" / "policy" / "README.md").read_text()
    assert (
        '"base_model_name_or_path": "owner/small"' in (tmp_path / "run" / "policy" / "adapter_config.json").read_text()
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=micro", "training.mini_batch_size=5"], "mini_batch_size=5"),
        (["model=micro", "training.clip=1.5"], "clip=1.5"),
        (["model=micro", "trainer.devices=2"], "trainer.devices=2"),
        (["model=micro", "rollout.sampling.max_new_tokens=2000"], "2000"),
        (["model=micro", "objectives.concise.normaliser=mean"], "normaliser=mean"),
        (["model=hf", "model.path=/nowhere"], "/nowhere"),
        (["model=opt-1.3b", "training.clip=1.5"], "clip=1.5"),
        (["model=opt-1.3b", "trainer=gpu", "training.mini_batch_size=5"], "mini_batch_size=5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_run_would_refuse_preflight_refuses(overrides, said, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        run_config(composed(*overrides, "preflight=true"))
    assert said in str(caught.value)
