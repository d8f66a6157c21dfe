"""A policy that learns from pairs of responses: the loss of a batch in parts, and how well held-out pairs are ranked.

Legend: B pairs, P prompt tokens, T response tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pama_exp.policy.policy import Policy, frozen_log_probs, micro_batches, select, trim
from pama_exp.supervised.preference_losses import implicit_rewards, pair_loss, preference_logits
from pama_exp.types import Rollout


class PairLearner:
    """The policy and its reference on rollouts of 2B rows: the chosen responses of B pairs, then the rejected ones.

    Args:
        policy: what learns.
        reference: its frozen copy; None: the policy without its adapter.
        beta: of the implicit rewards.
        label_smoothing: the share of labels taken to be swapped.
        weight: of the objective that the pairs are of; 1 for DPO.
        token_budget: prompt and response tokens per forward pass.
    """

    def __init__(
        self,
        policy: Policy,
        reference: nn.Module | None,
        beta: float,
        label_smoothing: float,
        weight: float,
        token_budget: int,
    ) -> None:
        self.policy, self.reference = policy, reference
        self.beta, self.label_smoothing, self.weight = beta, label_smoothing, weight
        self.token_budget = token_budget

    def losses(
        self, rollout: Rollout, margin: Float[Tensor, " B"], row: dict[str, float] | None = None
    ) -> Iterator[Tensor]:
        """Parts whose sum is the mean loss over the pairs; `row` gets what is worth knowing of the batch.

        Args:
            rollout: of the pairs.
            margin: what other objectives make of each pair.
            row: of metrics.
        """
        count = len(rollout) // 2
        ranked, gap = 0.0, 0.0
        for part in self._parts(rollout):
            chosen, rejected = self._rewards(trim(select(rollout, torch.cat([part, part + count]))))
            logits = preference_logits(chosen, rejected, margin[part].to(chosen), self.weight)
            ranked += float((chosen > rejected).sum())
            gap += float((chosen - rejected).detach().sum())
            yield pair_loss(logits, self.label_smoothing).sum() / count
        if row is not None:
            row |= {"pairs/accuracy": ranked / count, "pairs/margin": gap / count, "pairs/learned": float(count)}

    @torch.no_grad()
    def measure(self, batches: Iterable[Rollout]) -> dict[str, float]:
        """The loss without margins, and the share of pairs whose chosen response has the higher implicit reward."""
        loss, ranked, pairs = 0.0, 0, 0
        for rollout in batches:
            count = len(rollout) // 2
            for part in self._parts(rollout):
                chosen, rejected = self._rewards(trim(select(rollout, torch.cat([part, part + count]))))
                loss += float(pair_loss(chosen - rejected).sum())
                ranked += int((chosen > rejected).sum())
            pairs += count
        return {"pairs": pairs, "loss": loss / pairs, "accuracy": ranked / pairs}

    def _rewards(self, rollout: Rollout) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        log_probs = self.policy.score_rollout(rollout).log_probs
        rewards = implicit_rewards(log_probs, frozen_log_probs(self.policy, self.reference, rollout), self.beta)
        half = len(rollout) // 2
        return rewards[:half], rewards[half:]

    def _parts(self, rollout: Rollout) -> list[Tensor]:
        """Indices of pairs, those of similar length together, within the token budget."""
        lengths = rollout.response_mask.sum(-1).view(2, -1).amax(0)
        return micro_batches(lengths, rollout.prompts.input_ids.shape[1], self.token_budget // 2)
