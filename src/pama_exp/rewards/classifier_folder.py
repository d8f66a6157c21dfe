"""A classifier's folder: checks that need no weights, and loading."""

from __future__ import annotations

import json
import os
from pathlib import Path
from string import Formatter
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pama_exp.errors import UserError
from pama_exp.hub import repositories
from pama_exp.storage import files

# Without one of these files transformers would make an empty tokenizer of the model's class.
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
# Their positions begin after the padding token's index.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm")


def check_classifier(
    folder: str | Path,
    template: str = "{prompt} {response}",
    label_index: int | None = None,
    pad_token: str | None = None,
    allow_pickle: bool = False,
    setting: str = "allow_pickle",
) -> None:
    """Check everything that `ClassifierScorer` would refuse, golden scores aside, without reading weights.

    Args:
        folder: in Hugging Face format.
        template, label_index, pad_token, allow_pickle: as `ClassifierScorer` takes them.
        setting: the full name of `allow_pickle`, for the message.

    Raises:
        UserError: for a folder without a classifier or with a causal language model, pickled weights that are not
            allowed, a head without trained weights, a missing label, a tokenizer that is missing or cannot pad, or a
            template that does not place the response.
    """
    checked_template(template)
    check_kind(folder)
    check_format(folder, allow_pickle, setting)
    config = _read_config(folder)
    checked_label(label_index, config.num_labels, str(folder))
    _check_head(folder, config)
    pad(load_tokenizer(folder), pad_token, str(folder))


def check_kind(folder: str | Path) -> None:
    """Check that the folder holds a model, and not one that generates text.

    Raises:
        UserError: if it holds no model, or a causal language model.
    """
    if not os.path.isfile(Path(folder) / "config.json"):
        raise UserError(f"{folder} holds no classifier (no config.json).", "Give a folder in Hugging Face format.")
    repositories.check_regular(folder)
    try:
        kinds = [
            str(kind) for kind in json.loads((Path(folder) / "config.json").read_text()).get("architectures") or []
        ]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable("configuration", folder, error) from None
    if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise UserError(
            f"{folder} holds a causal language model ({kinds[0]}), which scores no text.",
            "Give a sequence classifier; stage=reward_model trains one from preference pairs.",
        )


def check_format(folder: str | Path, allow_pickle: bool, setting: str = "allow_pickle") -> None:
    """Check that the folder's weights are complete, undamaged, and not pickled unless `allow_pickle`.

    Raises:
        UserError: if they are not.
    """
    weights = repositories.weights_format(folder)
    if weights is None:
        raise UserError(f"{folder} holds no weights (model.safetensors).", "Is the folder whole?")
    if weights == "pickle" and not allow_pickle:
        raise repositories.pickled(str(folder), setting)
    repositories.check_whole(folder)
    files.check_folder(Path(folder))


def load_classifier(folder: str | Path, allow_pickle: bool) -> PreTrainedModel:
    """Load the classifier with its trained head.

    Raises:
        UserError: as `check_kind` and `check_format` do, or if weights cannot be read or are missing.
    """
    check_kind(folder)
    check_format(folder, allow_pickle)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors and transformers raise many kinds
        raise _unreadable("classifier", folder, error) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise _random_head(folder, missing)
    return model


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer from the classifier's folder.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    if not any(path for pattern in _VOCABULARIES for path in Path(folder).glob(pattern)):
        raise UserError(f"{folder} holds no tokenizer.", "Save it beside the classifier.")
    repositories.check_regular(folder)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers and transformers raise many kinds
        raise _unreadable("tokenizer", folder, error) from None


def pad(tokenizer: PreTrainedTokenizerBase, pad_token: str | None, source: str) -> None:
    """Set the padding token of a tokenizer that has none.

    Raises:
        UserError: if it has none and `pad_token` is None or not in its vocabulary.
    """
    if tokenizer.pad_token_id is not None:
        return
    if pad_token is not None and pad_token not in tokenizer.get_vocab():
        raise UserError(
            f"pad_token={pad_token!r} is no token of {source}.",
            f"Give one that it knows; its end token is {tokenizer.eos_token!r}.",
        )
    if pad_token is None:
        raise UserError(
            f"The tokenizer of {source} has no padding token.",
            "Set the scorer's pad_token to a token it knows, or save the tokenizer with one.",
        )
    tokenizer.pad_token = pad_token


def checked_label(label_index: int | None, labels: int, source: str) -> int:
    """The index of the logit that scores: `label_index`, or 0 where there is one label and None is given.

    Raises:
        UserError: if there are several labels and none is chosen, or the chosen one does not exist.
    """
    if (label_index is None and labels > 1) or not 0 <= (label_index or 0) < labels:
        raise UserError(
            f"The classifier {source} has {labels} label(s); label_index={label_index}.",
            f"Set label_index to one of 0 … {labels - 1}.",
        )
    return label_index or 0


def checked_template(template: str) -> str:
    """The template, checked: it has the field {response}, and no fields but {prompt} and {response}, as they are.

    Raises:
        UserError: if it is not so.
    """
    try:
        is_plain = not any(spec or conversion for *_, spec, conversion in Formatter().parse(template))
        places_response = is_plain and "response" in template.format(prompt="", response="response")
    except (KeyError, IndexError, ValueError):
        places_response = False
    if not places_response:
        raise UserError(
            f"template={template!r} does not place the response.", "Write {response}, and {prompt} if wanted."
        )
    return template


def check_settings(sign: Any, max_length: Any, truncation_side: Any, batch_size: Any, device: Any = None) -> None:
    """Check the settings of `ClassifierScorer` that do not depend on the folder.

    Raises:
        UserError: for a value outside its range, or a device that does not exist.
    """
    if not isinstance(sign, int | float) or sign == 0:
        raise UserError(f"sign={sign}.", "1 where a higher logit is better, −1 where it is worse.")
    if truncation_side not in ("left", "right"):
        raise UserError(f"truncation_side={truncation_side}.", "left drops what comes first, right what comes last.")
    for name, value in (("max_length", 1 if max_length is None else max_length), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}={value}.", "It is a number of at least 1.")
    if device is not None and not _is_device(device):
        gpus = torch.cuda.device_count()
        available = f"cuda:0 … cuda:{gpus - 1}" if gpus else "there is no GPU here"
        raise UserError(f"device={device}.", f"cpu, {available}, or null for the policy's.")


def _is_device(name: Any) -> bool:
    try:
        device = torch.device(str(name))
    except RuntimeError:
        return False
    return device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())


def positions(config: PreTrainedConfig) -> int | None:
    """Largest number of tokens that the classifier reads; None if it has no limit."""
    count: int | None = getattr(config, "max_position_embeddings", None)
    if count is None or config.model_type not in _OFFSET_POSITIONS:
        return count
    return count - (config.pad_token_id or 0) - 1


def _read_config(folder: str | Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each model's configuration refuses in its own way
        raise _unreadable("configuration", folder, error) from None


def _check_head(folder: str | Path, config: PreTrainedConfig) -> None:
    """Check that some weight of the head is saved; missing ones among several are found when the weights are read."""
    saved = _saved_names(Path(folder))
    if saved is None:
        return
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # no sequence classifier is of this class
        raise _unreadable("classifier", folder, error) from None
    head = [name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")]
    if head and not saved & set(head):
        raise _random_head(folder, sorted(head))


def _saved_names(folder: Path) -> set[str] | None:
    """The names of the weights in safetensors; None where they are pickled."""
    names: set[str] = set()
    if repositories.weights_format(folder) == "pickle":
        return None
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            names |= set(weights.keys())
    return names or None


def _random_head(folder: str | Path, missing: list[str]) -> UserError:
    return UserError(
        f"The weights in {folder} lack {', '.join(missing[:3])}, which would be random.",
        "Give the folder of a trained sequence classifier.",
    )


def _unreadable(what: str, folder: str | Path, error: Any) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = "Is the folder whole? Code of its own is never run." if what == "configuration" else "Is the folder whole?"
    return UserError(f"The {what} in {folder} cannot be read ({reason}).", hint)
