from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

import tiny
from pama_exp.errors import UserError
from pama_exp.policy.loading import build_model
from pama_exp.policy.policy import Policy
from pama_exp.rollout.auto import choose_engine
from pama_exp.rollout.engine import Sampling, draw, uniform_noise
from pama_exp.rollout.fast import FastEngine
from pama_exp.rollout.hf import HFEngine

WORDS = tiny.tokenizer()
EOS, PAD = WORDS.eos_token_id, WORDS.pad_token_id


@pytest.fixture(params=tiny.ARCHITECTURES)
def model(request):
    return tiny.language_model(request.param)


@pytest.fixture(params=[FastEngine, HFEngine])
def engine(request):
    return request.param


def generate(model, prompts, sampling, seed=0, engine=FastEngine, **settings):
    return engine(model, WORDS, **settings).generate(prompts, sampling, seed)


def same_prompts(count):
    return tiny.prompts(["a"] * count)


def assert_drawn_from(counts, probabilities):
    """Pearson's test at a level that a wrong temperature or filter fails by orders of magnitude."""
    assert counts[probabilities == 0].sum() == 0
    possible = probabilities > 0
    expected = probabilities[possible].astype(float)
    expected *= counts.sum() / expected.sum()
    assert chisquare(counts[possible], expected).pvalue > 1e-3


def test_greedy_responses_are_those_of_transformers_own_generate(model):
    prompts = tiny.prompts()
    config = GenerationConfig(
        do_sample=False, max_new_tokens=12, pad_token_id=PAD, eos_token_id=EOS, top_k=None, top_p=None, temperature=None
    )
    wanted = model.generate(input_ids=prompts.input_ids, attention_mask=prompts.mask.long(), generation_config=config)[
        :, prompts.input_ids.shape[1] :
    ]
    found = generate(model, prompts, Sampling(12, top_k=1)).response_ids
    assert torch.equal(found, wanted)
    assert len(set(map(tuple, found.tolist()))) == len(prompts)  # the prompts matter


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_kept_and_recomputed_are_those_of_a_plain_forward_pass(model, engine, temperature):
    """The ratio of the first epoch is 1."""
    prompts = tiny.prompts(["a b c", "d", "e f g h i", "a b c", "b a"])
    rollout = generate(model, prompts, Sampling(16, temperature), seed=3, engine=engine)
    at_update = Policy(model, 1).score_rollout(rollout, temperature)
    said = rollout.response_mask
    assert said.sum() > 2 * len(rollout)
    for row, log_probs in enumerate(tiny.log_probs_by_hand(model, rollout, temperature)):
        wanted = log_probs.gather(1, rollout.response_ids[row][said[row]][:, None]).squeeze(1)
        torch.testing.assert_close(at_update.log_probs[row][said[row]], wanted, atol=1e-4, rtol=0)
        if engine is FastEngine:
            torch.testing.assert_close(rollout.log_probs[row][said[row]], wanted, atol=1e-4, rtol=0)
    if engine is FastEngine:
        torch.testing.assert_close(rollout.states[said], at_update.hidden[said], atol=1e-4, rtol=0)
        assert (rollout.log_probs[~said] == 0).all()


def test_both_engines_draw_from_the_same_distribution(model):
    """Each is held to the exact probabilities of all responses of two tokens."""
    model = tiny.sharpen(model, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.6)  # fewer certainties
    prompt = torch.tensor([WORDS("c a d")["input_ids"]])
    first = model(input_ids=prompt).logits[0, -1].softmax(-1)
    every = torch.arange(len(tiny.WORDS))
    pairs = torch.cat([prompt.expand(len(every), -1), every[:, None]], 1)
    second = model(input_ids=pairs).logits[:, -1].softmax(-1)
    second[EOS] = torch.nn.functional.one_hot(torch.tensor(PAD), len(every))  # nothing follows the end
    joint = (first[:, None] * second).flatten()
    common = joint > 2e-3
    wanted = torch.cat([joint[common], joint[~common].sum()[None]]).detach()
    for engine in (FastEngine, HFEngine):
        rollout = generate(model, tiny.prompts(["c a d"] * 4000), Sampling(2), seed=1, engine=engine)
        ids = torch.nn.functional.pad(rollout.response_ids, (0, 2 - rollout.response_ids.shape[1]), value=PAD)
        counts = (ids[:, 0] * len(every) + ids[:, 1]).bincount(minlength=len(joint))
        grouped = torch.cat([counts[common], counts[~common].sum()[None]])
        assert_drawn_from(grouped.numpy(), wanted.numpy())


def test_what_is_drawn_does_not_depend_on_the_company(model):
    """Rows at a time, the order of prompts, and prompts that repeat change nothing."""
    prompts = tiny.prompts(["a b c", "d", "e f g h i", "d", "b a", "a b c"])
    whole = generate(model, prompts, Sampling(12), seed=5)
    for rows in (1, 2, 4):
        parts = generate(model, prompts, Sampling(12), seed=5, rows_at_once=rows)
        assert torch.equal(parts.response_ids, whole.response_ids)
        torch.testing.assert_close(parts.log_probs, whole.log_probs, atol=tiny.ROUNDING, rtol=0)
        torch.testing.assert_close(
            parts.states[whole.response_mask], whole.states[whole.response_mask], atol=1e-4, rtol=0
        )
    fewer = generate(model, tiny.prompts(["a b c", "d", "e f g h i"]), Sampling(12), seed=5)
    assert list(fewer.texts) == list(whole.texts)[:3]


def test_rows_of_the_noise_do_not_depend_on_how_many_there_are():
    noise = uniform_noise(7, 64, 9)
    assert torch.equal(uniform_noise(7, 5, 9), noise[:5])
    assert not torch.equal(uniform_noise(8, 5, 9), noise[:5])
    assert ((noise >= 0) & (noise < 1)).all()


@pytest.mark.parametrize("noise", [0.0, 1.0 - 2.0**-24])
def test_extreme_noise_still_draws_a_possible_token(noise):
    logits = torch.tensor([[-torch.inf, 0.0, -1.0, -torch.inf]]).repeat(3, 1)
    tokens, log_probs = draw(logits, Sampling(1), torch.full((3,), noise))
    assert tokens.tolist() == [2 if noise else 1] * 3
    torch.testing.assert_close(log_probs, torch.tensor([0.0, -1.0]).log_softmax(0)[tokens - 1])


def test_in_lower_precision_nothing_is_kept():
    rollout = generate(tiny.language_model("llama").bfloat16(), tiny.prompts(), Sampling(6))
    assert rollout.log_probs is None
    assert rollout.states is None


@pytest.mark.parametrize("graphs", [False, True])
def test_windows_are_kept_to_while_decoding(graphs):
    """A window of four sees none of what comes before; one that holds everything changes nothing."""
    config = {**tiny.CONFIGS["llama"], "sliding_window": 4}
    narrow, wide = (
        tiny.sharpen(build_model("mistral", {**config, "sliding_window": window}, WORDS)) for window in (4, 40)
    )
    said = [generate(model, tiny.prompts(), Sampling(12), graphs=graphs) for model in (narrow, wide)]
    assert not torch.equal(said[0].response_ids, said[1].response_ids)
    whole = generate(
        tiny.sharpen(build_model("mistral", {**config, "sliding_window": None}, WORDS)), tiny.prompts(), Sampling(12)
    )
    assert torch.equal(said[1].response_ids, whole.response_ids)
    for row, log_probs in enumerate(tiny.log_probs_by_hand(narrow, said[0])):
        mask = said[0].response_mask[row]
        wanted = log_probs.gather(1, said[0].response_ids[row][mask][:, None]).squeeze(1)
        torch.testing.assert_close(said[0].log_probs[row][mask], wanted, atol=1e-5, rtol=0)


def test_what_keeps_a_state_in_place_of_a_cache_is_left_to_transformers():
    model = build_model("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, WORDS).eval()
    with pytest.raises(UserError, match="mamba"):
        FastEngine(model, WORDS)
    engine = choose_engine(model, WORDS)
    assert isinstance(engine, HFEngine)
    assert "mamba" in engine.reason
    assert "\n" not in engine.reason


def test_fast_is_chosen_where_it_can_be():
    engine = choose_engine(tiny.language_model(), WORDS, rows_at_once=2)
    assert isinstance(engine, FastEngine)
    assert engine.rows_at_once == 2
    with pytest.raises(UserError, match="rows_at_once=0"):
        choose_engine(tiny.language_model(), WORDS, rows_at_once=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"min_p": 0.4},
        {"typical_p": 0.2},
        {"epsilon_cutoff": 0.2},
        {"eta_cutoff": 0.2},
        {"suppress_tokens": [3, 4]},
        {"begin_suppress_tokens": [3, 4, 5]},
        {"bad_words_ids": [[3], [4]]},
        {"sequence_bias": [[[3], -10.0]]},
        {"min_new_tokens": 5},
        {"exponential_decay_length_penalty": [1, 9.0]},
        {"forced_bos_token_id": 5, "forced_eos_token_id": 5},
        {"num_beams": 2},
        {"stop_strings": ["a"]},
        {"temperature": 3.0, "top_k": 1, "top_p": 0.1},
        {"max_length": 3, "max_time": 0.0},
        {"num_return_sequences": 2, "do_sample": True},
        {"use_cache": False, "cache_implementation": "static"},
        {"guidance_scale": 3.0},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_the_models_own_generation_settings_do_not_act(settings, engine):
    """What is sampled is the policy."""
    model = tiny.language_model("llama")
    wanted = generate(model, tiny.prompts(), Sampling(8), 3, engine).response_ids
    model.generation_config = GenerationConfig(**settings)
    assert torch.equal(generate(model, tiny.prompts(), Sampling(8), 3, engine).response_ids, wanted)
    assert next(iter(settings)) in model.generation_config.to_diff_dict()  # it is the model's, and saved with it


@pytest.mark.parametrize("named", [[EOS, 3], [3], 3])
def test_every_end_that_the_model_names_ends_a_response(named, engine):
    model = tiny.constant_model({"a": 0.3, "b": 0.4, "<eos>": 0.3})
    assert WORDS.convert_tokens_to_ids("a") == 3
    model.generation_config.eos_token_id = named
    rollout = generate(model, same_prompts(64), Sampling(6), 2, engine)
    ends = set()
    for ids, mask, finished, text in zip(
        rollout.response_ids.tolist(), rollout.response_mask.tolist(), rollout.finished.tolist(), rollout.texts,
        strict=True,
    ):  # fmt: skip
        length = next((i + 1 for i, token in enumerate(ids) if token in (EOS, 3)), len(ids))
        assert mask == [i < length for i in range(len(ids))]
        assert finished == (ids[length - 1] in (EOS, 3))
        assert text == " ".join(["b"] * (length - finished))
        ends |= {ids[length - 1]} if finished else set()
    assert ends == {EOS, 3}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_come_with_the_models_probabilities_at_the_temperature(temperature, engine):
    chances = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
    rollout = generate(tiny.constant_model(chances), same_prompts(4000), Sampling(2, temperature), 11, engine)
    wanted = torch.tensor([chances.get(word, 0.0) for word in tiny.WORDS]) ** (1 / temperature)
    wanted = wanted / wanted.sum()
    for position in range(2):
        assert_drawn_from(rollout.response_ids[:, position].bincount(minlength=len(wanted)).numpy(), wanted.numpy())
    pairs = rollout.response_ids[:, 0] * len(wanted) + rollout.response_ids[:, 1]
    joint = torch.outer(wanted, wanted).flatten()
    assert_drawn_from(pairs.bincount(minlength=len(joint)).numpy(), joint.numpy())


@pytest.mark.parametrize(
    ("filters", "kept"),
    [({"top_k": 2}, [0.5, 0.3, 0, 0]), ({"top_p": 0.7}, [0.5, 0.3, 0, 0]), ({"top_p": 0.85}, [0.5, 0.3, 0.15, 0])],
)
def test_filters_keep_the_likeliest_tokens(filters, kept):
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = torch.rand(4000, generator=torch.Generator().manual_seed(5))
    tokens, _ = draw(chances.log().repeat(4000, 1), Sampling(1, **filters), noise)
    assert_drawn_from(tokens.bincount(minlength=4).numpy(), torch.tensor(kept).numpy())


def test_the_seed_decides_the_text_and_the_global_stream_is_left_alone(model, engine):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(model, tiny.prompts(), Sampling(12), 5, engine)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = generate(model, tiny.prompts(), Sampling(12), 5, engine)
    other = generate(model, tiny.prompts(), Sampling(12), 6, engine)
    assert torch.equal(first.response_ids, again.response_ids)
    assert list(first.texts) == list(again.texts)
    assert list(first.texts) != list(other.texts)


def test_with_a_seed_each_a_response_does_not_depend_on_its_company(model):
    prompts = tiny.prompts()
    together = generate(model, prompts, Sampling(12), seed=[5, 6, 7, 8])
    for row, text in enumerate(prompts.texts):
        alone = generate(model, tiny.prompts([text]), Sampling(12), seed=[5 + row])
        assert alone.texts[0] == together.texts[row]
    assert generate(model, tiny.prompts(["a", "a"]), Sampling(12), seed=[1, 1]).texts[0] != together.texts[0]


def test_an_immediate_end_is_a_response_of_one_token_and_no_text(engine):
    rollout = generate(tiny.constant_model({"<eos>": 1.0}), tiny.prompts(), Sampling(10), engine=engine)
    assert rollout.response_ids.tolist() == [[EOS]] * 4  # all finished at once: nothing more was generated
    assert rollout.response_mask.all()
    assert rollout.finished.all()
    assert list(rollout.texts) == [""] * 4


def test_a_response_without_an_end_stops_at_the_limit_unfinished(engine):
    rollout = generate(tiny.constant_model({"a": 1.0}), tiny.prompts(), Sampling(5), engine=engine)
    assert rollout.response_mask.all()
    assert rollout.response_ids.shape == (4, 5)
    assert not rollout.finished.any()
    assert list(rollout.texts) == ["a a a a a"] * 4


def test_an_end_in_the_last_place_counts_as_finished(engine):
    rollout = generate(tiny.constant_model({"a": 0.5, "<eos>": 0.5}), same_prompts(200), Sampling(1), engine=engine)
    assert torch.equal(rollout.finished, rollout.response_ids[:, 0] == EOS)
    assert 0 < rollout.finished.sum() < 200


def test_the_mask_ends_with_the_end_token_and_padding_follows(engine):
    rollout = generate(
        tiny.constant_model({"a": 0.5, "b": 0.2, "<eos>": 0.3}), same_prompts(64), Sampling(6), 2, engine
    )
    assert 0 < rollout.finished.sum() < 64
    for ids, mask, finished, text in zip(
        rollout.response_ids.tolist(),
        rollout.response_mask.tolist(),
        rollout.finished.tolist(),
        rollout.texts,
        strict=True,
    ):
        length = ids.index(EOS) + 1 if EOS in ids else len(ids)
        assert mask == [i < length for i in range(len(ids))]
        assert ids[length:] == [PAD] * (len(ids) - length)
        assert finished == (EOS in ids)
        assert text == " ".join(tiny.WORDS[i] for i in ids[:length] if i != EOS)


def test_prompts_come_back_with_their_responses(engine):
    prompts = tiny.prompts()
    rollout = generate(tiny.language_model(), prompts, Sampling(3), engine=engine)
    assert list(rollout.prompts.texts) == list(prompts.texts)
    assert rollout.prompts.columns == prompts.columns
    assert torch.equal(rollout.prompts.input_ids, prompts.input_ids)
    assert torch.equal(rollout.prompts.mask, prompts.mask)


def test_dropout_is_off_while_generating_and_the_models_mode_is_restored(engine):
    model = tiny.language_model("opt", dropout=0.5)
    wanted = generate(model, tiny.prompts(), Sampling(12), engine=engine).response_ids
    model.train()
    assert torch.equal(generate(model, tiny.prompts(), Sampling(12), engine=engine).response_ids, wanted)
    assert model.training


def test_the_models_last_position_can_be_used_and_no_more(model):
    prompts = tiny.prompts()
    room = model.config.max_position_embeddings - prompts.input_ids.shape[1]
    handle = model.get_output_embeddings().register_forward_hook(
        lambda head, inputs, output: output.index_fill(-1, torch.tensor([EOS]), -torch.inf)
    )
    assert generate(model, prompts, Sampling(room)).response_mask.all()
    handle.remove()
    with pytest.raises(UserError, match="48 positions"):
        generate(model, prompts, Sampling(room + 1))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
    ],
)
def test_values_out_of_range_are_named(setting, value):
    with pytest.raises(UserError, match=f"{setting}={value}"):
        Sampling(**{"max_new_tokens": 4, setting: value})


def test_training_refuses_filters_and_takes_temperature():
    assert Sampling(4, temperature=0.7).for_training() == Sampling(4, temperature=0.7)
    for filters in ({"top_k": 50}, {"top_p": 0.9}):
        with pytest.raises(UserError, match="filter"):
            Sampling(4, **filters).for_training()


def test_texts_begin_with_what_the_template_has_begun_of_the_answer(engine):
    prompts = replace(tiny.prompts(), prefills=["<think>", "", "x ", ""])
    plain = generate(tiny.language_model(), tiny.prompts(), Sampling(4), engine=engine)
    begun = generate(tiny.language_model(), prompts, Sampling(4), engine=engine)
    assert list(begun.texts) == [p + text for p, text in zip(prompts.prefills, plain.texts, strict=True)]
    assert torch.equal(begun.response_ids, plain.response_ids)
