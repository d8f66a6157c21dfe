import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import folders
import tiny
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.loading import build_model
from pama_exp.policy.memory import (
    Load,
    activation_bytes_per_token,
    cache_bytes_per_token,
    memory_parts,
    parameter_counts,
    peak,
)

LOAD = Load(4, 4, None, True, False, 2, 8, 16, 16, 4, 1, False)


def on(device, kind, **more):
    settings = {**folders.CLASSES[kind][0], **more}
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=512, **settings)).eval()


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", folders.CLASSES)
def test_activations_are_what_a_real_pass_keeps(kind, adapted):
    models = [on(device, kind) for device in ("meta", "cpu")]
    if adapted:
        models = [Adapter(model, None, 4, 8.0).model for model in models]
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        models[1].base_model(input_ids=torch.randint(3, 99, (16, 8)), use_cache=False)
    own = {p.untyped_storage()._cdata for p in models[1].parameters()}
    measured = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own) / (16 * 8)
    assert activation_bytes_per_token(models[0], 4) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("kind", folders.CLASSES)
def test_the_cache_is_as_large_as_a_real_one(kind):
    model = on("cpu", kind)
    with torch.no_grad():
        cache = model(input_ids=torch.randint(3, 99, (4, 8)), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes_per_token(model, 4) * 4 * 8 == held


def test_weights_gradients_and_moments_are_what_adamw_holds():
    model = tiny.language_model("gpt2")
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.tensor([[3, 4]])).logits.sum().backward()
    optimizer.step()
    held = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.dim() > 0)
    with torch.device("meta"):
        parts = memory_parts(build_model("gpt2", tiny.CONFIGS["gpt2"], tiny.tokenizer()), LOAD)
    assert parts["optimiser"] == held
    assert parts["weights"] == parts["gradients"] == parts["reference"] == sum(p.nbytes for p in model.parameters())


def test_lora_has_no_reference_copy_and_shards_split_what_is_held():
    model = on("meta", "llama")
    whole = memory_parts(model, LOAD)
    split = memory_parts(model, Load(**{**vars(LOAD), "shards": 4}))
    for name in ("weights", "gradients", "optimiser", "reference"):
        assert split[name] == whole[name] / 4
    Adapter(model, None, 2, 4.0)
    lora = memory_parts(model, Load(**{**vars(LOAD), "has_reference_copy": False}))
    total, trained = parameter_counts(model)
    assert 0 < trained < total / 5
    assert lora["reference"] == 0
    assert lora["gradients"] == 4 * trained
    assert peak(lora) < peak(whole)
    assert lora["activations"] < whole["activations"] * 1.5


def test_recomputing_keeps_fewer_activations_and_fewer_bits_fewer_weights():
    deep = on("meta", "llama", num_hidden_layers=8)
    kept = memory_parts(deep, LOAD)["activations"]
    assert memory_parts(deep, Load(**{**vars(LOAD), "recomputes": True}))["activations"] < kept / 3
    Adapter(deep, None, 2, 4.0)
    sizes = [memory_parts(deep, Load(**{**vars(LOAD), "bits": bits}))["weights"] for bits in (None, 8, 4)]
    assert sizes[0] > sizes[1] > sizes[2]
