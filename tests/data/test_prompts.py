import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pama_exp.data.prompts import PromptStream, collate
from pama_exp.errors import UserError

WORDS = tiny.WORDS[3:]


def stream(count: int, per_step: int, seed: int = 0, **more) -> PromptStream:
    return PromptStream(list(WORDS[:count]), tiny.tokenizer(), per_step, seed, **more)


def test_prompts_are_padded_on_the_left_and_the_mask_marks_their_tokens():
    batch = collate(tiny.tokenizer(), ["a b c", "d"], {"kind": [1, 2]})
    a, b, c, d = tiny.tokenizer().convert_tokens_to_ids(list("abcd"))
    assert batch.input_ids.tolist() == [[a, b, c], [0, 0, d]]
    assert batch.mask.tolist() == [[True, True, True], [False, False, True]]
    assert batch.mask.dtype == torch.bool
    assert list(batch.texts) == ["a b c", "d"]
    assert batch.columns == {"kind": [1, 2]}


def test_a_prompt_without_tokens_is_the_users_mistake():
    with pytest.raises(UserError, match="'  '"):
        collate(tiny.tokenizer(), ["a", "  "])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, len(WORDS)), seed=st.integers(0, 2**40), data=st.data())
def test_every_epoch_holds_every_prompt_once(count, seed, data):
    per_step = data.draw(st.integers(1, count))
    prompts = stream(count, per_step, seed)
    epochs = 3
    seen = [text for step in range(-(-epochs * count // per_step)) for text in prompts.batch(step).texts]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == sorted(WORDS[:count])


def test_epochs_and_seeds_have_orders_of_their_own():
    first = [list(stream(16, 16, seed).batch(epoch).texts) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in first}) == 4
    assert list(WORDS[:16]) not in first


def test_a_batch_depends_on_seed_and_step_alone():
    forwards = stream(10, 4, seed=7)
    wanted = [forwards.batch(step) for step in range(8)]
    torch.manual_seed(99)
    for step in reversed(range(8)):  # another object, another order, another global stream
        batch = stream(10, 4, seed=7).batch(step)
        assert list(batch.texts) == list(wanted[step].texts)
        assert torch.equal(batch.input_ids, wanted[step].input_ids)


def test_the_policy_reads_a_template_and_others_what_was_said():
    said = ["a", "b", "c"]
    prompts = PromptStream([f"p {text} o" for text in said], tiny.tokenizer(), 2, seed=3, plain_texts=said)
    for batch in (prompts.batch(0), prompts.batch(1), *prompts.slices(2)):
        assert tiny.tokenizer().batch_decode(batch.input_ids) == [f"p {text} o" for text in batch.texts]


def test_a_group_is_one_prompt_repeated_with_its_columns():
    prompts = stream(8, 3, group_size=4, columns={"word": list(WORDS[:8])})
    texts = list(prompts.batch(1).texts)
    assert len(texts) == 12
    for start in range(0, 12, 4):
        assert len(set(texts[start : start + 4])) == 1
    assert len(set(texts)) == 3
    assert prompts.batch(1).columns["word"] == texts


def test_slices_hold_all_prompts_once_in_order():
    parts = list(stream(7, 2, columns={"word": list(WORDS[:7])}).slices(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [text for part in parts for text in part.texts] == list(WORDS[:7])
    assert [word for part in parts for word in part.columns["word"]] == list(WORDS[:7])


@pytest.mark.parametrize("per_step", [0, 6])
def test_a_step_needs_prompts_that_are_there(per_step):
    with pytest.raises(UserError, match=f"takes {per_step} prompts; the data has 5"):
        stream(5, per_step)
