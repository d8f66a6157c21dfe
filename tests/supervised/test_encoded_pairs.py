"""Preference pairs as tokens: what is kept, what is refused in two lines, and how they stand in a rollout."""

import pytest
import torch

import tiny
from pama_exp.data.pairs import Pair
from pama_exp.errors import UserError
from pama_exp.supervised.encoded_pairs import encode_pairs, rollout_of

WORDS = tiny.tokenizer()
GOOD = Pair("a b ", "a b", "c", "d e", "row 1 of the table")
BAD = {
    "its two responses are the same": Pair("a b ", "a b", "c d", "c d", "row 2 of the table"),
    "a response is empty": Pair("a b ", "a b", "c d", "  ", "row 2 of the table"),
    "too long": Pair("a b ", "a b", "c " * 20, "d", "row 2 of the table"),
    "its prompt is empty": Pair("", "", "c", "d", "row 2 of the table"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_pair_is_refused_with_its_place_or_left_out_and_counted(reason):
    with pytest.raises(UserError) as caught:
        encode_pairs([GOOD, BAD[reason]], WORDS, 12, skip=False, may_be_empty=False)
    assert "\n" not in caught.value.message + caught.value.hint
    assert f"1 of 2 preference pairs cannot be learned from; row 2 of the table: {reason}" in caught.value.message
    assert "dpo.bad_pairs=skip" in caught.value.hint
    kept, wrong = encode_pairs([GOOD, BAD[reason]], WORDS, 12, skip=True, may_be_empty=False)
    assert [one.pair for one in kept] == [GOOD]
    assert wrong == {reason: 1}
    with pytest.raises(UserError, match=f"none can be learned from \\({reason}: 1\\)"):
        encode_pairs([BAD[reason]], WORDS, 12, skip=True, may_be_empty=False)


def test_saying_nothing_is_a_response_where_the_world_has_it():
    kept, _ = encode_pairs([Pair("a ", "a", "", "b")], WORDS, 12, skip=False, may_be_empty=True)
    assert (kept[0].chosen, kept[0].rejected) == ([WORDS.eos_token_id], [*WORDS("b")["input_ids"], WORDS.eos_token_id])


def test_a_rollout_holds_the_chosen_then_the_rejected_each_after_its_prompt():
    pairs = [GOOD, Pair("f g h i ", "f g h i", "j k l", "m", columns={})]
    kept, _ = encode_pairs(pairs, WORDS, 20, skip=False, may_be_empty=False)
    rollout = rollout_of(kept, WORDS, torch.device("cpu"))
    read = [
        WORDS.decode([*ids[given].tolist(), *said[mask].tolist()])
        for ids, given, said, mask in zip(
            rollout.prompts.input_ids, rollout.prompts.mask, rollout.response_ids, rollout.response_mask, strict=True
        )
    ]
    assert read == ["a b c <eos>", "f g h i j k l <eos>", "a b d e <eos>", "f g h i m <eos>"]
    assert rollout.texts == ["c", "j k l", "d e", "m"]
    assert rollout.prompts.texts == ["a b", "f g h i", "a b", "f g h i"]
