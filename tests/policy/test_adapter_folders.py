"""A folder of PEFT's as the model to start from: with its additions folded in, all of it is trained."""

import pytest
import torch
from torch import nn

import tiny
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.loading import load_model, save
from pama_exp.policy.policy import Policy


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_what_an_adapters_folder_gives_is_the_merged_model_and_every_weight_gets_a_gradient(tmp_path):
    pytest.importorskip("peft")
    base = tiny.language_model("llama")
    save(base, tiny.tokenizer(), tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    adapter = Adapter(base, ["q_proj"], rank=2, alpha=4.0)
    for name, parameter in base.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    adapter.save(tmp_path / "adapter")
    rollout = tiny.rollout()
    expected = Policy(base, num_values=1, adapter=adapter).score_rollout(rollout).log_probs
    policy = Policy(load_model(tmp_path / "adapter"), num_values=1)
    output = policy.score_rollout(rollout)
    torch.testing.assert_close(output.log_probs, expected, atol=1e-5, rtol=1e-5)  # merged weights are rounded
    output.log_probs.sum().backward()
    untouched = [n for n, p in policy.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert len(policy.actor_parameters()) == len(list(policy.model.parameters()))
    assert untouched == []
