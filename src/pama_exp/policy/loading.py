"""Models and tokenizers from configurations and from local folders in Hugging Face's formats."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pama_exp.config.ranges import shown
from pama_exp.errors import UserError, suggest
from pama_exp.hub import repositories
from pama_exp.policy.adapters import quantisation, quiet
from pama_exp.storage import files

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


def build_model(
    architecture: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None = None
) -> PreTrainedModel:
    """A causal language model with random weights, the tokenizer's vocabulary, and no dropout unless `config` sets it.

    A vocabulary size in `config` takes precedence. Without a tokenizer, special tokens are the architecture's own.

    Raises:
        UserError: for an unknown architecture or key, or a value that the architecture refuses.
    """
    settings = _settings(architecture, config, tokenizer)
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings))
    except Exception as error:  # each architecture refuses values in its own way
        named = re.search(r"[Ff]ield '(\w+)'", str(error))
        if named is not None and named[1] in config:
            where = f"model.config.{named[1]}={shown(config[named[1]])}"
            raise UserError(f"{where} is of another kind than {architecture} takes.", "Correct that value.") from None
        reason = shown(str(error), 200)
        raise UserError(f"model.config is not valid for {architecture}: {reason}", "Correct that value.") from None


def build_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A sequence classifier with one output: a copy of the language model's trunk and a new, random head."""
    # id2label of a causal model holds the default two labels, which would contradict num_labels
    settings = {k: v for k, v in model.config.to_dict().items() if k not in ("id2label", "label2id")}
    config = type(model.config).from_dict({**settings, "num_labels": 1})
    config.pad_token_id = tokenizer.pad_token_id
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    return classifier


def load_model(
    folder: str | Path, dtype: str | None = None, bits: int | None = None, allow_pickle: bool = False
) -> PreTrainedModel:
    """Load a causal language model from a local folder; an adapter's folder gives its base with the adapter merged.

    Args:
        folder: in Hugging Face's or PEFT's format.
        dtype: torch's name of the weights' precision in memory; None: as saved.
        bits: 8 or 4 for a quantised base.
        allow_pickle: read pickled weights where there are no safetensors; no code in them is run.

    Raises:
        UserError: if the folder is missing, its weights do not fit the architecture, or they are pickled.
    """
    if (Path(folder) / "adapter_config.json").is_file():
        return _load_adapted(Path(folder), dtype, allow_pickle)
    extra: dict[str, Any] = {"dtype": "auto" if dtype is None else getattr(torch, dtype)}
    if bits is not None:
        compute = torch.bfloat16 if dtype is None else getattr(torch, dtype)
        extra |= {"quantization_config": quantisation(bits, compute), "device_map": {"": 0}}
    return _load(AutoModelForCausalLM, folder, allow_pickle, **extra)


def load_classifier(folder: str | Path) -> PreTrainedModel:
    """Load a sequence classifier from a local folder.

    Raises:
        UserError: if the folder holds no model, or the head's weights are missing.
    """
    return _load(AutoModelForSequenceClassification, folder)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer saved with a model; it pads on the left, by its end token if it has no padding token.

    Padding is masked wherever it matters, so it may be the end token.

    Raises:
        UserError: if the folder holds no readable tokenizer, or it has no end token.
    """
    # Without these files transformers would make an empty tokenizer of the model's class.
    if not any(path for pattern in _VOCABULARIES for path in Path(folder).glob(pattern)):
        raise UserError(f"{folder} holds no tokenizer.", "Save it beside the model.")
    repositories.check_regular(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), padding_side="left", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers and transformers raise many kinds
        reason = str(error).splitlines()[0]
        raise UserError(f"The tokenizer in {folder} cannot be read ({reason}).", "Is the folder whole?") from None
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer in {folder} has no end token (eos_token).",
            "Set tokenizer.eos_token to the token that ends a text, and save it again.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(rows: int, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Check that the embedding has a row for every token id of the tokenizer; `source` names both in the message.

    Raises:
        UserError: if it has too few rows.
    """
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"The tokenizer of {source} has ids up to {highest}; the model's embedding has {rows} rows.",
            "Use the tokenizer that the model was trained with, or resize_token_embeddings and save the model again.",
        )


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save weights (safetensors), configuration and tokenizer in the folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def architecture_of(folder: str | Path) -> PreTrainedModel:
    """Build the causal language model that the folder's config.json describes, with random weights.

    Raises:
        UserError: if transformers cannot build it, or it is a classifier.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each architecture refuses in its own way
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder} holds no causal language model that transformers builds ({reason}).",
            "Its config.json names another kind, or a newer one, or code of its own, which is never run.",
        ) from None
    if any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ()):
        raise UserError(
            f"{folder} holds a classifier ({config.architectures[0]}), which generates no text.",
            "Give a causal language model; a classifier is for an objective.",
        )
    return model


def max_positions(model: PreTrainedModel) -> int | None:
    """Largest number of positions of the model, in tokens; None if it has no limit."""
    return getattr(model.config, "max_position_embeddings", None)


def _settings(
    architecture: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
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
    vocabulary = {} if tokenizer is None else _vocabulary(tokenizer)
    no_dropout = {name: 0.0 for name in _DROPOUTS if hasattr(known, name)}
    return {**vocabulary, **no_dropout, **config}


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def check_weights(folder: str | Path, allow_pickle: bool) -> None:
    """Check that the folder holds a model with complete, undamaged weights, not pickled unless `allow_pickle`.

    Raises:
        UserError: if it does not.
    """
    if not os.path.isfile(Path(folder) / "config.json"):
        raise UserError(f"{folder} holds no model (no config.json).", "Give a folder in Hugging Face format.")
    _check_files(Path(folder), allow_pickle)


def _check_files(folder: Path, allow_pickle: bool) -> None:
    if repositories.weights_format(folder) == "pickle" and not allow_pickle:
        raise repositories.pickled(str(folder), "model.allow_pickle")
    repositories.check_whole(folder)
    files.check_folder(folder)


def _load(kind: Any, folder: str | Path, allow_pickle: bool = False, **extra: Any) -> PreTrainedModel:
    check_weights(folder, allow_pickle)
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)  # its warnings are errors below
    try:
        model, info = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **extra,
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


def unadapted_folder(folder: str | Path) -> Path:
    """The folder of the full weights: the folder itself, or the base's folder if it holds an adapter.

    Raises:
        UserError: if the adapter names no base, or the base cannot be found or is an adapter too.
    """
    settings = Path(folder) / "adapter_config.json"
    if not settings.is_file():
        return Path(folder)
    try:
        content = json.loads(settings.read_text())
        base = str(content["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{settings} names no base.", "Is the folder whole?") from None
    if content.get("megatron_config") is not None:  # PEFT would import the module that it names
        raise UserError(f"{settings} is for Megatron, which nothing here reads.", "Give an adapter of a plain model.")
    resolved = Path(base) if Path(base).is_dir() else repositories.resolve(base)
    if (resolved / "adapter_config.json").is_file():
        raise UserError(f"{settings}: its base {base} is an adapter too.", "Merge that one into its own base first.")
    return resolved


def check_adapter_folder(folder: Path, allow_pickle: bool) -> None:
    """The folder holds an adapter's weights, none of them damaged, and not as pickles that nobody asked for.

    Raises:
        UserError: if not.
    """
    _check_files(folder, allow_pickle)
    if repositories.weights_format(folder) is None:
        raise UserError(f"{folder} holds no adapter_model.safetensors.", "Is the folder whole?")


def _load_adapted(folder: Path, dtype: str | None, allow_pickle: bool) -> PreTrainedModel:
    from peft import PeftModel

    source = unadapted_folder(folder)
    check_adapter_folder(folder, allow_pickle)
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(load_model(source, dtype, allow_pickle=allow_pickle), str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The adapter in {folder} cannot be read ({reason}).", "Is the folder whole?") from None
    return adapted.merge_and_unload().requires_grad_(True).eval()  # peft froze the base
