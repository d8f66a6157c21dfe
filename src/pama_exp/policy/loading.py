"""Models from configurations and local folders, in Hugging Face's formats."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pama_exp.errors import UserError, suggest

_DROPOUTS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "layerdrop",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


def build_model(architecture: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A causal language model with random weights, the tokenizer's vocabulary, and no dropout unless asked.

    Raises:
        UserError: for an unknown architecture or key, or a value that the architecture refuses.
    """
    settings = _settings(architecture, config, tokenizer)
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings))
    except Exception as error:  # each architecture refuses values in its own way
        reason = " ".join(str(error).split())
        raise UserError(f"model.config is not valid for {architecture}: {reason}", "Mend that value.") from None


def build_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A sequence classifier with one output, its trunk a copy of the language model's, its head new."""
    # id2label of a causal model holds the default two labels, which would contradict num_labels
    settings = {k: v for k, v in model.config.to_dict().items() if k not in ("id2label", "label2id")}
    config = type(model.config).from_dict({**settings, "num_labels": 1})
    config.pad_token_id = tokenizer.pad_token_id
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    return classifier


def load_model(folder: str | Path) -> PreTrainedModel:
    """A causal language model from a local folder.

    Raises:
        UserError: if the folder is missing or its weights do not fit the architecture.
    """
    return _load(AutoModelForCausalLM, folder)


def load_classifier(folder: str | Path) -> PreTrainedModel:
    """A sequence classifier from a local folder.

    Raises:
        UserError: if the folder is missing, or holds no trained head.
    """
    return _load(AutoModelForSequenceClassification, folder)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved with a model, padding on the left.

    Raises:
        UserError: if the folder holds none, or it has no padding or end token.
    """
    # Without these files transformers would make an empty tokenizer of the model's class.
    if not any(path for pattern in _VOCABULARIES for path in Path(folder).glob(pattern)):
        raise UserError(f"{folder} holds no tokenizer.", "Save it beside the model.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), padding_side="left", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers and transformers raise many kinds
        reason = str(error).splitlines()[0]
        raise UserError(f"The tokenizer in {folder} cannot be read ({reason}).", "Is the folder whole?") from None
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer in {folder} has no padding or no end token.",
            "Set pad_token and eos_token, and save it again.",
        )
    return tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Weights (safetensors), configuration and tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def max_positions(model: PreTrainedModel) -> int | None:
    """How many tokens the model can attend over; None where it is not bounded."""
    return getattr(model.config, "max_position_embeddings", None)


def positions_of(folder: str | Path) -> int | None:
    """How many tokens the model in the folder can attend over, from its configuration alone.

    Raises:
        UserError: if the folder holds none that can be read.
    """
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json).", "Give a folder in Hugging Face format.")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}/config.json cannot be read ({reason}).", "Is the folder whole?") from None
    return getattr(config, "max_position_embeddings", None)


def _settings(architecture: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model.architecture={architecture} is no causal language model of transformers.",
            suggest(architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        )
    known = AutoConfig.for_model(architecture)
    valid = sorted(k for k in {*known.to_dict(), *known.attribute_map} if not k.startswith("_"))
    for key in config:
        if key not in valid:
            raise UserError(f"model.config has no key '{key}' in the architecture {architecture}.", suggest(key, valid))
    vocabulary = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    still = {name: 0.0 for name in _DROPOUTS if hasattr(known, name)}
    return {**vocabulary, **still, **config}


def _load(kind: Any, folder: str | Path) -> PreTrainedModel:
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json).", "Give a folder in Hugging Face format.")
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)  # what it would warn of is an error below
    try:
        model, info = kind.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # safetensors and transformers raise many kinds
        reason = str(error).splitlines()[0]
        raise UserError(f"The model in {folder} cannot be read ({reason}).", "Is the folder whole?") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"The weights in {folder} lack {', '.join(missing[:3])}, which would be random.",
            f"Give a folder saved by {kind.__name__.removeprefix('Auto')}.",
        )
    model.eval()
    return model
