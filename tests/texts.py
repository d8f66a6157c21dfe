"""Real text on a small scale: a byte tokenizer, a policy's folder, and tables in the real data sets' columns."""

import gzip
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pama_exp.policy.loading import build_model, save

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def byte_tokenizer(chat_template=None, bos=False):
    """One token per byte, in GPT-2's alphabet; with `bos`, one that begins every text, as Llama's has."""
    special = ["<pad>", "<eos>", "<bos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        chat_template=chat_template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def policy_folder(folder, positions=96):
    """A GPT-2 of a few thousand parameters with its tokenizer, as Hugging Face saves them."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": positions}
    save(build_model("gpt2", config, tokenizer), tokenizer, folder)
    return Path(folder)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
