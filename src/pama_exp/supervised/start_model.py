"""The model that a run's policy starts from: a local folder, a cached one of the Hub, or random weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.schema import AdapterConfig, ModelConfig
from pama_exp.data.byte_tokens import byte_tokenizer
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError
from pama_exp.hub import repositories
from pama_exp.policy.adapters import Adapter, check_quantisation, check_targets
from pama_exp.policy.loading import (
    architecture_of,
    build_model,
    check_adapter_folder,
    check_vocabulary,
    check_weights,
    load_model,
    load_tokenizer,
    unadapted_folder,
)

BYTES = "bytes"  # a value of model.tokenizer: one token per byte


@dataclass(frozen=True)
class StartModel:
    """The model that a run starts from, and its adapter.

    Attributes:
        model: the model's settings.
        adapter: the adapter's settings.
        folder: pretrained weights in Hugging Face format; None for random weights.
        random_tokenizer: the tokenizer for random weights; None if the folder holds the tokenizer.
    """

    model: ModelConfig
    adapter: AdapterConfig
    folder: Path | None
    random_tokenizer: PreTrainedTokenizerBase | None = None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer.

        Raises:
            UserError: if the folder holds none.
        """
        if self.folder is not None:
            return load_tokenizer(self.folder)
        assert self.random_tokenizer is not None
        return self.random_tokenizer

    @cached_property
    def skeleton(self) -> PreTrainedModel:
        """The model on the meta device, without memory for its weights."""
        with torch.device("meta"):
            if self.folder is not None:
                return architecture_of(unadapted_folder(self.folder))
            return build_model(str(self.model.architecture), self.model.config, self.random_tokenizer)

    @property
    def description(self) -> str:
        """The start model as a model card names it."""
        is_random = self.model.path is None and self.model.weights == "random"
        return f"{self.model.name} with random weights" if is_random else str(self.model.path or self.model.id)

    @property
    def lora_targets(self) -> list[str] | None:
        """The names of the layers to adapt; None for all linear ones."""
        return lora_targets(self.model, self.adapter)

    def check(self, is_here: bool = True) -> None:
        """Check the model without reading its weights.

        Args:
            is_here: whether it will be loaded on this machine; if not, support for quantisation is not checked.

        Raises:
            UserError: for a folder without model or tokenizer, pickled weights, a vocabulary larger than the embedding,
                adapter targets that match no layer, or quantisation that this machine does not support.
        """
        if is_here and self.adapter.bits is not None:
            check_quantisation(self.adapter.bits)
        if self.folder is not None:
            check_weights(unadapted_folder(self.folder), self.model.allow_pickle)
        source = f"model={self.model.name}" if self.folder is None else str(self.folder)
        check_vocabulary(self.skeleton.get_input_embeddings().num_embeddings, self.tokenizer, source)
        if self.adapter.name != "none":
            check_targets(self.skeleton, self.lora_targets)

    def random_model(self) -> PreTrainedModel:
        """The architecture with random weights, in `model.dtype`."""
        m = self.model
        built = build_model(str(m.architecture), m.config, self.tokenizer)
        check_vocabulary(built.get_input_embeddings().num_embeddings, self.tokenizer, f"model={m.name}")
        return built.to(getattr(torch, m.dtype))

    def load_policy(
        self, folder: Path, seed: int, keep_adapter: bool = False
    ) -> tuple[PreTrainedModel, Adapter | None]:
        """The model in a folder, and its adapter, which alone is trained; None if the whole model is trained.

        Args:
            folder: of the policy.
            seed: of a new adapter's weights.
            keep_adapter: use the adapter that the folder holds, if it holds one, instead of a new one.
        """
        m, a = self.model, self.adapter
        if keep_adapter and (folder / "adapter_config.json").is_file():
            check_adapter_folder(folder, m.allow_pickle)
            base = load_model(unadapted_folder(folder), m.dtype, a.bits, m.allow_pickle)
            return base, Adapter.read(base, folder)
        model = load_model(folder, m.dtype, a.bits, m.allow_pickle)
        if a.name == "none":
            return model, None
        if m.path is None and m.weights == "pretrained" and folder == self.folder:
            model.name_or_path = str(m.id)  # the saved adapter names it as its base
        with torch.random.fork_rng():
            torch.manual_seed(random_state(seed, 0, "adapter-initialisation"))
            return model, Adapter(model, self.lora_targets, a.rank, a.alpha, a.dropout)


def lora_targets(model: ModelConfig, adapter: AdapterConfig) -> list[str] | None:
    """The names of the layers to adapt: those of the adapter's settings, else the model's; None for all linear ones.

    For `model.path` the model's are ignored: a local folder may hold any architecture.
    """
    return adapter.targets or (model.lora_targets if model.path is None else None)


def base_folder(model: ModelConfig) -> Path | None:
    """`model.path`, or the cached folder of `model.id`; None for random weights.

    Raises:
        UserError: if the Hub's model is neither cached nor can be downloaded.
    """
    if model.path is not None:
        return Path(model.path)
    if model.weights == "random":
        return None
    refused = None if model.allow_pickle else "model.allow_pickle"
    return repositories.resolve(str(model.id), model.revision, "model", refused)


def tokenizer_for_text(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that `model.tokenizer` names, for random weights and text.

    Raises:
        UserError: if it names no tokenizer.
    """
    if model.tokenizer is None:
        raise UserError(
            f"model={model.name} starts from random weights and has no tokenizer for text.",
            "Set model.tokenizer=bytes (one token per byte) or model.tokenizer=FOLDER (one that is saved there), or "
            "start from model.path=FOLDER, a model with its tokenizer.",
        )
    if model.tokenizer == BYTES:
        return byte_tokenizer()
    if not Path(model.tokenizer).is_dir():
        raise UserError(
            f"model.tokenizer={model.tokenizer} is neither bytes nor a folder.",
            "Give a folder that holds tokenizer.json, or bytes for one token per byte.",
        )
    return load_tokenizer(model.tokenizer)
