"""The policy: a causal language model with value heads on its trunk, and log-probabilities of its responses.

Legend: K value heads, N objectives, B responses, b some of them, P prompt tokens, T response tokens, H hidden width,
E width of the input embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from pama_exp.errors import UserError
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.attention import arrange, is_arranged
from pama_exp.policy.input_shift import shifted, tell_by_adapter
from pama_exp.policy.log_probs import token_statistics
from pama_exp.policy.logits import head_of
from pama_exp.policy.packing import packed_states
from pama_exp.types import Rollout


@dataclass(frozen=True)
class PolicyOutput:
    """The results of one forward pass over a rollout; zeros on padding, except for `hidden`."""

    log_probs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    values: Float[Tensor, "K B T"]
    hidden: Float[Tensor, "B T H"]  # the state that predicts token t; log_probs and values are functions of it


class Policy(nn.Module):
    """A causal language model with `num_values` value heads in one linear layer, zero at the start.

    A conditioned policy also has a linear map M, zero at the start. For a response with preference w, M (w − 1/N) is
    added to the input embedding of every token. Conditioned in its adapter, M (w − 1/N) instead scales the adapter's
    ranks: B diag(1 + M (w − 1/N)) A x in place of B A x in every adapted layer. Without its map the policy is that of
    the even preference.

    Source: a network conditioned on the weights of the objectives (Abels et al. 2019, "Dynamic weights in
    multi-objective deep reinforcement learning"); for language models, Wang et al. 2024, "Conditional language policy",
    arXiv 2407.15762, and Zhong et al. 2024, "Panacea", arXiv 2402.02030, whose preference enters the singular values of
    an adapter. That the weights enter by the input embeddings, or centred by all ranks, is this project's choice.

    Args:
        model: the language model.
        num_values: K.
        critic_shapes_trunk: whether value losses train the trunk too, or the value heads only.
        adapter: the trained part of the model; None: the whole model is trained.
        conditioned_on: N, the number of objectives of the preference; None: the policy is not conditioned.
        conditioned_in_adapter: whether the preference scales the adapter's ranks, not the input embeddings.

    Raises:
        UserError: if weights are not finite, or the logits depend on more than the last hidden states: the update would
            then compute log-probabilities of another distribution than the one that generates.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        num_values: int,
        critic_shapes_trunk: bool = True,
        adapter: Adapter | None = None,
        conditioned_on: int | None = None,
        conditioned_in_adapter: bool = False,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        _check_finite(model)
        head_of(arrange(model))
        self.model, self.critic_shapes_trunk = model, critic_shapes_trunk
        weight = model.get_output_embeddings().weight
        self.value_heads = nn.Linear(weight.shape[1], num_values, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.value_heads.weight)
        nn.init.zeros_(self.value_heads.bias)
        self.preference_map: nn.Linear | None = None
        self.is_conditioned_in_adapter = conditioned_on is not None and conditioned_in_adapter
        if conditioned_on is not None:
            width = model.get_input_embeddings().weight.shape[1]
            if self.is_conditioned_in_adapter:
                assert adapter is not None, "there is an adapter to be conditioned in"
                tell_by_adapter(model, adapter.gates())
                width = sum(gate.out_features for gate in adapter.gates())
            self.preference_map = nn.Linear(conditioned_on, width, bias=False, device=weight.device, dtype=weight.dtype)
            nn.init.zeros_(self.preference_map.weight)

    def score_rollout(self, rollout: Rollout, temperature: float = 1.0) -> PolicyOutput:
        """One forward pass over a rollout; logits are computed for response tokens only."""
        hidden = response_states(self.model, rollout, self.shift_of(rollout.prompts.preferences))
        log_probs, entropy = _token_statistics(self.model, hidden, rollout, temperature)
        return PolicyOutput(log_probs, entropy, self.values_of(hidden, rollout.response_mask), hidden)

    def shift_of(self, preferences: Float[Tensor, "B N"] | None) -> Float[Tensor, "B E"] | None:
        """The shift of the input embeddings for preferences w, M (w − 1/N); None if the policy is not conditioned."""
        if self.preference_map is None or preferences is None:
            return None
        centred = preferences - 1 / preferences.shape[1]
        shift: Tensor = self.preference_map(centred.to(self.preference_map.weight))
        return shift

    def actor_parameters(self) -> list[nn.Parameter]:
        """The trained parameters of the model and the preference map: all but those of the value heads."""
        actors: list[nn.Module] = [self.model, *([self.preference_map] if self.preference_map is not None else [])]
        return [p for actor in actors for p in actor.parameters() if p.requires_grad]

    def values_of(self, hidden: Float[Tensor, "B T H"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "K B T"]:
        """The values of all heads at the hidden states; zeros on padding."""
        values = self.value_heads(hidden if self.critic_shapes_trunk else hidden.detach()).float().movedim(-1, 0)
        return torch.where(mask, values, 0)


def reference_log_probs(model: PreTrainedModel, rollout: Rollout, temperature: float = 1.0) -> Float[Tensor, "B T"]:
    """Log-probabilities of the response tokens under a frozen, unconditioned model; zeros on padding."""
    with torch.inference_mode():
        log_probs, _ = _token_statistics(model, response_states(model, rollout), rollout, temperature)
    return log_probs.clone()  # an inference-mode tensor may not take part in a loss


def frozen_log_probs(
    policy: Policy, reference: nn.Module | None, rollout: Rollout, temperature: float = 1.0
) -> Float[Tensor, "B T"]:
    """`reference_log_probs` under the frozen copy or, where there is none, under the base of the policy's adapter."""
    if reference is not None:
        return reference_log_probs(reference, rollout, temperature)
    assert policy.adapter is not None, "without a frozen copy there is an adapter to switch off"
    with policy.adapter.off() as base:
        return reference_log_probs(base, rollout, temperature)


def response_states(
    model: PreTrainedModel, rollout: Rollout, shift: Float[Tensor, "B E"] | None = None
) -> Float[Tensor, "B T H"]:
    """Last hidden states that predict the response tokens; arbitrary on padding.

    `shift` is added to the input embeddings of each row's tokens.
    """
    if is_arranged(model):
        return packed_states(model, rollout, shift)
    mask = torch.cat([rollout.prompts.mask, rollout.response_mask], dim=1)
    ids = torch.cat([rollout.prompts.input_ids, rollout.response_ids], dim=1)[:, :-1]
    attention = mask[:, :-1].long()
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    with shifted(model, None if shift is None else shift[:, None]):
        output = model.base_model(input_ids=ids, attention_mask=attention, position_ids=positions, use_cache=False)
    states: Float[Tensor, "B L H"] = output.last_hidden_state  # L = P + T − 1: nothing follows the last token
    return states[:, rollout.prompts.input_ids.shape[1] - 1 :]


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The model in evaluation mode and without gradients, changed in place."""
    return arrange(model.eval().requires_grad_(False))


def select(rollout: Rollout, rows: Int[Tensor, " b"]) -> Rollout:
    """The responses at `rows`, in this order."""
    index = rows.tolist()
    return Rollout(
        prompts=rollout.prompts.rows(index),
        response_ids=rollout.response_ids[rows],
        response_mask=rollout.response_mask[rows],
        finished=rollout.finished[rows],
        texts=[rollout.texts[i] for i in index],
        log_probs=None if rollout.log_probs is None else rollout.log_probs[rows],
        states=None if rollout.states is None else rollout.states[rows],
    )


def trim(rollout: Rollout) -> Rollout:
    """The rollout without response columns that are padding in every row; at least one column is kept."""
    length = max(1, int(rollout.response_mask.sum(-1).max()))
    names = ("response_ids", "response_mask", "log_probs", "states")
    per_token = {name: values for name in names if (values := getattr(rollout, name)) is not None}
    return replace(rollout, **{name: values[:, :length] for name, values in per_token.items()})


def micro_batches(lengths: Int[Tensor, " B"], prompt_length: int, token_budget: int) -> list[Int[Tensor, " b"]]:
    """Row indices of micro-batches: sorted by length, with rows × (P + longest response) ≤ budget, or a single row."""
    parts: list[list[int]] = [[]]
    for row in lengths.argsort(stable=True).tolist():
        longest = max(1, int(lengths[row]))
        if parts[-1] and (len(parts[-1]) + 1) * (prompt_length + longest) > token_budget:
            parts.append([])
        parts[-1].append(row)
    return [torch.tensor(part, device=lengths.device) for part in parts]


def _check_finite(model: PreTrainedModel) -> None:
    """Check that all weights are finite.

    Raises:
        UserError: naming the first weight that is not.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UserError(
                f"The weights of {model.name_or_path or model.config.model_type} hold NaN or infinity, in {name}.",
                "Start from weights that are finite: was the training that made them stable?",
            )


def _token_statistics(
    model: PreTrainedModel, hidden: Float[Tensor, "B T H"], rollout: Rollout, temperature: float
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Log-probabilities and entropies of the response tokens; zeros on padding."""
    valid = rollout.response_mask.flatten().nonzero().squeeze(1)
    states, chosen = functional.embedding(valid, hidden.flatten(0, 1)), rollout.response_ids.flatten()[valid]
    vocabulary = model.get_output_embeddings().weight.shape[0]
    statistics = token_statistics(head_of(model), states, chosen, temperature, vocabulary)
    empty = statistics[0].new_zeros(rollout.response_mask.numel())
    log_probs, entropy = (empty.index_copy(0, valid, values).view_as(rollout.response_mask) for values in statistics)
    return log_probs, entropy
