"""A policy that is told its preference in its adapter: every pass against one with the row's own weights written out."""

import copy
from dataclasses import replace

import pytest
import torch

import tiny

pytest.importorskip("peft")
from pama_exp.errors import UserError
from pama_exp.policy import export as export_module
from pama_exp.policy.adapters import Adapter, gates_of, quiet
from pama_exp.policy.export import export, load_preference_map
from pama_exp.policy.policy import Policy, frozen_log_probs, reference_log_probs
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.fast import FastEngine
from pama_exp.rollout.hf import HFEngine

PROMPTS = ("a b c", "d e", "a b c", "d e")
ASKED = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.0, 1.0], [0.3, 0.7]])
SAID = ("a b <eos>", "<eos>", "c d e f", "g <eos>")


@pytest.fixture(params=tiny.ARCHITECTURES)
def architecture(request):
    return request.param


def rollout(preferences=ASKED):
    return replace(tiny.rollout(SAID), prompts=replace(tiny.prompts(PROMPTS), preferences=preferences))


def conditioned(architecture, scale=1.0):
    model = tiny.language_model(architecture)
    policy = Policy(
        model, 2, adapter=Adapter(model, None, 3, 6.0), conditioned_on=2, conditioned_in_adapter=True
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=generator)
        policy.preference_map.weight.normal_(0, scale, generator=generator)
    return policy


def with_weights_written_out(policy, preference):
    """The base with W + (α/r) B diag(1 + g) A in every layer: no hook, no adapter, one preference."""
    model = copy.deepcopy(policy.model)
    gain = 1 + policy.preference_map.weight.detach() @ (preference - 0.5)
    with torch.no_grad():
        at = 0
        for layer in [module for module in model.modules() if hasattr(module, "lora_A")]:
            first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            rank = first.shape[0]
            change = layer.scaling["default"] * second @ torch.diag(gain[at : at + rank]) @ first
            at += rank
            weight = layer.base_layer.weight
            weight += change.T if layer.fan_in_fan_out else change
            second.zero_()
        assert at == len(gain)
    return model


def chosen_log_probs(policy, made, row):
    one = replace(made, prompts=replace(made.prompts, preferences=None))
    log_probs = tiny.log_probs_by_hand(with_weights_written_out(policy, made.prompts.preferences[row]), one)[row]
    return log_probs.gather(1, made.response_ids[row][made.response_mask[row]][:, None])[:, 0]


@pytest.mark.parametrize("packed", [True, False])
def test_each_row_is_computed_with_the_weights_of_its_own_preference(architecture, packed):
    policy, made = conditioned(architecture), rollout()
    if not packed:
        policy.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        found = policy.score_rollout(made).log_probs
        for row in range(len(made)):
            wanted = chosen_log_probs(policy, made, row)
            torch.testing.assert_close(found[row][made.response_mask[row]], wanted, atol=1e-4, rtol=0)
        uneven = policy.score_rollout(rollout(torch.full((4, 2), 0.5))).log_probs
    assert not torch.allclose(found, uneven, atol=1e-2)


@pytest.mark.parametrize("engine", [FastEngine, HFEngine])
def test_engines_sample_what_the_update_computes(architecture, engine):
    policy = conditioned(architecture)
    made = engine(policy.model, tiny.tokenizer(), shift_of=policy.shift_of)
    said = made.generate(rollout().prompts, Sampling(12), seed=3)
    with torch.no_grad():
        at_update = policy.score_rollout(said).log_probs
        for row in range(len(said)):
            mask, wanted = said.response_mask[row], chosen_log_probs(policy, said, row)
            torch.testing.assert_close(at_update[row][mask], wanted, atol=1e-4, rtol=0)
            if engine is FastEngine:
                torch.testing.assert_close(said.log_probs[row][mask], wanted, atol=1e-4, rtol=0)


def test_it_starts_as_the_base_whatever_it_is_told_and_the_reference_stays_that(architecture):
    plain = tiny.language_model(architecture)
    model = tiny.language_model(architecture)
    policy = Policy(
        model, 2, adapter=Adapter(model, None, 3, 6.0), conditioned_on=2, conditioned_in_adapter=True
    ).eval()
    with torch.no_grad():
        start, wanted = policy.score_rollout(rollout()).log_probs, reference_log_probs(plain, rollout())
        torch.testing.assert_close(start, wanted, atol=tiny.ROUNDING, rtol=0)
        frozen = frozen_log_probs(conditioned(architecture), None, rollout())
        torch.testing.assert_close(frozen, wanted, atol=tiny.ROUNDING, rtol=0)


def test_adapter_and_map_both_learn(architecture):
    policy = conditioned(architecture, scale=0.1)
    policy.score_rollout(rollout()).log_probs.sum().backward()
    assert policy.preference_map.weight.grad.abs().max() > 0
    assert all(gate.weight.grad.abs().max() > 0 for gate in gates_of(policy.model))


def test_an_exported_adapter_is_read_and_told_again(tmp_path):
    from peft import PeftModel

    from pama_exp.policy.loading import load_model, save

    base = tmp_path / "base"
    save(tiny.language_model("gpt2"), tiny.tokenizer(), base)
    model = load_model(base)
    policy = Policy(
        model, 2, adapter=Adapter(model, None, 3, 6.0), conditioned_on=2, conditioned_in_adapter=True
    ).eval()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name or "preference_map" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    export(policy, tiny.tokenizer(), tmp_path / "out", ["x", "y"], merged=False, objectives=["x", "y"])
    weight, names = load_preference_map(tmp_path / "out")
    assert names == ["x", "y"]
    assert torch.equal(weight, policy.preference_map.weight)
    made = rollout(torch.tensor([[0.75, 0.25]]).expand(4, -1))
    with quiet():
        read = PeftModel.from_pretrained(load_model(base), str(tmp_path / "out")).eval()
    with torch.no_grad(), export_module.conditioned(read, tmp_path / "out", {"y": 1.0, "x": 3.0}):
        found = tiny.log_probs_by_hand(read, made)
    for row, log_probs in enumerate(found):
        chosen = log_probs.gather(1, made.response_ids[row][made.response_mask[row]][:, None])[:, 0]
        torch.testing.assert_close(chosen, chosen_log_probs(policy, made, row), atol=1e-4, rtol=0)
    again = load_model(base)
    resumed = Policy(
        again, 2, adapter=Adapter.read(again, tmp_path / "out"), conditioned_on=2, conditioned_in_adapter=True
    ).eval()
    resumed.preference_map.load_state_dict({"weight": weight})
    torch.testing.assert_close(resumed.score_rollout(made).log_probs, policy.score_rollout(made).log_probs)
    with pytest.raises(UserError, match="cannot be read"):
        Adapter.read(tiny.language_model("llama"), tmp_path / "out")
