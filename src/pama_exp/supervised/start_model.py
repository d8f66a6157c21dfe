"""The model that a run starts from: a local folder, the Hub's, or an architecture with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.build.conditioned import check_written, longest_read
from pama_exp.config.schema import AdapterConfig, Config, ModelConfig
from pama_exp.data.byte_tokens import byte_tokenizer
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError
from pama_exp.hub import repositories
from pama_exp.policy.adapters import Adapter, check_quantisation, check_targets
from pama_exp.policy.loading import (
    architecture_of,
    build_model,
    check_vocabulary,
    check_weights,
    load_model,
    load_tokenizer,
    max_positions,
    whole_folder,
)

BYTES = "bytes"  # model.tokenizer: one token per byte


def base_folder(model: ModelConfig) -> Path | None:
    """`model.path`, or the Hub's folder of `model.id`; None where the weights start at random.

    Raises:
        UserError: if the Hub's is neither cached nor to be had.
    """
    if model.path is not None:
        return Path(model.path)
    if model.weights == "random":
        return None
    refused = None if model.allow_pickle else "model.allow_pickle"
    return repositories.resolve(str(model.id), model.revision, "model", refused)


def tokenizer_source(model: ModelConfig) -> str:
    """Where the model's tokenizer of text is: its own folder, or for random weights what `model.tokenizer` names.

    Raises:
        UserError: if random weights are given none.
    """
    base = base_folder(model)
    if base is not None:
        return str(base)
    if model.tokenizer is None:
        raise UserError(
            f"model={model.name} starts from random weights and has no tokenizer for text.",
            "Set model.tokenizer=bytes (one token per byte) or model.tokenizer=FOLDER (one that is saved there), or "
            "start from model.path=FOLDER, a model with its tokenizer.",
        )
    if model.tokenizer != BYTES and not Path(model.tokenizer).is_dir():
        raise UserError(
            f"model.tokenizer={model.tokenizer} is neither bytes nor a folder.",
            "Give a folder that holds tokenizer.json, or bytes for one token per byte.",
        )
    return model.tokenizer


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """What `tokenizer_source` found.

    Raises:
        UserError: if the folder holds no tokenizer.
    """
    return byte_tokenizer() if source == BYTES else load_tokenizer(source)


def base_name(model: ModelConfig) -> str:
    """What a card says that the policy was before."""
    is_random = model.path is None and model.weights == "random"
    return f"{model.name} with random weights" if is_random else str(model.path or model.id)


def random_model(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The architecture untrained, in `model.dtype`; its vocabulary is its own where stated, else the tokenizer's."""
    built = build_model(str(model.architecture), model.config, tokenizer)
    check_vocabulary(built.get_input_embeddings().num_embeddings, tokenizer, f"model={model.name}")
    return built.to(getattr(torch, model.dtype))


def load_policy(folder: str | Path, config: Config) -> tuple[PreTrainedModel, Adapter | None]:
    """The model in `folder`, and what is trained of it where that is not the whole."""
    m, a = config.model, config.adapter
    model = load_model(folder, m.dtype, a.bits, m.allow_pickle)
    if a.name == "none":
        return model, None
    if m.path is None and m.weights == "pretrained" and Path(folder) == base_folder(m):
        model.name_or_path = str(m.id)  # what the saved adapter names as its base
    with torch.random.fork_rng():
        torch.manual_seed(random_state(config.seed, 0, "adapter-initialisation"))
        return model, Adapter(model, lora_targets(m, a), a.rank, a.alpha, a.dropout)


def lora_targets(model: ModelConfig, adapter: AdapterConfig) -> list[str] | None:
    """The names of the layers to adapt: the adapter's own, else the model's; None for all linear ones.

    A local folder may hold any architecture, so the preset's names do not count there.
    """
    return adapter.targets or (model.lora_targets if model.path is None else None)


def skeleton(model: ModelConfig, folder: Path | None) -> PreTrainedModel:
    """The model without memory for its weights (on the meta device), from its folder or from the preset."""
    with torch.device("meta"):
        if folder is not None:
            return architecture_of(whole_folder(folder))
        return build_model(str(model.architecture), model.config)


def check_base(config: Config, tokenizer: PreTrainedTokenizerBase | None, prompts: list[str]) -> None:
    """What can be known of the model before any of it is loaded.

    Args:
        config: of the run.
        tokenizer: of a model with random weights; None where its folder holds one.
        prompts: all that the policy will be given.

    Raises:
        UserError: for a folder without model or tokenizer, pickled weights, a vocabulary beyond the embedding, prompts
            beyond the positions, preferences that the tokenizer cannot express, adapter targets that match nothing, or
            bits that cannot be had here.
    """
    m, a = config.model, config.adapter
    if a.bits is not None:
        check_quantisation(a.bits)
    if a.rank < 1:
        raise UserError(f"adapter.rank={a.rank}.", "It is at least 1.")
    folder = base_folder(m)
    if folder is not None:
        check_weights(whole_folder(folder), m.allow_pickle)
        model, tokenizer = skeleton(m, folder), load_tokenizer(folder)
    else:
        with torch.device("meta"):
            model = build_model(str(m.architecture), m.config, tokenizer)
    source = f"model={m.name}" if folder is None else str(folder)
    check_vocabulary(model.get_input_embeddings().num_embeddings, tokenizer, source)
    if a.name != "none":
        check_targets(model, lora_targets(m, a))
    check_written(config, tokenizer)
    check_positions(config, tokenizer, max_positions(model), longest_read(config, prompts))


def check_positions(
    config: Config, tokenizer: PreTrainedTokenizerBase, positions: int | None, prompts: list[str]
) -> None:
    """The longest prompt and the longest response fit into the model's positions.

    Raises:
        UserError: if they do not.
    """
    if positions is None or not prompts:
        return
    longest = max(len(ids) for ids in tokenizer(prompts)["input_ids"])
    if longest >= positions:
        raise UserError(
            f"The longest prompt has {longest} tokens; the model '{config.model.name}' has {positions} positions.",
            f"Set data.max_prompt_tokens to less than {positions}, or choose a model with more positions.",
        )
    wanted = longest + config.rollout.sampling.max_new_tokens
    if wanted > positions:
        raise UserError(
            f"rollout.sampling.max_new_tokens={config.rollout.sampling.max_new_tokens} after prompts of up to "
            f"{longest} tokens needs {wanted} positions; the model '{config.model.name}' has {positions}.",
            f"Set rollout.sampling.max_new_tokens to at most {positions - longest}, or give the model more positions.",
        )
