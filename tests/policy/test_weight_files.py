"""Whether weights are pickled is decided by the files that are loaded; an exported folder is what was written."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

import folders
from pama_exp.errors import UserError
from pama_exp.hub import repositories
from pama_exp.policy.loading import load_model
from pama_exp.storage import files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return folders.save_folder(tmp_path_factory.mktemp("policy") / "whole", "gpt2")


@pytest.fixture
def policy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "policy")


def pickled(folder):
    state = load_model(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


def beside(name):
    def do(folder):
        pickled(folder)
        save_file({"w": torch.zeros(1)}, folder / name)

    return do


def index_of_pickles(folder):
    pickled(folder)
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def named_by_the_config(folder):
    pickled(folder)
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))


def adapter(folder):
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder.parent / "base"), "target_modules": ["c_fc"]}
    shutil.copytree(folder, folder.parent / "base")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.save({"w": torch.zeros(1)}, folder / "adapter_model.bin")


def adapter_beside_value_heads(folder):
    adapter(folder)
    save_file({"w": torch.zeros(1)}, folder / "value_heads.safetensors")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pickled, "pickled"),
        (beside("value_heads.safetensors"), "pickled"),
        (beside("preference_map.safetensors"), "pickled"),
        (beside("model-00001-of-00002.safetensors"), "pickled"),
        (beside("adapter_model.safetensors"), "pickled"),
        (index_of_pickles, "no file of safetensors"),
        (named_by_the_config, "pickled"),
        (adapter, "pickled"),
        (adapter_beside_value_heads, "pickled"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_pickles_are_refused_whatever_lies_beside_them(make, said, policy):
    make(policy)
    with pytest.raises(UserError, match=said):
        load_model(policy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"])
def test_pickles_that_are_not_loaded_do_no_harm(name, policy):
    (policy / name).write_bytes(b"not read")
    assert repositories.weights_format(policy) == "safetensors"
    load_model(policy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "value_heads.safetensors"])
@pytest.mark.parametrize("at", [0.3, 0.99])
def test_one_bit_of_an_exported_folder_is_noticed(name, at, policy):
    save_file({"w": torch.zeros(9)}, policy / "value_heads.safetensors")
    files.write_manifest(policy)
    load_model(policy)
    content = bytearray((policy / name).read_bytes())
    content[int(at * len(content))] ^= 1
    (policy / name).write_bytes(content)
    with pytest.raises(UserError):
        load_model(policy)


def test_a_file_that_is_missing_and_a_manifest_that_is_damaged_are_noticed(policy):
    files.write_manifest(policy)
    (policy / "README.md").write_text("a card of one's own")
    files.check_folder(policy)
    manifest = (policy / "manifest.json").read_text()
    (policy / "manifest.json").write_text(manifest[: len(manifest) // 2])
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        files.check_folder(policy)
    (policy / "manifest.json").write_text(manifest)
    (policy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing or damaged"):
        files.check_folder(policy)


@pytest.mark.parametrize("content", ['{"name": "an app"}', "[]"])
def test_the_manifest_of_another_program_says_nothing(content, policy):
    (policy / "manifest.json").write_text(content)
    load_model(policy)


def test_an_adapter_of_itself_is_refused(policy):
    adapter(policy)
    settings = json.loads((policy / "adapter_config.json").read_text())
    (policy / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(policy)}))
    with pytest.raises(UserError, match="adapter too"):
        load_model(policy)


@pytest.mark.parametrize("name", ["model.safetensors", "value_heads.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["a link to itself", "a pipe"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind, name, policy):
    (policy / files.MANIFEST).unlink(missing_ok=True)
    (policy / name).unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(policy / name)
    else:
        (policy / name).symlink_to(name)
    with pytest.raises(UserError, match=name):
        repositories.check_whole(policy)
