"""Tiny real transformers models and a word tokenizer, built on the spot: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pama_exp.data.prompts import collate
from pama_exp.policy.loading import build_model
from pama_exp.types import PromptBatch, Rollout
from rounding import rounding

WORDS = ("<pad>", "<eos>", "<unk>", *"abcdefghijklmnop")
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 48,
}
CONFIGS: dict[str, dict[str, Any]] = {
    # word_embed_proj_dim ≠ hidden_size and the norm after the layers, as in opt-350m: there is a project_out.
    "opt": {
        "hidden_size": 16,
        "word_embed_proj_dim": 8,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "do_layer_norm_before": False,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "llama": _LLAMA,
    "qwen2": _LLAMA,
}
ARCHITECTURES = tuple(CONFIGS)
# Two ways through a model of these sizes: per layer four sums over 16 (queries, keys, outputs, hidden units), one over
# 32 and one over a row's tokens; then the head's and the softmax's over the words.
ROUNDING = rounding(torch.float32, 2 * (4 * 16 + 32 + 16) + 16 + len(WORDS))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, split at white space; it adds no special tokens."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def sharpen(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Weights large enough that contexts and positions change the predictions visibly; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.4, generator=generator)
    return model.eval()


def language_model(architecture: str = "opt", seed: int = 0, **config: Any) -> PreTrainedModel:
    """A causal language model with decided opinions."""
    return sharpen(build_model(architecture, {**CONFIGS[architecture], **config}, tokenizer()), seed)


def constant_model(probabilities: dict[str, float]) -> PreTrainedModel:
    """A GPT-2 that gives every next token the same distribution, whatever came before."""
    model = build_model("gpt2", CONFIGS["gpt2"], tokenizer()).eval()
    with torch.no_grad():
        # The last norm gives the first unit vector, so that the logits are the first column of the head.
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
        model.transformer.ln_f.bias[0] = 1.0
        chances = torch.tensor([probabilities.get(word, 0.0) for word in WORDS])
        model.lm_head.weight[:, 0] = chances.log().clamp(min=-1e4)
    return model


def prompts(texts: Sequence[str] = ("a b c", "d", "e f g h i", "b a")) -> PromptBatch:
    """Prompts of unequal length."""
    return collate(tokenizer(), list(texts), {"row": list(range(len(texts)))})


def rollout(
    responses: Sequence[str] = ("a b <eos>", "<eos>", "c d e f", "g <eos>"), asked: PromptBatch | None = None
) -> Rollout:
    """These responses to what was asked, by default `prompts()`, as an engine would return them."""
    words = tokenizer()
    rows = [words(response)["input_ids"] for response in responses]
    length = max(map(len, rows))
    return Rollout(
        prompts=prompts() if asked is None else asked,
        response_ids=torch.tensor([row + [words.pad_token_id] * (length - len(row)) for row in rows]),
        response_mask=torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None],
        finished=torch.tensor([response.endswith("<eos>") for response in responses]),
        texts=[response.removesuffix("<eos>").strip() for response in responses],
    )


def log_probs_by_hand(model: PreTrainedModel, rollout: Rollout, temperature: float = 1.0) -> list[torch.Tensor]:
    """Per row, log-probabilities (tokens of the response, vocabulary) from the row alone, without any padding."""
    found = []
    for row in range(len(rollout)):
        prompt = rollout.prompts.input_ids[row][rollout.prompts.mask[row]]
        response = rollout.response_ids[row][rollout.response_mask[row]]
        ids = torch.cat([prompt, response])[None]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
        found.append((logits / temperature).log_softmax(-1))
    return found
