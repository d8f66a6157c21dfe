"""Log-probabilities and entropies against torch's own distribution, in value and gradient, whole and in parts."""

import pytest
import torch
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

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


class Allocations(TorchDispatchMode):
    """The storages of at least so many numbers that operations make; held, so that none takes another's place."""

    def __init__(self, least):
        super().__init__()
        self.least, self.storages = least, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.numel() >= self.least:
            self.storages[found.untyped_storage()._cdata] = found
        return found


class Scaled(torch.nn.Linear):
    """A head that is more than a product."""

    def forward(self, states):
        return 2 * super().forward(states)


@pytest.fixture
def small_parts(monkeypatch):
    """Seven rows of eleven words are whole, three parts of logits without a graph, and blocks of one row."""
    monkeypatch.setattr(log_probs, "PART", 33)
    monkeypatch.setattr(log_probs, "_BLOCK", {"cpu": 11})
    return monkeypatch


def states(head):
    hidden = torch.randn(7, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    return hidden, torch.arange(7), [hidden, *head.parameters()]


def total(values):
    return (values[0] * torch.arange(7)).sum() + 0.3 * (values[1] * torch.arange(7)).sum()


@pytest.mark.parametrize("kept", [2**27, 33])
@pytest.mark.parametrize("kind", [torch.nn.Linear, Scaled])
@pytest.mark.parametrize("bias", [True, False])
def test_of_a_head_it_is_torchs_own_once_and_again(small_parts, kept, kind, bias):
    small_parts.setattr(log_probs, "KEPT", kept)
    head = kind(5, 11, bias=bias)
    hidden, chosen, learned = states(head)
    wanted = Categorical(logits=head(hidden) / 0.8)
    right = (wanted.log_prob(chosen), wanted.entropy())
    found = token_statistics(head, hidden, chosen, 0.8, 11)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other)
    gradients = torch.autograd.grad(total(right), learned)
    for retain in (True, True, False):  # the first two leave the graph for the next
        again = torch.autograd.grad(total(found), learned, retain_graph=retain)
        for one, other in zip(again, gradients, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kept", "whole"), [(2**27, 1), (33, 0)])
def test_rows_by_vocabulary_numbers_are_never_held_twice(small_parts, kept, whole):
    small_parts.setattr(log_probs, "KEPT", kept)
    head = torch.nn.Linear(5, 11, bias=False)
    hidden, chosen, learned = states(head)
    with Allocations(7 * 11) as seen:
        torch.autograd.grad(total(token_statistics(head, hidden, chosen, 1.0, 11)), learned)
    assert len(seen.storages) == whole
    with torch.no_grad(), Allocations(7 * 11) as seen:
        token_statistics(head, hidden, chosen, 1.0, 11)
    assert not seen.storages


def test_the_weights_gradient_is_not_made_for_the_states_alone():
    head = torch.nn.Linear(5, 11, bias=False)
    hidden, chosen, learned = states(head)
    found = total(token_statistics(head, hidden, chosen, 1.0, 11))
    made = {}
    for wanted in (learned[:1], learned):
        with FlopCounterMode(display=False) as flops:
            torch.autograd.grad(found, wanted, retain_graph=True)
        made[len(wanted)] = flops.get_total_flops()
    assert made[1] == 2 * 7 * 5 * 11
    assert made[2] == 2 * made[1]
