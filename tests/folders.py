"""Tiny language models of the published classes in real Hugging Face folders, with byte-pair tokenizers trained here."""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pama_exp.world import FactWorld
from rounding import rounding

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
# As in the real repositories: no padding token but in OPT's; a tied head but in Llama's; opt-350m's projections.
CLASSES = {
    "opt": (
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "do_layer_norm_before": False,
        },
        "<pad>",
    ),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}, None),
    "llama": ({**_LLAMA, "tie_word_embeddings": False}, None),
    "qwen2": ({**_LLAMA, "tie_word_embeddings": True}, None),
}
# Two ways through one: per layer four sums over 32, one over 64 and one over a row's tokens; the head and 512 words.
ROUNDING = rounding(torch.float32, 2 * (4 * 32 + 64 + 64) + 32 + 512)


@cache
def _byte_pairs() -> str:
    world = FactWorld(0)
    texts = [f"{prompt} {response}" for prompt, response in world.demonstrations(200, 0)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def byte_pair_tokenizer(pad: str | None = None, eos: str | None = "<|endoftext|>") -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_pairs()),
        eos_token=eos,
        bos_token="<|endoftext|>",
        pad_token=pad,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def save_folder(folder: Path, kind: str = "opt", seed: int = 0, **config) -> Path:
    """A model of that class with random weights, its tokenizer beside it."""
    torch.manual_seed(seed)
    settings, pad = CLASSES[kind]
    tokenizer = byte_pair_tokenizer(pad)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": tokenizer.pad_token_id}
    settings = AutoConfig.for_model(kind, **{"vocab_size": 512, **settings, **ids, **config})
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def share_of_vowels(prompts, completions, **columns):
    """A reward that even untrained models' responses differ in."""
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def distinct_characters(prompts, completions, **columns):
    """Another one."""
    return [len(set(text)) / 50 for text in completions]
