"""A byte tokenizer: one token per byte, so that it needs no file and can encode any text."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, END = "<pad>", "<eos>"


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer. Ids: padding 0, end of sequence 1, then the 256 bytes in GPT-2's alphabet. It pads on the left."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate([PAD, END, *alphabet])}, []))
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, END)])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
