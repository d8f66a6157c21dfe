"""The Gramian of chosen gradients is that of gradients taken by hand, however little of them is held at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from commands import FAST, composed
from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
from pama_exp.errors import UserError
from pama_exp.training import update
from pama_exp.training.cost import Cost
from pama_exp.training.gramian import (
    CountSketch,
    GramianSettings,
    advantage_gramian,
    parameter_gramian,
    selected,
    trainable,
)

OBJECTIVES = 3


@pytest.fixture(scope="module")
def stepped(shared_cache):
    """A module and its experience, to be split by any token budget."""
    config = schema.typed(
        composed(
            *FAST,
            "reward=gold",
            "solver=mgda",
            "objectives=[helpful,concise,polite]",
            f"cache_dir={shared_cache}",
            "output=unused",
        )
    )
    setup = resolve(config)
    module = build_alignment(setup, setup.task.start_policy())
    module.policy.eval()
    experience = module._collect()
    # Signals of every size and sign, in place of those that an untrained policy earns.
    signals = torch.randn(experience.combined.shape, generator=torch.Generator().manual_seed(0))
    return module, replace(experience, combined=signals * experience.rollout.response_mask)


def terms_in(module, experience, budget):
    object.__setattr__(module.loss.settings, "micro_batch_tokens", budget)
    return module.loss._terms_of(experience, 0.0, Cost())


def by_hand(module, experience, inputs_of):
    """(K, K) from K gradients of the whole batch's surrogates."""
    tokens = experience.rollout.response_mask.sum()
    whole = module.loss._terms(experience, tokens, 0.0, experience.combined)
    inputs = inputs_of(whole)
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) for loss in whole.surrogates]
    rows = torch.stack([torch.cat([g.flatten() for g in row if g is not None]) for row in gradients])
    return rows @ rows.T


@pytest.mark.parametrize("budget", [100_000, 300])
@pytest.mark.parametrize("hold", ["all", "host", "one"])
def test_however_many_gradients_are_held_the_products_are_the_same(stepped, hold, budget):
    module, experience = stepped
    expected = by_hand(module, experience, lambda _: trainable(module.policy.model))
    terms = terms_in(module, experience, budget)
    found = parameter_gramian(terms, module.policy, OBJECTIVES, GramianSettings(hold=hold), seed=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("budget", [100_000, 300])
def test_the_last_layers_gradients_are_those_of_its_parameters_alone(stepped, budget):
    module, experience = stepped
    layer = module.policy.model.model.decoder.layers[-1]
    expected = by_hand(module, experience, lambda _: list(layer.parameters()))
    terms = terms_in(module, experience, budget)
    found = parameter_gramian(terms, module.policy, OBJECTIVES, GramianSettings("last-layer"), seed=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(found, by_hand(module, experience, lambda _: trainable(module.policy.model)), rtol=0.1)


@pytest.mark.parametrize("budget", [100_000, 300])
def test_one_pass_through_the_head_gives_the_hidden_states_products(stepped, budget):
    module, experience = stepped
    expected = by_hand(module, experience, lambda whole: [whole.hidden])
    found = module.loss.gramian(terms_in(module, experience, budget), OBJECTIVES, 0, Cost(), 0)("hidden")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_an_adapters_gradients_are_those_of_its_parameters_alone(stepped):
    module, _ = stepped
    layer = module.policy.model.model.decoder.layers[0].self_attn.q_proj
    layer.lora_A = nn.Linear(4, 2)
    try:
        assert selected(module.policy, "adapter") == [layer.lora_A.weight, layer.lora_A.bias]
        layer.lora_A.bias.requires_grad_(False)
        assert selected(module.policy, "adapter") == [layer.lora_A.weight]
    finally:
        del layer.lora_A
    with pytest.raises(UserError, match="adapter"):
        selected(module.policy, "adapter")


def test_a_sketchs_products_are_right_on_average_and_as_near_as_its_size_says():
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(3, 5000, generator=generator)
    g[1] = 0.7 * g[0] + 0.3 * g[1]
    exact, dimension, draws = g @ g.T, 64, 400
    estimates = []
    for seed in range(draws):
        rows = torch.zeros(3, dimension)
        for row, gradient in zip(rows, g, strict=True):
            CountSketch(dimension, seed).add(gradient.split([1000, 0, 4000]), row)
        estimates.append(rows @ rows.T)
    found = torch.stack(estimates)
    norms = exact.diagonal()
    bound = ((norms[:, None] * norms[None, :] + exact.square()) / dimension).sqrt()
    assert ((found.mean(0) - exact).abs() < 4 * bound / draws**0.5).all()
    assert (found.std(0) < 1.2 * bound).all()
    assert (found.std(0) > 0.6 * bound).all()  # the bound is attained but for a term of order 1/d


@pytest.mark.parametrize("budget", [100_000, 300])
def test_a_sketched_gramian_is_near_the_exact_one(stepped, budget):
    module, experience = stepped
    exact = by_hand(module, experience, lambda _: trainable(module.policy.model))
    settings = GramianSettings("sketch", sketch_dimension=4096)
    terms = terms_in(module, experience, budget)
    found = parameter_gramian(terms, module.policy, OBJECTIVES, settings, seed=3)
    scale = (exact.diagonal()[:, None] * exact.diagonal()[None, :]).sqrt()
    assert ((found - exact).abs() < 5 * scale / 4096**0.5).all()
    other = parameter_gramian(terms, module.policy, OBJECTIVES, settings, seed=4)
    assert not torch.allclose(found, other, rtol=1e-6)


@pytest.mark.parametrize("hold", ["all", "one"])
def test_the_bill_counts_every_backward_pass_of_the_gramian(stepped, hold):
    module, experience = stepped
    object.__setattr__(module.loss.settings, "gramian", GramianSettings(hold=hold))
    bill = Cost()
    module.loss.gramian(terms_in(module, experience, 100_000), OBJECTIVES, 0, bill, 16)("parameters")
    assert bill.backwards == 16 * (3 if hold == "all" else 6)
    object.__setattr__(module.loss.settings, "gramian", GramianSettings())


@pytest.mark.parametrize(
    ("target", "trained", "rows", "inputs_of"),
    [
        ("auto", 5_000_000, 16, lambda policy: trainable(policy.model)),
        ("auto", 0, 4, lambda policy: trainable(policy.model.model.decoder.layers[-1])),
        ("full", 0, 16, lambda policy: trainable(policy.model)),
        ("last-layer", 5_000_000, 16, lambda policy: trainable(policy.model.model.decoder.layers[-1])),
    ],
)
def test_diagnostics_of_a_large_model_look_at_its_last_block_and_few_responses(
    stepped, monkeypatch, target, trained, rows, inputs_of
):
    module, experience = stepped
    monkeypatch.setattr(update, "SMALL_MODEL", trained)
    monkeypatch.setattr(update, "_DIAGNOSED_RESPONSES", 4)
    wanted = None if target == "auto" else GramianSettings(target)
    object.__setattr__(module.loss.settings, "diagnostics", wanted)
    signals = replace(experience, advantages=experience.combined)
    seen = signals.rows(torch.arange(rows))
    gramian = by_hand(module, seen, lambda _: inputs_of(module.policy))
    found = module.loss.diagnose(signals)
    norms = gramian.diagonal().sqrt()
    assert len(experience.rollout) == 16
    for i, name in enumerate(module.names):
        assert found[f"solver/gradient_norm/{name}"] == pytest.approx(norms[i].item(), rel=1e-3)
        for j, other in enumerate(module.names[:i]):
            cosine = (gramian[i, j] / norms[i] / norms[j]).item()
            assert found[f"solver/cosine/{other}~{name}"] == pytest.approx(cosine, abs=1e-3)


def test_the_products_of_advantages_are_numpys_covariance_over_valid_tokens(stepped):
    _, experience = stepped
    mask = experience.rollout.response_mask
    rows = experience.combined[:, mask].double().numpy()
    found = advantage_gramian(torch.where(mask, experience.combined, 1e3), mask)
    np.testing.assert_allclose(found.numpy(), np.cov(rows, ddof=0), rtol=1e-4)
    assert advantage_gramian(experience.combined, torch.zeros_like(mask)).abs().sum() == 0


@pytest.mark.parametrize("solver", ["mgda", "nash-mtl", "pcgrad", "gapo"])
def test_solvers_find_their_weights_from_advantages_without_a_pass(stepped, shared_cache, solver):
    """The Gramian that the solver is given is the advantages', and the bill has one backward pass."""
    _, experience = stepped
    config = schema.typed(
        composed(
            *FAST, "reward=gold", f"solver={solver}", "training.gramian.target=advantages",
            "objectives=[helpful,concise,polite]", f"cache_dir={shared_cache}", "output=unused",
        )
    )  # fmt: skip
    setup = resolve(config)
    module = build_alignment(setup, setup.task.start_policy())
    asked, original = [], module.solver.on_losses
    module.solver.on_losses = lambda losses, gramian: (asked.append(gramian()), original(losses, gramian))[1]
    cost = Cost()
    module.loss.backward(experience, 0.0, cost, lambda loss: loss.backward())
    torch.testing.assert_close(asked[0], advantage_gramian(experience.combined, experience.rollout.response_mask))
    assert cost.backwards == len(experience.rollout)
    gradients = torch.cat([p.grad.flatten() for p in trainable(module.policy) if p.grad is not None])
    assert gradients.norm() > 0
