"""Prompts, demonstrations and pairs from tables in the columns of the real data sets."""

import random

import pytest

from pama_exp.data import chat
from pama_exp.data.text import Reading, TextData
from pama_exp.errors import UserError
from texts import TEMPLATE, byte_tokenizer

EVEN = (("train", 0.4), ("validation", 0.3), ("test", 0.3))
SPLITS = ("train", "validation", "test")


def text_data(table, tokenizer=None, **settings):
    return TextData(table, tokenizer or byte_tokenizer(), Reading(**{"splits": EVEN, **settings}))


def all_texts(data):
    return [text for split in SPLITS for text in data.texts(split)]


QUESTIONS = {"prompt": [f"question {i}" for i in range(200)], "topic": [i % 7 for i in range(200)]}


def test_every_prompt_is_in_one_split_and_shares_are_about_as_asked():
    data = text_data(QUESTIONS)
    assert sorted(all_texts(data)) == sorted(QUESTIONS["prompt"])
    sizes = {split: len(data.texts(split)) for split in SPLITS}
    assert all(abs(sizes[name] - share * 200) < 30 for name, share in EVEN)  # over four standard deviations


def test_order_and_splits_are_the_seeds_and_not_the_files():
    mixed = list(range(200))
    random.Random(0).shuffle(mixed)
    shuffled = {name: [values[i] for i in mixed] for name, values in QUESTIONS.items()}
    one, two, other = text_data(QUESTIONS), text_data(shuffled), text_data(QUESTIONS, seed=1)
    for split in SPLITS:
        assert one.texts(split) == two.texts(split) != other.texts(split)
    assert one.texts("train") != sorted(one.texts("train"))


def test_more_rows_move_no_prompt_to_another_split():
    few = text_data({name: values[:100] for name, values in QUESTIONS.items()})
    more = text_data(QUESTIONS)
    for split in SPLITS:
        assert set(few.texts(split)) < set(more.texts(split))


def test_other_columns_stay_beside_their_prompts():
    data = text_data(QUESTIONS)
    topics = dict(zip(QUESTIONS["prompt"], QUESTIONS["topic"], strict=True))
    for split in SPLITS:
        assert data.columns(split) == {"topic": [topics[text] for text in data.texts(split)]}


def test_a_prompt_that_comes_twice_is_kept_once_with_its_first_row():
    doubled = {name: [*values, *values] for name, values in QUESTIONS.items()}
    doubled["row"] = list(range(400))
    data = text_data(doubled)
    assert sorted(all_texts(data)) == sorted(QUESTIONS["prompt"])
    assert max(max(data.columns(split)["row"]) for split in SPLITS) < 200


def test_lengths_are_counted_in_the_policys_tokens():
    words = {"prompt": ["x" * n for n in range(1, 60)]}
    for tokenizer, more in ((byte_tokenizer(), 0), (byte_tokenizer(bos=True), 1)):
        data = text_data(words, tokenizer, min_prompt_tokens=20, max_prompt_tokens=40)
        assert {len(text) for text in all_texts(data)} == set(range(20 - more, 41 - more))
        assert len(data.longest()) == 40 - more
    assert min(len(text) for text in all_texts(text_data(words, min_characters=30))) == 30


def test_empty_and_missing_prompts_are_left_out():
    data = text_data({"prompt": [None, "", "  \n", *QUESTIONS["prompt"]]})
    assert sorted(all_texts(data)) == sorted(QUESTIONS["prompt"])


def conversation(i, *more):
    return [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"answer {i}"}, *more]


def test_conversations_use_the_chat_template_where_there_is_one():
    table = {"messages": [conversation(i) for i in range(60)]}
    plain = text_data(table, format="messages", column="messages")
    assert sorted(all_texts(plain)) == sorted(f"\n\nHuman: ask {i}\n\nAssistant:" for i in range(60))
    templated = text_data(table, byte_tokenizer(TEMPLATE), format="messages", column="messages")
    assert sorted(all_texts(templated)) == sorted(f"<user>ask {i}<assistant>" for i in range(60))
    prompts = dict(templated.demonstrations("train"))
    assert all(answer == prompt[6:-11].replace("ask", "answer") for prompt, answer in prompts.items())
    for prompt, said in zip(templated.texts("train"), templated.plain_texts("train"), strict=True):
        assert said == f"\n\nHuman: {prompt[6:-11]}\n\nAssistant:"
    assert plain.plain_texts("train") == plain.texts("train")


def test_reward_models_learn_from_prompts_without_the_template():
    table = QUESTIONS | {"chosen": ["yes"] * len(QUESTIONS["prompt"]), "rejected": ["no"] * len(QUESTIONS["prompt"])}
    data = text_data(table, byte_tokenizer(TEMPLATE))
    assert data.texts("train")[0].startswith("<user>")
    assert {prompt for split in SPLITS for prompt, _, _ in data.preference_pairs(split)} == set(QUESTIONS["prompt"])
    assert {prompt for split in SPLITS for prompt in data.plain_texts(split)} == set(QUESTIONS["prompt"])


def test_a_conversation_that_ends_with_the_user_is_a_prompt_without_answer():
    table = {"messages": [conversation(i, {"role": "user", "content": "and?"}) for i in range(40)]}
    data = text_data(table, format="messages", column="messages")
    assert data.texts("test")[0].endswith("\n\nHuman: and?\n\nAssistant:")
    assert "\n\nAssistant: answer" in data.texts("test")[0]
    with pytest.raises(UserError, match="No row of the train split has a response"):
        data.demonstrations("train")


def test_a_prompt_column_may_hold_messages_and_a_system_message():
    table = {
        "prompt": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": str(i)}] for i in range(40)]
    }
    assert "Be brief.\n\nHuman: 7\n\nAssistant:" in all_texts(text_data(table))


def test_a_template_that_writes_the_beginning_token_does_not_double_it():
    tokenizer = byte_tokenizer("{{ bos_token }}" + TEMPLATE, bos=True)
    text = chat.render([{"role": "user", "content": "hi"}], tokenizer)
    assert text == "<user>hi<assistant>"
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("message", [{"content": "hi"}, {"role": "user", "content": None}, "hi", 3])
def test_a_message_without_role_and_content_is_shown(message):
    with pytest.raises(UserError, match="no role and content"):
        chat.render([message], byte_tokenizer())


HH = {
    "chosen": [f"\n\nHuman: first {i}\n\nAssistant: yes\n\nHuman: more {i}\n\nAssistant: good {i}" for i in range(60)],
    "rejected": [f"\n\nHuman: first {i}\n\nAssistant: yes\n\nHuman: more {i}\n\nAssistant: bad {i}" for i in range(60)],
}


def test_hh_rlhf_prompts_end_where_the_last_answer_begins():
    data = text_data(HH, format="transcript", column="chosen")
    wanted = [f"\n\nHuman: first {i}\n\nAssistant: yes\n\nHuman: more {i}\n\nAssistant:" for i in range(60)]
    assert sorted(all_texts(data)) == sorted(wanted)
    pairs = [pair for split in SPLITS for pair in data.preference_pairs(split)]
    assert sorted(pairs) == sorted((wanted[i], f"good {i}", f"bad {i}") for i in range(60))
    demonstrations = [pair for split in SPLITS for pair in data.demonstrations(split)]
    assert sorted(demonstrations) == sorted((wanted[i], f" good {i}") for i in range(60))
    assert [prompt for prompt, _, _ in data.preference_pairs("test")] == data.texts("test")


def test_several_answers_to_a_prompt_are_several_demonstrations_of_one_split():
    table = {"prompt": [f"q {i // 3}" for i in range(120)], "completion": [f"a {i}" for i in range(120)]}
    data = text_data(table)
    found = {split: data.demonstrations(split) for split in SPLITS}
    assert sorted(answer for pairs in found.values() for _, answer in pairs) == sorted(table["completion"])
    for split in SPLITS:
        assert len(found[split]) == 3 * len(data.texts(split))
        assert {prompt for prompt, _ in found[split]} == set(data.texts(split))


def test_imdb_prompts_are_prefixes_of_random_length():
    reviews = {"text": [f"{i:03d} film. " + "so it goes, " * 20 for i in range(300)], "label": [0] * 300}
    settings = {"format": "prefix", "column": "text", "prefix_tokens": (4, 9), "min_characters": 201}
    data = text_data(reviews, **settings)
    texts = all_texts(data)
    assert {len(text) for text in texts} == {4, 5, 6, 7, 8, 9}
    assert all(any(review.startswith(text) for review in reviews["text"]) for text in texts)
    assert texts == all_texts(text_data(reviews, **settings)) != all_texts(text_data(reviews, **settings, seed=3))
    assert {prompt + rest for prompt, rest in data.demonstrations("test")} <= set(reviews["text"])
    short = {"text": [*reviews["text"], *(f"short {i}" for i in range(50))]}
    assert all_texts(text_data(short, **settings)) == texts


def test_conversational_pairs_and_pairs_without_a_prompt():
    pairs = {
        "chosen": [conversation(i) for i in range(40)],
        "rejected": [[conversation(i)[0], {"role": "assistant", "content": "no"}] for i in range(40)],
    }
    data = text_data(pairs, format="messages", column="chosen")
    assert all(
        p.startswith("\n\nHuman: ask") and c.startswith("answer") and r == "no"
        for p, c, r in data.preference_pairs("train")
    )
    whole = {"chosen": [f"good {i}" for i in range(40)], "rejected": ["bad"] * 40}
    data = text_data(whole, format="whole", column="chosen")
    found = [pair for split in SPLITS for pair in data.preference_pairs(split)]
    assert sorted(found) == sorted(("", f"good {i}", "bad") for i in range(40))


def test_pairs_that_do_not_differ_teach_nothing():
    table = {**QUESTIONS, "chosen": ["same"] * 200, "rejected": ["same"] * 200}
    with pytest.raises(UserError, match="two responses that differ"):
        text_data(table).preference_pairs("train")


@pytest.mark.parametrize(
    ("table", "settings", "said"),
    [
        (QUESTIONS, {"column": "promt"}, ["data.column=promt", "prompt, topic"]),
        (QUESTIONS, {"column": "topic"}, ["data.column=topic", "'0'", "text"]),
        (QUESTIONS, {"format": "messages"}, ["data.column=prompt", "messages"]),
        (QUESTIONS, {"max_prompt_tokens": 5}, ["200 rows none", "10 to 12 tokens", "max_prompt_tokens=5"]),
        (QUESTIONS, {"min_characters": 500}, ["200 rows none", "min_characters=500"]),
        ({"prompt": ["only one"]}, {}, ["1 prompts none falls", "split"]),
        (QUESTIONS, {"prefix_tokens": (5, 2)}, ["prefix_tokens=[5, 2]"]),
        (QUESTIONS, {"splits": (("train", 0.9), ("test", 0.1))}, ["validation"]),
        (QUESTIONS, {"splits": (("train", 0.9), ("validation", 0.1), ("test", 0.1))}, ["sum to 1"]),
    ],
)
def test_what_does_not_fit_is_named(table, settings, said):
    with pytest.raises(UserError) as caught:
        text_data(table, **settings)
    assert "\n" not in caught.value.message + caught.value.hint
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda data: data.demonstrations("train"), "data.completion=completion"),
        (lambda data: data.preference_pairs("train"), "data.chosen=chosen"),
        (lambda data: data.texts("trian"), "no split 'trian'"),
    ],
)
def test_what_is_learned_from_needs_its_columns(ask, said):
    with pytest.raises(UserError, match=said):
        ask(text_data(QUESTIONS))


NO_TEXT = [  # a response that is neither text nor a conversation that the assistant ends
    (3, "holds 3 where text is wanted"),
    (0, "holds 0 where text is wanted"),
    (1.5, "holds 1.5 where"),
    (True, "holds true where"),
    ({"a": 1}, "holds {'a': 1} where"),
    (["a", "b"], "no role and content"),
    ([{"role": "user", "content": "x"}], "ends with a turn of 'user'"),
    ([{"role": "assistant", "content": "x"}, {"role": "system", "content": "y"}], "ends with a turn of 'system'"),
]


@pytest.mark.parametrize(("value", "said"), NO_TEXT, ids=[str(value) for value, _ in NO_TEXT])
@pytest.mark.parametrize("learned", ["demonstrations", "preference_pairs", "policy_pairs"])
def test_a_response_that_is_no_text_is_named(learned, value, said):
    table = QUESTIONS | {"completion": [value] * 200, "chosen": [value] * 200, "rejected": ["no"] * 200}
    with pytest.raises(UserError) as caught:
        getattr(text_data(table), learned)("train")
    assert said in caught.value.message
