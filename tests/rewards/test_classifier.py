import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForSequenceClassification, BartConfig, DistilBertConfig, RobertaConfig

import tiny
from pama_exp.errors import UserError
from pama_exp.policy.loading import build_classifier, build_model, save
from pama_exp.rewards.classifier import ClassifierScorer, published

WORDS = tiny.tokenizer()
RESPONSES = ["a b", "c d e f g h i j k", "", "p"]  # unequal lengths, so that batches by length are out of order


def encoder():
    """A bidirectional classifier: padding that is not masked changes its scores."""
    config = DistilBertConfig(
        vocab_size=len(WORDS),
        dim=16,
        hidden_dim=32,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=48,
        pad_token_id=WORDS.pad_token_id,
        num_labels=1,
    )
    return AutoModelForSequenceClassification.from_config(config)


def classifier(architecture="opt", labels=1):
    if architecture == "distilbert":
        return tiny.sharpen(encoder(), seed=4)
    made = build_classifier(tiny.language_model(architecture), WORDS)
    if labels > 1:
        made.config.num_labels = labels
        made = AutoModelForSequenceClassification.from_config(made.config)
    return tiny.sharpen(made, seed=4)


@pytest.fixture(scope="module", params=["opt", "gpt2", "llama", "distilbert"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    save(classifier(request.param), WORDS, path)
    return path


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels")
    save(classifier(labels=3), WORDS, path)
    return path


def by_hand(folder, texts, label=0):
    """Each text on its own, without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return torch.stack([model(torch.tensor([WORDS(text)["input_ids"]])).logits[0, label] for text in texts]).detach()


def joined(responses=RESPONSES):
    return [f"{prompt} {response}".strip() for prompt, response in zip(tiny.prompts().texts, responses, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_the_classifiers_logits_in_order(folder, batch_size):
    scores = ClassifierScorer(folder, batch_size=batch_size).score(tiny.prompts(), RESPONSES)
    torch.testing.assert_close(scores, by_hand(folder, joined()), atol=tiny.ROUNDING, rtol=0)
    assert len(set(scores.tolist())) == len(RESPONSES)


def test_label_sign_and_template_are_the_users(three_labels):
    scorer = ClassifierScorer(three_labels, label_index=2, sign=-1.0, template="{response} k {prompt}")
    texts = [f"{r} k {p}".strip() for p, r in zip(tiny.prompts().texts, RESPONSES, strict=True)]
    torch.testing.assert_close(
        scorer.score(tiny.prompts(), RESPONSES), -by_hand(three_labels, texts, label=2), atol=tiny.ROUNDING, rtol=0
    )


@pytest.mark.parametrize(("side", "kept"), [("left", slice(-4, None)), ("right", slice(4))])
def test_long_texts_lose_tokens_on_the_side_asked_for(folder, side, kept):
    scorer = ClassifierScorer(folder, max_length=4, truncation_side=side)
    texts = [" ".join(text.split()[kept]) for text in joined()]
    torch.testing.assert_close(
        scorer.score(tiny.prompts(), RESPONSES), by_hand(folder, texts), atol=tiny.ROUNDING, rtol=0
    )


def test_positions_that_begin_after_the_padding_are_fewer():
    # RoBERTa counts from pad_token_id + 1: of 12 positions it reads 10 tokens.
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=20, max_position_embeddings=12, pad_token_id=1, num_labels=1, **size)
    words = tiny.tokenizer()
    words.pad_token = tiny.WORDS[1]
    scorer = ClassifierScorer(AutoModelForSequenceClassification.from_config(config), words, template="{response}")
    assert scorer.score(tiny.prompts(["a"]), ["a " * 10]).isfinite().all()
    with pytest.raises(UserError, match="11 tokens exceeds the classifier's 10 positions"):
        scorer.score(tiny.prompts(["a"]), ["a " * 11])


def test_a_response_cannot_hold_the_classifiers_own_marks():
    # BART is read at its last end mark, and refuses a batch of texts that differ in their number.
    size = {"d_model": 16, "max_position_embeddings": 48, "vocab_size": len(WORDS), "num_labels": 2}
    layers = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    ids = {"eos_token_id": WORDS.eos_token_id, "pad_token_id": WORDS.pad_token_id, "decoder_start_token_id": 1}
    config = BartConfig(**size, **layers, **ids, encoder_ffn_dim=24, decoder_ffn_dim=24, bos_token_id=1)
    model = tiny.sharpen(AutoModelForSequenceClassification.from_config(config), seed=4)
    scorer = ClassifierScorer(model, WORDS, template="{response} <eos> {prompt} <eos>", label_index=1)
    plain = scorer.score(tiny.prompts(), RESPONSES)
    marked = scorer.score(tiny.prompts(), [f"<eos> {response}<pad>" for response in RESPONSES])
    assert torch.equal(marked, plain)
    texts = [f"{r} <eos> {p} <eos>".strip() for p, r in zip(tiny.prompts().texts, RESPONSES, strict=True)]
    expected = [model(torch.tensor([WORDS(text)["input_ids"]])).logits[0, 1].detach() for text in texts]
    torch.testing.assert_close(plain, torch.stack(expected), atol=tiny.ROUNDING, rtol=0)


def test_a_loaded_classifier_serves_as_well_and_the_callers_tokenizer_keeps_its_side(folder):
    words, model = tiny.tokenizer(), AutoModelForSequenceClassification.from_pretrained(folder).train()
    scorer = ClassifierScorer(model, words)
    torch.testing.assert_close(
        scorer.score(tiny.prompts(), RESPONSES), by_hand(folder, joined()), atol=tiny.ROUNDING, rtol=0
    )
    assert words.padding_side == "left"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_device_of_its_own_is_kept_wherever_the_policy_goes(folder):
    pinned, following = ClassifierScorer(folder, device="cpu"), ClassifierScorer(folder)
    for scorer in (pinned, following):
        scorer.to(torch.device("meta"))
    assert (pinned.model.device.type, following.model.device.type) == ("cpu", "meta")
    torch.testing.assert_close(
        pinned.score(tiny.prompts(), RESPONSES), by_hand(folder, joined()), atol=tiny.ROUNDING, rtol=0
    )


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_here_is_named(folder, device):
    with pytest.raises(UserError, match=f"device={device}") as caught:
        ClassifierScorer(folder, device=device)
    assert "cpu" in caught.value.hint


def test_a_text_of_no_tokens_is_scored_whatever_it_is_batched_with(folder):
    scorer = ClassifierScorer(folder, template="{response}")
    mixed = scorer.score(tiny.prompts(), RESPONSES)
    alone = scorer.score(tiny.prompts(["a"]), [""])
    torch.testing.assert_close(mixed[2:3], alone, atol=tiny.ROUNDING, rtol=0)


def test_a_text_beyond_the_positions_is_an_error_until_it_is_cut(folder):
    long = ["a " * 60, *RESPONSES[1:]]
    with pytest.raises(UserError, match="48 positions"):
        ClassifierScorer(folder).score(tiny.prompts(), long)
    assert ClassifierScorer(folder, max_length=48).score(tiny.prompts(), long).isfinite().all()


@pytest.mark.parametrize("label_index", [None, 3, -1])
def test_several_labels_need_one_of_them_chosen(three_labels, label_index):
    with pytest.raises(UserError, match="3 label"):
        ClassifierScorer(three_labels, label_index=label_index)


def test_a_head_that_would_be_random_is_refused(tmp_path):
    save(tiny.language_model().base_model, WORDS, tmp_path)
    with pytest.raises(UserError, match=r"score\.weight, which would be random"):
        ClassifierScorer(tmp_path, label_index=0)


def test_a_language_model_is_no_classifier(tmp_path):
    save(tiny.language_model(), WORDS, tmp_path)
    with pytest.raises(UserError, match="causal language model") as caught:
        ClassifierScorer(tmp_path, label_index=0)
    assert "stage=reward_model" in caught.value.hint


def test_pickled_weights_are_refused_unless_asked_for(tmp_path):
    model = classifier()
    save(model, WORDS, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        ClassifierScorer(tmp_path)
    trusted = ClassifierScorer(tmp_path, allow_pickle=True).score(tiny.prompts(), RESPONSES)
    assert torch.equal(trusted, ClassifierScorer(model, WORDS).score(tiny.prompts(), RESPONSES))


def test_golden_scores_are_checked_when_the_model_is_loaded(folder):
    score = ClassifierScorer(folder).score(tiny.prompts(), RESPONSES)[0].item()
    example = {"prompt": tiny.prompts().texts[0], "response": RESPONSES[0]}
    published(path=str(folder), golden=[example | {"score": score}])
    with pytest.raises(UserError, match="golden score is") as caught:
        published(path=str(folder), golden=[example | {"score": score + 0.5}])
    assert "template" in caught.value.hint


def test_white_space_around_a_text_is_kept_where_asked_for(tmp_path):
    # A tokenizer for which a line end is a token, as it is for GPT-2's.
    words = tiny.tokenizer()
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    words.add_tokens(["\n"])
    model = tiny.sharpen(build_classifier(build_model("opt", tiny.CONFIGS["opt"], words), words), seed=4)
    save(model, words, tmp_path)
    stripped, kept = (
        ClassifierScorer(tmp_path, template="\n {prompt} {response}", strip=strip).score(tiny.prompts(), ["a"] * 4)
        for strip in (True, False)
    )
    assert (stripped - kept).abs().min() > 1e-4
    ids = torch.tensor([words(f"\n {tiny.prompts().texts[0]} a")["input_ids"]])
    assert words.convert_tokens_to_ids("\n") == ids[0, 0]
    torch.testing.assert_close(kept[0], model(ids).logits[0, 0].detach(), atol=tiny.ROUNDING, rtol=0)


def test_a_classifier_of_the_hub_that_is_not_here_is_named_with_how_to_fetch_it():
    with pytest.raises(UserError, match=r"nobody/nothing.*not in the cache") as caught:
        published(id="nobody/nothing")
    assert "hf download nobody/nothing" in caught.value.hint
    with pytest.raises(UserError, match="neither id nor path"):
        published()


def test_folders_without_a_classifier_or_a_tokenizer_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere holds no classifier"):
        ClassifierScorer(tmp_path / "nowhere")
    classifier().save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="bare holds no tokenizer"):
        ClassifierScorer(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"bare/model\.safetensors is damaged"):
        ClassifierScorer(tmp_path / "bare")


def test_padding_is_what_the_tokenizer_pads_with_whatever_the_models_configuration_says(tmp_path):
    made = classifier("gpt2")
    made.config.pad_token_id = WORDS.convert_tokens_to_ids("p")  # which texts end with, too
    save(made, WORDS, tmp_path)
    responses = ["a b", "c d e f g h i j k", "b", "d"]
    found = ClassifierScorer(tmp_path).score(tiny.prompts(), responses)
    alone = [
        ClassifierScorer(tmp_path).score(tiny.prompts([prompt]), [response])
        for prompt, response in zip(tiny.prompts().texts, responses, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone), atol=tiny.ROUNDING, rtol=0)


def test_a_padding_token_is_given_to_a_tokenizer_that_has_none(tmp_path):
    words = tiny.tokenizer()
    words.pad_token = None
    save(classifier("gpt2"), words, tmp_path)
    found = ClassifierScorer(tmp_path, pad_token="<eos>").score(tiny.prompts(), RESPONSES)
    expected = [by_hand(tmp_path, [text])[0] for text in joined()]
    torch.testing.assert_close(found, torch.stack(expected), atol=tiny.ROUNDING, rtol=0)


def test_a_tokenizer_that_cannot_pad_is_refused():
    words = tiny.tokenizer()
    words.pad_token = None
    with pytest.raises(UserError, match="no padding token"):
        ClassifierScorer(classifier(), words)


@pytest.mark.parametrize("template", ["{prompt}", "{prompt} {answer}", "{response", "{} {response}"])
def test_a_template_has_to_place_the_response(template):
    with pytest.raises(UserError, match="template="):
        ClassifierScorer(classifier(), WORDS, template=template)


@pytest.mark.parametrize("architecture", ["opt", "gpt2", "llama", "distilbert"])
def test_a_text_that_ends_in_the_token_that_pads_is_read_to_its_end(architecture):
    """As with a tokenizer that pads with its end token, and a template that ends in it."""
    words, model = tiny.tokenizer(), classifier(architecture)
    words.pad_token = words.eos_token
    scorer = ClassifierScorer(model, words, template="{prompt} {response} <eos>")
    found = scorer.score(tiny.prompts(), RESPONSES)
    for prompt, response, score in zip(tiny.prompts().texts, RESPONSES, found, strict=True):
        ids = torch.tensor([words(f"{prompt} {response} <eos>")["input_ids"]])
        model.config.pad_token_id = None  # the last token is then the last
        torch.testing.assert_close(model(ids).logits[0, 0], score, atol=1e-5, rtol=0)


def test_marks_nested_in_marks_are_no_marks():
    scorer = ClassifierScorer(classifier(), WORDS)
    plain = scorer.score(tiny.prompts(), RESPONSES)
    nested = scorer.score(tiny.prompts(), [f"<e<eos>os> {response}" for response in RESPONSES])
    assert torch.equal(nested, plain)
