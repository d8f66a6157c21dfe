"""Weights in 16 bits learn as those in 32 do: small steps are not rounded away."""

import copy
import io

import pytest
import torch
from torch import nn

import tiny
from pama_exp.policy.policy import Policy
from pama_exp.training.master_weights import MasterWeightAdamW
from pama_exp.training.optimizer import OptimizerSettings, build_optimizer

STEPS, RATE = 24, 1e-5


def optimizer_of(model):
    policy = Policy(model, num_values=2)
    return build_optimizer(policy, OptimizerSettings(RATE, 1e-3, "constant", 0, 0.0, STEPS))


def trained(dtype, steps=STEPS, resumed_at=None):
    """The weights after steps along the same gradients, whatever they are held in; None but for those."""
    torch.manual_seed(0)
    model = tiny.language_model("llama")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    model.to(torch.bfloat16).to(dtype)  # both start from the same numbers
    optimizer = optimizer_of(model)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.grad = (1.0 + noise).to(torch.bfloat16).to(dtype)
        optimizer.step()
        if step + 1 == resumed_at:
            saved = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
            saved.seek(0)
            state = torch.load(saved, weights_only=True)
            model = copy.deepcopy(model)
            model.load_state_dict(state["model"])
            optimizer = optimizer_of(model)
            optimizer.load_state_dict(state["optimizer"])
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), optimizer


def test_as_many_weights_move_in_bfloat16_as_in_float32():
    start, _ = trained(torch.float32, steps=0)
    full, _ = trained(torch.float32)
    half, optimizer = trained(torch.bfloat16)
    assert isinstance(optimizer, MasterWeightAdamW)
    moved, expected = ((each != start).float().mean().item() for each in (half.float(), full.bfloat16().float()))
    assert expected > 0.5
    assert moved == pytest.approx(expected, abs=0.01)
    step, expected_step = (half.float() - start).mean().item(), (full - start).mean().item()
    assert step == pytest.approx(expected_step, rel=0.05)


def test_in_bfloat16_alone_hardly_any_would():
    torch.manual_seed(0)
    weights = nn.Parameter((torch.randn(10_000) * 0.02).bfloat16())
    start, optimizer = weights.detach().clone(), torch.optim.AdamW([weights], lr=RATE, weight_decay=0.0)
    for _ in range(STEPS):
        weights.grad = torch.ones_like(weights)
        optimizer.step()
    assert (weights != start).float().mean() < 0.25


def test_a_resumed_run_goes_on_from_the_copies_bit_for_bit():
    whole, _ = trained(torch.bfloat16)
    resumed, optimizer = trained(torch.bfloat16, resumed_at=7)
    assert torch.equal(whole, resumed)
    masters = [state["master"] for state in optimizer.state.values()]
    assert masters
    assert all(master.dtype == torch.float32 for master in masters)


def test_weights_in_float32_have_no_copies():
    _, optimizer = trained(torch.float32, steps=1)
    assert type(optimizer) is torch.optim.AdamW
