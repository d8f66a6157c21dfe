"""How many bytes a policy's training takes, from a model without memory for its weights (on the meta device)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pama_exp.policy.log_probs import KEPT, PART

_DRAWN_COPIES = 3  # of the next token's logits while it is drawn: as the head gives them, weights, their running sums
_QUANTISED_BYTES = {8: 1.0, 4: 0.53}  # per weight of a linear layer, scales included


@dataclass(frozen=True)
class Load:
    """What a run asks of a model: the precision and the sizes that memory grows with."""

    weight_bytes: int  # per parameter of the base
    trained_bytes: int  # per parameter that is trained
    bits: int | None
    has_reference_copy: bool
    recomputes: bool  # activation checkpointing
    value_heads: int
    rollout_rows: int
    prompt_tokens: int
    response_tokens: int
    micro_batch_rows: int
    shards: int  # devices that split parameters, gradients and optimiser state
    mixed: bool  # computes in 16 bits on 32-bit weights
    master_bytes: int = 0  # per parameter that is trained: a copy in float32 of what is held in 16 bits
    moment_bytes: int | None = None  # of each of the two, per parameter that is trained; None: as the parameter itself
    packed_tokens: int | None = None  # of a micro-batch without its padding; None: as if every prompt were the longest
    solver_gradients: int = 0  # whole ones that the solver compares, held beside the activations
    watched_gradients: int = 0  # whole ones that diagnostics compare, held beside the update's own


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """All parameters and those that are trained; tied ones count once."""
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


def memory_parts(model: PreTrainedModel, load: Load) -> dict[str, float]:
    """Bytes per device, by what they are for. The optimiser is AdamW: two moments for each trained parameter.

    Not all of it is held at once: see `peak`.
    """
    total, trained = parameter_counts(model)
    frozen = total - trained
    weights = frozen * load.weight_bytes + trained * load.trained_bytes
    if load.bits is not None:
        linear = sum(m.weight.numel() for m in model.base_model.modules() if _is_frozen_linear(m))
        weights -= linear * (load.weight_bytes - _QUANTISED_BYTES[load.bits])
    width = model.get_output_embeddings().weight.shape[1]
    length = load.prompt_tokens + load.response_tokens
    layers = _text(model).num_hidden_layers
    kept = activation_bytes_per_token(model, load.weight_bytes if not load.mixed else 2)
    if load.recomputes:
        inputs = layers * _text(model).hidden_size * min(load.weight_bytes, 2 if load.mixed else 4)
        kept = inputs + kept / layers
    vocabulary = model.get_output_embeddings().weight.shape[0]
    tokens = load.micro_batch_rows * length if load.packed_tokens is None else load.packed_tokens
    logits = load.micro_batch_rows * load.response_tokens * vocabulary
    logits = logits if logits <= KEPT else PART  # of a pass over response tokens; their gradient takes their place
    words = model.get_output_embeddings().weight
    # A backward pass makes it anew beside what is there; where embeddings are tied, the layer's and theirs.
    again = words.numel() * (2 if words is model.get_input_embeddings().weight else 1) if words.requires_grad else 0
    moments = load.trained_bytes if load.moment_bytes is None else load.moment_bytes
    return {
        "weights": weights / load.shards + (total * 2 if load.mixed else 0) / load.shards,
        "gradients": trained * load.trained_bytes / load.shards,
        "optimiser": trained * (2 * moments + load.master_bytes) / load.shards,
        "reference": total * load.weight_bytes / load.shards if load.has_reference_copy else 0,
        "value heads": load.value_heads * (width + 1) * load.trained_bytes * 4,
        "key-value cache": load.rollout_rows * length * cache_bytes_per_token(model, load.weight_bytes),
        "next token": load.rollout_rows * vocabulary * 4 * _DRAWN_COPIES,
        "activations": tokens * kept,
        "logits": logits * load.weight_bytes,
        "output layer's gradient": again * load.trained_bytes,
        "gradients compared": max(load.solver_gradients - 1, load.watched_gradients) * trained * 4 / load.shards,
        "saved policy": total * load.weight_bytes,
    }


def peak(parts: dict[str, float]) -> float:
    """The most held at once: of an update, a generation (an evaluation's too) and saving the policy, the largest."""
    phases = (
        ("activations", "logits", "output layer's gradient", "gradients compared"),
        ("key-value cache", "next token"),
        ("saved policy",),
    )
    held = sum(size for name, size in parts.items() if not any(name in phase for phase in phases))
    return held + max(sum(parts.get(name, 0.0) for name in phase) for phase in phases)


def cache_bytes_per_token(model: PreTrainedModel, element_bytes: int) -> float:
    """Keys and values of one token in every layer."""
    config = _text(model)
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return float(2 * config.num_hidden_layers * kv_heads * head_width * element_bytes)


def activation_bytes_per_token(model: PreTrainedModel, element_bytes: int) -> float:
    """What the trunk keeps of a token for the backward pass.

    Measured: the trunk runs on the meta device at two lengths, and the tensors that autograd saves are counted. The
    part that grows with the length is the attention's scores, which fused attention does not keep: it is left out.
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
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in saved}
    model.train(was_training)
    return float(sum(size for key, size in storages.items() if key not in own))


def _is_frozen_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and not module.weight.requires_grad


def _text(model: PreTrainedModel) -> Any:
    return model.config.get_text_config()
