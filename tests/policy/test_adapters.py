import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

import folders
import tiny
from pama_exp.errors import UserError
from pama_exp.policy import adapters
from pama_exp.policy.policy import Policy, reference_log_probs

IDS = torch.tensor([[3, 4, 5, 6]])


def disturb(model):
    """As if it had been trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_only_the_additions_are_trained_and_without_them_it_is_the_base(architecture):
    model, base = tiny.language_model(architecture), tiny.language_model(architecture)
    adapter = adapters.Adapter(model, None, rank=2, alpha=4.0)
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())
    assert torch.equal(logits(model), logits(base))
    disturb(model)
    assert not torch.allclose(logits(model), logits(base), atol=1e-2)
    with adapter.off() as off:
        assert torch.equal(logits(off), logits(base))
        assert torch.equal(reference_log_probs(off, tiny.rollout()), reference_log_probs(base, tiny.rollout()))
    assert not torch.allclose(logits(model), logits(base), atol=1e-2)
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_merged_it_is_the_same_function_in_a_plain_model(architecture):
    model = tiny.language_model(architecture)
    adapter = adapters.Adapter(model, None, rank=2, alpha=4.0)
    disturb(model)
    expected = logits(model)
    merged = adapter.merge()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == tiny.language_model(architecture).state_dict().keys()


def test_the_scale_is_alpha_over_rank():
    model, plain = tiny.language_model("llama"), tiny.language_model("llama")
    adapters.Adapter(model, ["up_proj"], rank=2, alpha=6.0)
    disturb(model)
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), plain.model.layers[0].mlp.up_proj(x) + 3.0 * x @ a.T @ b.T)


@pytest.mark.parametrize(
    ("architecture", "targets", "wrong", "right"),
    [
        ("opt", ["q_proj", "qkv"], "'qkv'", "Valid: project_out, project_in, k_proj"),
        ("gpt2", ["q_proj"], "'q_proj'", "c_attn, c_proj, c_fc"),
        ("llama", ["gate_prog"], "'gate_prog'", "Did you mean 'gate_proj'?"),
        ("qwen2", ["lm_head"], "'lm_head'", "q_proj"),  # embeddings may share it
    ],
)
def test_targets_that_match_nothing_are_named_with_those_that_would(architecture, targets, wrong, right):
    with pytest.raises(UserError) as caught:
        adapters.Adapter(tiny.language_model(architecture), targets, rank=2, alpha=4.0)
    assert wrong in caught.value.message
    for word in right.split(", "):
        assert word.removeprefix("Valid: ") in caught.value.hint


@pytest.mark.parametrize("kind", folders.CLASSES)
def test_value_heads_tied_embeddings_and_recomputed_activations_go_together_in_bfloat16(kind, tmp_path):
    from pama_exp.policy.loading import load_model

    model = load_model(folders.save_folder(tmp_path, kind, **({"dropout": 0.0} if kind == "opt" else {})), "bfloat16")
    adapter = adapters.Adapter(model, None, rank=2, alpha=4.0)
    policy = Policy(model, num_values=2, critic_shapes_trunk=True, adapter=adapter)
    torch.nn.init.normal_(policy.value_heads.weight)
    gradients = []
    for recomputed in (False, True):
        if recomputed:
            model.activation_checkpointing_enable({"use_reentrant": False})
            for block in model.modules():
                if isinstance(block, GradientCheckpointingLayer):
                    block.training = True  # of the block alone, which then recomputes; what is in it has no dropout
        policy.zero_grad()
        output = policy.score_rollout(tiny.rollout())
        (output.log_probs.sum() + output.values.sum()).backward()
        gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    assert all("lora_" in name or "value_heads" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).norm() <= 0.05 * gradient.norm() + 1e-6, name
    assert sum(float(g.abs().sum()) for g in gradients[0].values()) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_without_cuda_are_refused_with_what_to_use_instead(bits):
    with pytest.raises(UserError, match=f"lora-{bits}bit needs a CUDA GPU") as caught:
        adapters.quantisation(bits, torch.bfloat16)
    assert "adapter=lora;" in caught.value.hint
    assert adapters.quantisation(None, torch.bfloat16) is None


def test_a_folder_of_an_adapter_gives_a_model_that_can_be_trained_in_full(tmp_path):
    from pama_exp.policy.loading import load_model

    base = load_model(folders.save_folder(tmp_path / "base", "opt"))
    base.name_or_path = str(tmp_path / "base")
    adapter = adapters.Adapter(base, None, rank=2, alpha=4.0)
    disturb(adapter.model)
    adapter.save(tmp_path / "adapter")
    merged = load_model(tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), logits(adapter.model), atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    Policy(merged, num_values=1).score_rollout(tiny.rollout()).log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in Policy(merged, num_values=1).actor_parameters())
