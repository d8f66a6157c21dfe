"""Log-probabilities and entropies against torch's own distribution, in value and gradient, whole and in parts."""

import pytest
import torch
from torch.distributions import Categorical

from pama_exp.policy import log_probs
from pama_exp.policy.log_probs import statistics_of, token_statistics


def example(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 11, generator=generator)
    logits[0] += 500.0  # far from zero
    logits[1, 2] = -300.0  # impossible in float32
    chosen = torch.randint(0, 11, (7,), generator=generator)
    return logits.to(dtype).requires_grad_(), chosen


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("block", [2**20, 22])
def test_values_and_gradients_are_those_of_torchs_categorical(monkeypatch, temperature, block):
    monkeypatch.setattr(log_probs, "_BLOCK", {"cpu": block})
    logits, chosen = example()
    own = statistics_of(logits, chosen, temperature)
    wanted = Categorical(logits=logits / temperature)
    other = (wanted.log_prob(chosen), wanted.entropy())
    of_log_prob, of_entropy = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    for found, right in zip(own, other, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    for weights in ((of_log_prob, of_entropy), (of_log_prob, None), (None, of_entropy)):
        totals = [
            sum((w * value).sum() for w, value in zip(weights, values, strict=True) if w is not None)
            for values in (own, other)
        ]
        found, right = (torch.autograd.grad(total, logits, retain_graph=True)[0] for total in totals)
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)


def test_low_precision_logits_are_summed_in_float32():
    logits, chosen = example(torch.bfloat16)
    found, _ = statistics_of(logits, chosen, 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0])
    found.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_in_parts_it_is_the_same_and_the_logits_are_not_kept(monkeypatch):
    head = torch.nn.Linear(5, 11)
    hidden = torch.randn(7, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    chosen = torch.arange(7)
    results = []
    for kept in (2**27, 33):
        monkeypatch.setattr(log_probs, "_KEPT", kept)
        sizes: list[int] = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            values = token_statistics(head, hidden, chosen, 0.8, 11)
        results.append((*values, *torch.autograd.grad(values[0].sum() + values[1].sum(), [hidden, *head.parameters()])))
        assert (7 * 11 in sizes) == (kept > 77)
        assert kept > 77 or max(sizes) < 77
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts)
