"""Learning from pairs of responses: the loss of a batch in parts, and the accuracy on held-out pairs.

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
    """Computes the losses of rollouts of 2B rows: the chosen responses of B pairs, then the rejected ones.

    Args:
        policy: the policy to train.
        reference: its frozen copy; None if the policy without its adapter is the reference.
        beta: β of the implicit rewards.
        label_smoothing: the assumed share of swapped labels.
        weight: the weight of the objective that the pairs are ranked by; 1 for DPO.
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
        """Parts whose sum is the mean loss over the pairs.

        Args:
            rollout: of the pairs, 2B rows.
            margin: the other objectives' weighted reward difference of each pair.
            row: a row of metrics, to which accuracy, margin and number of the pairs are added.
        """
        count = len(rollout) // 2
        correct, difference = 0.0, 0.0
        for part, chosen, rejected in self._rewards(rollout):
            logits = preference_logits(chosen, rejected, margin[part].to(chosen), self.weight)
            correct += float((chosen > rejected).sum())
            difference += float((chosen - rejected).detach().sum())
            yield pair_loss(logits, self.label_smoothing).sum() / count
        if row is not None:
            row["pairs/accuracy"], row["pairs/margin"] = correct / count, difference / count
            row["pairs/learned"] = float(count)

    @torch.no_grad()
    def measure(self, batches: Iterable[Rollout]) -> dict[str, float]:
        """{pairs, loss, accuracy}: the number of pairs, their mean loss without margins, and the share ranked right."""
        loss, correct, pairs = 0.0, 0, 0
        for rollout in batches:
            for _, chosen, rejected in self._rewards(rollout):
                loss += float(pair_loss(chosen - rejected).sum())
                correct += int((chosen > rejected).sum())
            pairs += len(rollout) // 2
        return {"pairs": pairs, "loss": loss / pairs, "accuracy": correct / pairs}

    def _rewards(self, rollout: Rollout) -> Iterator[tuple[Tensor, Float[Tensor, " b"], Float[Tensor, " b"]]]:
        """Indices of b pairs within the token budget, and the implicit rewards of their two responses."""
        count = len(rollout) // 2
        lengths = rollout.response_mask.sum(-1).view(2, -1).amax(0)
        for part in micro_batches(lengths, rollout.prompts.input_ids.shape[1], self.token_budget // 2):
            rows = trim(select(rollout, torch.cat([part, part + count])))
            log_probs = self.policy.score_rollout(rows).log_probs
            rewards = implicit_rewards(log_probs, frozen_log_probs(self.policy, self.reference, rows), self.beta)
            yield part, rewards[: len(part)], rewards[len(part) :]
