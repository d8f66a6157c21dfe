"""Predictions of a step behave as the arithmetic says."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as patch:  # a script: its neighbours are imported by their names alone
    patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    scale = importlib.import_module("scale")

REACH = {"generate": 1.0, "reference": 1.0, "update": 1.0}
DEVICE = scale.DEVICES["H100-80GB"]
WORK = replace(scale.Work(), response=16, prompt=16)


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128}
    return scale.skeleton("opt", shape | {"word_embed_proj_dim": 32, "max_position_embeddings": 64})


def seconds(model, work=WORK, devices=2, strategy="ddp", solver="pama", **plan):
    return scale.step_seconds(scale.Plan(model, devices, strategy, **plan), work, DEVICE, solver, REACH)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_device_sends_nothing(model, strategy):
    assert seconds(model, devices=1, strategy=strategy)["links"] == 0


def test_a_ring_sums_gradients_by_sending_each_twice_but_for_the_devices_own_share(model):
    parameters = sum(p.numel() for p in model.parameters())
    assert seconds(model, devices=4)["links"] == pytest.approx(2 * 3 / 4 * 4 * parameters / DEVICE.link)


def test_mgda_costs_pama_and_a_backward_pass_for_each_objective(model):
    added = []
    for objectives in (2, 4):
        work = replace(WORK, objectives=objectives)
        mgda, pama = seconds(model, work, solver="mgda"), seconds(model, work)
        assert mgda["update"] == pama["update"]
        assert mgda["solve"] - pama["solve"] > objectives * 2 / 3 * pama["update"]
        added.append(mgda["solve"] - pama["solve"])
    assert added[1] > 2 * added[0]  # the Gramian's pairs grow with their number


def test_shares_of_the_floor_stretch_their_own_phase(model):
    plan = scale.Plan(model, 2, "ddp")
    half = scale.step_seconds(plan, WORK, DEVICE, "pama", REACH | {"generate": 0.5})
    assert half["generate"] == 2 * seconds(model)["generate"]
    assert half["update"] == seconds(model)["update"]


def test_fsdp_splits_what_is_trained_and_gathers_the_policy_to_generate(model):
    replica = scale.device_bytes(scale.Plan(model, 4, "ddp"), WORK)
    shard = scale.device_bytes(scale.Plan(model, 4, "fsdp"), WORK)
    parameters = sum(p.numel() for p in model.parameters())
    held = 18 * parameters  # weights, gradients and the reference in 16 bits; master copy and two moments in 32
    gathered = 2 * parameters
    assert 3 / 4 * held - gathered <= replica - shard <= 3 / 4 * held


def test_the_measured_shares_are_shares():
    assert all(0 < share < 1 for share in scale.shares().values())
