"""Estimates of the memory that training takes, from a model on the meta device, which holds no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pama_exp.policy.log_probs import KEPT, PART

_DRAWN_COPIES = 3  # while a token is drawn: its logits, their exponentials and cumulative sums
_QUANTISED_BYTES = {8: 1.0, 4: 0.53}  # per weight of a linear layer, scales included


@dataclass(frozen=True)
class Load:
    """The precisions and sizes of a run that determine its memory; bytes are per parameter, others are counts."""

    weight_bytes: int  # per parameter of the base
    trained_bytes: int  # per trained parameter
    bits: int | None
    has_reference_copy: bool
    recomputes: bool  # with activation checkpointing
    value_heads: int
    rollout_rows: int
    prompt_tokens: int
    response_tokens: int
    micro_batch_rows: int
    shards: int  # devices that split parameters, gradients and optimiser state
    mixed: bool  # whether it computes in 16 bits with 32-bit weights
    master_bytes: int = 0  # per trained parameter, of a float32 copy of 16-bit weights
    moment_bytes: int | None = None  # per trained parameter, of each of two moments; None: as the parameter
    packed_tokens: int | None = None  # of a micro-batch without padding; None: as if every prompt were the longest
    solver_gradients: int = 0  # full gradients that the solver compares, held beside the activations
    watched_gradients: int = 0  # full gradients that diagnostics compare, held beside the update's own


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Number of all parameters and of the trained ones; tied parameters count once."""
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


def memory_parts(model: PreTrainedModel, load: Load) -> dict[str, float]:
    """Estimated bytes per device by purpose, for training with AdamW; not all are held at once, see `peak`."""
    total, trained = parameter_counts(model)
    frozen = total - trained
    weights = frozen * load.weight_bytes + trained * load.trained_bytes
    if load.bits is not None:
        linear = sum(m.weight.numel() for m in model.base_model.modules() if _is_frozen_linear(m))
        weights -= linear * (load.weight_bytes - _QUANTISED_BYTES[load.bits])
    width = model.get_output_embeddings().weight.shape[1]
    length = load.prompt_tokens + load.response_tokens
    layers = _text(model).num_hidden_layers
    activations = activation_bytes_per_token(model, load.weight_bytes if not load.mixed else 2)
    if load.recomputes:
        inputs = layers * _text(model).hidden_size * min(load.weight_bytes, 2 if load.mixed else 4)
        activations = inputs + activations / layers
    vocabulary = model.get_output_embeddings().weight.shape[0]
    tokens = load.micro_batch_rows * length if load.packed_tokens is None else load.packed_tokens
    logits = load.micro_batch_rows * load.response_tokens * vocabulary
    logits = logits if logits <= KEPT else PART  # of a pass over response tokens; their gradient takes their place
    words = model.get_output_embeddings().weight
    # A backward pass makes it anew beside what is there; with tied embeddings the layer's, theirs, and the sum of both.
    again = words.numel() * (3 if words is model.get_input_embeddings().weight else 1) if words.requires_grad else 0
    moments = load.trained_bytes if load.moment_bytes is None else load.moment_bytes
    return {
        "weights": weights / load.shards + (total * 2 if load.mixed else 0) / load.shards,
        "gradients": trained * load.trained_bytes / load.shards,
        "optimiser": trained * (2 * moments + load.master_bytes) / load.shards,
        "reference": total * load.weight_bytes / load.shards if load.has_reference_copy else 0,
        "value heads": load.value_heads * (width + 1) * load.trained_bytes * 4,
        "key-value cache": load.rollout_rows * length * cache_bytes_per_token(model, load.weight_bytes),
        "next token": load.rollout_rows * vocabulary * 4 * _DRAWN_COPIES,
        "activations": tokens * activations,
        "logits": logits * load.weight_bytes,
        "output layer's gradient": again * load.trained_bytes,
        "gradients compared": max(load.solver_gradients - 1, load.watched_gradients) * trained * 4 / load.shards,
        "saved policy": total * load.weight_bytes,
    }


def peak(parts: dict[str, float]) -> float:
    """The largest number of bytes held at once: in an update, a generation, or when the policy is saved."""
    phases = (
        ("activations", "logits", "output layer's gradient", "gradients compared"),
        ("key-value cache", "next token"),
        ("saved policy",),
    )
    held = sum(size for name, size in parts.items() if not any(name in phase for phase in phases))
    return held + max(sum(parts.get(name, 0.0) for name in phase) for phase in phases)


def cache_bytes_per_token(model: PreTrainedModel, element_bytes: int) -> float:
    """Bytes of one token's keys and values in all layers, at `element_bytes` per number."""
    config = _text(model)
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return float(2 * config.num_hidden_layers * kv_heads * head_width * element_bytes)


def activation_bytes_per_token(model: PreTrainedModel, element_bytes: int) -> float:
    """Bytes that the trunk keeps per token for the backward pass, at `element_bytes` per number.

    Measured: the trunk runs on the meta device at two lengths, and the tensors that autograd saves are counted. The
    part that grows with the length, attention scores, is left out, since fused attention does not keep it.
    """
    model = model.to(torch.float32 if element_bytes == 4 else torch.bfloat16)
    short, long = (_saved_bytes(model, tokens) / tokens for tokens in (16, 32))
    return 2 * short - long


def _saved_bytes(model: PreTrainedModel, tokens: int) -> float:
    was_training = model.training
    model.eval()
    saved: list[Tensor] = []  # kept alive, so that no two storages share an address
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    extra = {}
    if model.config.model_type != "opt":  # a mask of four dimensions is taken as it is, without a look at its values
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
        extra = {"attention_mask": mask, "position_ids": torch.arange(tokens, device="meta")[None]}

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=ids, use_cache=False, **extra)
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in saved}
    model.train(was_training)
    return float(sum(size for key, size in storages.items() if key not in parameters))


def _is_frozen_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and not module.weight.requires_grad


def _text(model: PreTrainedModel) -> Any:
    return model.config.get_text_config()
