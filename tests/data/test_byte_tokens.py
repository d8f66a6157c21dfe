import pytest
from transformers import AutoTokenizer

from pama_exp.data.byte_tokens import byte_tokenizer


@pytest.mark.parametrize("text", ["a b", "\n\nHuman: Grüße, 世界!\tno  yes \r\n", " leading", "''\x00~"])
def test_any_text_is_its_bytes_and_comes_back(text, tmp_path):
    words = byte_tokenizer()
    words.save_pretrained(tmp_path)
    for tokenizer in (words, AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_padding_and_end_are_no_bytes():
    words = byte_tokenizer()
    assert (words.pad_token_id, words.eos_token_id, len(words)) == (0, 1, 258)
    assert words("<eos>a")["input_ids"][0] == words.eos_token_id
    assert words.decode([1, *words("a")["input_ids"], 0], skip_special_tokens=True) == "a"
