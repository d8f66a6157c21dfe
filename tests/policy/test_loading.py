import json

import pytest
import torch

import tiny
from pama_exp.errors import UserError
from pama_exp.policy import loading

WORDS = tiny.tokenizer()
IDS = torch.tensor([[3, 4, 5, 6]])


@pytest.fixture(params=tiny.ARCHITECTURES)
def saved(request, tmp_path):
    """A causal language model of each class and the folder it was saved in."""
    model = tiny.language_model(request.param)
    loading.save(model, WORDS, tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_vocabulary_and_special_tokens_are_the_tokenizers(architecture):
    model = loading.build_model(architecture, tiny.CONFIGS[architecture], WORDS)
    config = model.config
    assert model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.shape == (1, 4, len(WORDS))
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 1)
    assert loading.max_positions(model) == 48


@pytest.mark.parametrize(("architecture", "key"), [("opt", "dropout"), ("gpt2", "resid_pdrop")])
def test_dropout_is_off_unless_asked_for(architecture, key):
    def varies(config):
        model = loading.build_model(architecture, {**tiny.CONFIGS[architecture], **config}, WORDS).train()
        first, second = (model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits for _ in range(2))
        return not torch.equal(first, second)

    assert not varies({})
    assert varies({key: 0.5})


@pytest.mark.parametrize(
    ("architecture", "config", "wrong", "right"),
    [
        ("otp", {}, "otp", "Did you mean 'opt'?"),
        ("vit", {}, "vit", "Valid:"),
        ("gpt2", {"n_layers": 2}, "n_layers", "Did you mean 'n_layer'?"),
        ("opt", {"hidden_size": 30, "num_attention_heads": 4}, "30", "Correct"),
        ("gpt2", {"n_layer": "two"}, "two", "Correct"),
    ],
)
def test_a_model_that_cannot_be_built_is_the_users_mistake(architecture, config, wrong, right):
    with pytest.raises(UserError) as caught:
        loading.build_model(architecture, config, WORDS)
    assert wrong in caught.value.message
    assert right in caught.value.hint


def test_a_model_comes_back_from_its_folder_as_it_was(saved):
    model, folder = saved
    loaded = loading.load_model(folder)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert (folder / "model.safetensors").is_file()
    mask = torch.ones_like(IDS)
    assert torch.equal(
        loaded(input_ids=IDS, attention_mask=mask).logits, model(input_ids=IDS, attention_mask=mask).logits
    )
    words = loading.load_tokenizer(folder)
    assert words("a b p")["input_ids"] == WORDS("a b p")["input_ids"]
    assert words.padding_side == "left"


def test_a_classifier_starts_from_the_language_models_trunk_and_leaves_it_alone(saved, tmp_path):
    model, _ = saved
    classifier = loading.build_classifier(model, WORDS).eval()
    mask = torch.ones_like(IDS)

    def states(of):
        return of.base_model(input_ids=IDS, attention_mask=mask).last_hidden_state

    before = states(model)
    assert torch.equal(states(classifier), before)
    assert classifier(input_ids=IDS, attention_mask=mask).logits.shape == (1, 1)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.1)
    assert torch.equal(states(model), before)
    loading.save(classifier, WORDS, tmp_path / "reward")
    loaded = loading.load_classifier(tmp_path / "reward")
    assert torch.equal(
        loaded(input_ids=IDS, attention_mask=mask).logits, classifier(input_ids=IDS, attention_mask=mask).logits
    )


def test_a_head_that_would_be_random_is_refused(saved, tmp_path):
    model, folder = saved
    with pytest.raises(UserError, match=r"score\.weight, which would be random"):
        loading.load_classifier(folder)
    if not model.config.tie_word_embeddings:  # a tied head is there with the embeddings
        loading.save(loading.build_classifier(model, WORDS), WORDS, tmp_path / "reward")
        with pytest.raises(UserError, match=r"lm_head\.weight, which would be random"):
            loading.load_model(tmp_path / "reward")


def cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def garble(folder):
    (folder / "model.safetensors").write_bytes(b"not weights" * 100)


def garble_config(folder):
    (folder / "config.json").write_text("{")


def misfit(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "ffn_dim": 64}))


def remove(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [cut, garble, garble_config, misfit, remove])
def test_a_damaged_folder_is_named(damage, tmp_path):
    loading.save(tiny.language_model("opt"), WORDS, tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        loading.load_model(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    for load in (loading.load_model, loading.load_classifier, loading.load_tokenizer):
        with pytest.raises(UserError, match="nowhere"):
            load(tmp_path / "nowhere")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_model_without_its_tokenizer_is_not_given_an_empty_one(architecture, tmp_path):
    tiny.language_model(architecture).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer"):
        loading.load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path):
    loading.save(tiny.language_model(), WORDS, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=str(tmp_path)):
        loading.load_tokenizer(tmp_path)


def test_a_tokenizer_without_padding_pads_with_its_end_token_and_one_without_an_end_is_refused(tmp_path):
    words = tiny.tokenizer()
    words.pad_token = None
    words.save_pretrained(tmp_path / "unpadded")
    loaded = loading.load_tokenizer(tmp_path / "unpadded")
    assert loaded.pad_token_id == loaded.eos_token_id == WORDS.eos_token_id
    words.eos_token = None
    words.save_pretrained(tmp_path / "endless")
    with pytest.raises(UserError, match="no end token"):
        loading.load_tokenizer(tmp_path / "endless")


def test_pickled_weights_are_refused_unless_asked_for(tmp_path):
    model = tiny.language_model("llama")
    loading.save(model, WORDS, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled") as caught:
        loading.load_model(tmp_path)
    assert "model.allow_pickle=true" in caught.value.hint
    loaded = loading.load_model(tmp_path, allow_pickle=True)
    mask = torch.ones_like(IDS)
    assert torch.equal(
        loaded(input_ids=IDS, attention_mask=mask).logits, model(input_ids=IDS, attention_mask=mask).logits
    )


def test_code_in_a_pickle_is_not_run_even_then(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    loading.save(tiny.language_model("llama"), WORDS, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        loading.load_model(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_vocabulary_beyond_the_embedding_is_refused():
    loading.check_vocabulary(len(WORDS), WORDS, "here")
    with pytest.raises(UserError, match=f"ids up to {len(WORDS) - 1}; the model's embedding has 5 rows"):
        loading.check_vocabulary(5, WORDS, "here")


def test_code_in_a_folder_is_never_run_nor_asked_about(tmp_path, monkeypatch):
    auto = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model", "AutoTokenizer": ["mine.T", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", "auto_map": auto}))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    for load in (loading.load_model, loading.load_tokenizer):
        with pytest.raises(UserError):
            load(tmp_path)
    assert not asked
    assert not (tmp_path / "ran").exists()
