"""Tiny models of many architectures, random weights, with what each does differently switched on."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

import tiny
from pama_exp.policy.loading import build_model

_SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
}
_LLAMA = {**_SHAPE, "intermediate_size": 32, "num_key_value_heads": 1}
_MIXED = ["sliding_attention", "full_attention"]
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

# Architecture: its configuration. Windows are shorter than the prompts and responses that are tried.
FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "codegen": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48, "rotary_dim": 4, "n_inner": 32},
    "cohere": {**_LLAMA, "logit_scale": 0.25},
    "cohere2": {**_LLAMA, "logit_scale": 0.25, "sliding_window": 3, "layer_types": _MIXED, "head_dim": 8},
    "exaone4": {**_LLAMA, "sliding_window": 3, "layer_types": _MIXED},
    "falcon": {**_SHAPE, "alibi": True, "multi_query": True, "ffn_hidden_size": 32},
    "gemma": {**_LLAMA, "head_dim": 8},
    "gemma2": {
        **_LLAMA,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 3,
        "layer_types": _MIXED,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 3, "layer_types": _MIXED},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "gpt_bigcode": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "n_inner": 32},
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 3,
        "max_position_embeddings": 48,
    },
    "gpt_neox": {**_SHAPE, "intermediate_size": 32},
    "gpt_oss": {**_LLAMA, **_EXPERTS, "head_dim": 8, "sliding_window": 3, "layer_types": _MIXED},
    "gptj": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "rotary_dim": 4, "n_inner": 32},
    "granite": {**_LLAMA, "logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "granitemoe": {**_LLAMA, **_EXPERTS, "logits_scaling": 4.0},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 3},
    "mixtral": {**_LLAMA, **_EXPERTS, "sliding_window": 3},
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2, "expansion_ratio": 2, "max_seq_len": 48},
    "nemotron": {**_LLAMA, "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}},
    "olmo2": _LLAMA,
    "olmo3": {**_LLAMA, "sliding_window": 3, "layer_types": _MIXED},
    "opt": tiny.CONFIGS["opt"],
    "phi": {**_LLAMA, "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}},
    "phi3": {**_LLAMA, "sliding_window": 3},
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 8, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "smollm3": {**_LLAMA, "no_rope_layers": [1, 0]},
    "stablelm": {**_LLAMA, "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.25}},
    "starcoder2": {**_LLAMA, "sliding_window": 3},
}


def model(architecture: str) -> PreTrainedModel:
    """A model of this family with decided opinions."""
    return tiny.sharpen(build_model(architecture, FAMILIES[architecture], tiny.tokenizer()))
