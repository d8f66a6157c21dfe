"""A transformers sequence classifier as a scorer, with its own tokenizer.

Legend: B responses.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.instantiate import check_values, parameters
from pama_exp.config.ranges import OneOf, Range, check, shown
from pama_exp.data.tokens import Marked, encode_whole, without_names
from pama_exp.errors import UserError
from pama_exp.hub import repositories
from pama_exp.rewards import classifier_folder
from pama_exp.types import PromptBatch

GOLDEN_TOLERANCE = 0.02  # processors and precisions differ by less


class ClassifierScorer:
    """Scores by one logit of a frozen sequence classifier.

    Args:
        path_or_model: a local folder in Hugging Face format, or a classifier already loaded.
        tokenizer: the classifier's; None: read from the folder.
        template: how prompt and response become one text.
        strip: remove white space around that text; False for a model that was trained on texts with it.
        label_index: index of the logit; None if the classifier has only one.
        sign: factor of the logit; −1 where a higher logit is worse.
        max_length: tokens kept of each text; None keeps all, and a text beyond the model's positions is an error.
        truncation_side: the side on which tokens are dropped; `left` keeps the response.
        batch_size: responses per forward pass.
        pad_token: the padding token of a tokenizer that has none.
        golden: texts with known scores, {prompt, response, score} each, that the classifier must reproduce.
        allow_pickle: read pickled weights where there are no safetensors; no code in them is run.
        device: where the classifier runs, such as `cpu` or `cuda:1`; None: on the policy's device.

    Raises:
        UserError: if the folder holds no trained classifier with a tokenizer that can pad, the label is not one of the
            classifier's, the template does not place the response, another setting is out of range, or a golden score
            is not reproduced.
    """

    def __init__(
        self,
        path_or_model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        template: str = "{prompt} {response}",
        strip: bool = True,
        label_index: Annotated[int, Range(least=0)] | None = None,
        sign: Annotated[float, Range()] = 1.0,
        max_length: Annotated[int, Range(least=1)] | None = None,
        truncation_side: Annotated[str, OneOf("left", "right")] = "left",
        batch_size: Annotated[int, Range(least=1)] = 64,
        pad_token: str | None = None,
        golden: Sequence[Mapping[str, Any]] = (),
        allow_pickle: bool = False,
        device: str | None = None,
    ) -> None:
        classifier_folder.check_settings(sign, max_length, truncation_side, batch_size, device)
        if isinstance(path_or_model, str | Path):
            self.model = classifier_folder.load_classifier(path_or_model, allow_pickle)
            source = str(path_or_model)
        else:
            self.model, source = path_or_model, type(path_or_model).__name__
        self.model.eval().requires_grad_(False)
        # A copy: the caller's tokenizer keeps its own sides.
        self.tokenizer = classifier_folder.load_tokenizer(source) if tokenizer is None else copy.deepcopy(tokenizer)
        self.tokenizer.padding_side, self.tokenizer.truncation_side = "right", truncation_side
        classifier_folder.pad(self.tokenizer, pad_token, source)
        self.positions = classifier_folder.positions(self.model.config)
        # Decoders look for the last token before the padding: the two have to agree on what that is.
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.template, self.strip, self.sign = classifier_folder.checked_template(template), strip, sign
        self.label_index = classifier_folder.checked_label(label_index, self.model.config.num_labels, source)
        self.max_length, self.batch_size = max_length, batch_size
        self.device = None if device is None else torch.device(device)
        if self.device is not None:
            self.model.to(self.device)
        self._check_golden(golden, source)

    def to(self, device: torch.device) -> None:
        """Move the classifier to the policy's device, unless it was given a device of its own."""
        if self.device is None:
            self.model.to(device)

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) sign times the label's logit of each response, in order.

        Raises:
            UserError: for a text longer than the classifier's positions.
        """
        return self.sign * self.logits(prompts, responses)[:, self.label_index]

    @torch.no_grad()
    def logits(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, "B labels"]:
        """All labels' logits of each response, in order, on the processor; computed in batches of similar length.

        Raises:
            UserError: for a text longer than the classifier's positions.
        """
        pairs = zip(map(self._plain, prompts.texts), map(self._plain, responses), strict=True)
        texts = [self.template.format(prompt=prompt, response=response) for prompt, response in pairs]
        marked = [
            Marked(text.strip() if self.strip else text) for text in texts
        ]  # special tokens come from the template alone
        rows = encode_whole(self.tokenizer, marked, self.max_length)
        rows = [row or [self.tokenizer.eos_token_id] for row in rows]  # an empty text is an end token
        self._check_lengths(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        all_logits = torch.zeros(len(rows), self.model.config.num_labels)
        for start in range(0, len(order), self.batch_size):
            index = order[start : start + self.batch_size]
            logits = logits_of(self.model, [rows[i] for i in index], self.tokenizer.pad_token_id)
            all_logits[index] = logits.float().cpu()
        return all_logits

    def _plain(self, text: str) -> str:
        """The text without the classifier's special tokens, which would end or divide it."""
        return without_names(text, self.tokenizer)

    def _check_golden(self, golden: Sequence[Mapping[str, Any]], source: str) -> None:
        if not golden:
            return
        prompts = [str(example["prompt"]) for example in golden]
        batch = PromptBatch(torch.zeros(len(golden), 1, dtype=torch.long), torch.ones(len(golden), 1).bool(), prompts)
        scores = self.score(batch, [str(example["response"]) for example in golden]).tolist()
        for example, score in zip(golden, scores, strict=True):
            if abs(score - float(example["score"])) > GOLDEN_TOLERANCE:
                response = str(example["response"])[:40]
                raise UserError(
                    f"{source} scores {response!r} {score:.3f}; the golden score is {example['score']}.",
                    "Is it that revision, and are template, label_index, sign and truncation those of its card?",
                )

    def _check_lengths(self, rows: Sequence[Sequence[int]]) -> None:
        longest = max((len(row) for row in rows), default=0)
        if self.positions is not None and longest > self.positions:
            raise UserError(
                f"A text of {longest} tokens exceeds the classifier's {self.positions} positions.",
                f"Set max_length to at most {self.positions}; truncation_side says which end is dropped.",
            )


def logits_of(model: PreTrainedModel, rows: Sequence[Sequence[int]], pad: int) -> Float[Tensor, "B labels"]:
    """The classifier's logits for rows of token ids, each read at the row's last token.

    Decoders read the last token that is not their configuration's padding. Where a row itself ends in that token, as
    when the end token is also the padding, another token that no row contains is used as padding.
    """
    if any(row[-1] == pad for row in rows):
        used = {token for row in rows for token in row}
        pad = next(token for token in range(model.get_input_embeddings().num_embeddings) if token not in used)
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, pad).to(model.device)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(model.device)
    configs = (model.config, model.config.get_text_config())
    saved = [config.pad_token_id for config in configs]
    try:
        for config in configs:
            config.pad_token_id = pad
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    finally:
        for config, value in zip(configs, saved, strict=True):
            config.pad_token_id = value
    return logits


def published(
    id: str | None = None,
    revision: str | None = None,
    path: str | None = None,
    parameters: Annotated[int, Range(least=1)] | None = None,
    **settings: Any,
) -> ClassifierScorer:
    """A classifier from the Hub (its cache is used and filled) or from a local folder.

    Args:
        id: owner/name on the Hub.
        revision: commit, tag or branch; None: the newest.
        path: a local folder in Hugging Face format, instead of an id.
        parameters: the published number of parameters, for the preflight's estimate of memory.
        settings: further arguments of `ClassifierScorer`.

    Raises:
        UserError: if neither id nor path is given, the repository cannot be fetched, or as `ClassifierScorer` does.
    """
    if path is None and id is None:
        raise UserError("A classifier has neither id nor path.", "Give id: owner/name on the Hub, or path: FOLDER.")
    pickle_key = None if settings.get("allow_pickle", False) else "allow_pickle"
    return ClassifierScorer(
        path if path is not None else repositories.resolve(str(id), revision, "model", pickle_key), **settings
    )


def check_published_settings(node: Mapping[str, Any], where: str) -> None:
    """Check the types and ranges of the arguments of `published`, without looking for the folder.

    Raises:
        UserError: for a wrong argument; the message begins with `where`.
    """
    check_values({key: value for key, value in node.items() if key != "_target_"}, _published_parameters(), where)
    repositories.check_revision(node.get("revision"), f"{where}.revision")
    golden = node.get("golden", ())
    for example in golden:
        if not {"prompt", "response", "score"} <= set(example):
            raise UserError(f"{where}.golden={shown(golden)}.", "Each has prompt, response and score.")
        check(example["score"], float, f"{where}.golden.score")


def _published_parameters() -> dict[str, Parameter]:
    accepted = {**parameters(ClassifierScorer), **parameters(published)}
    return {name: accepted[name] for name in sorted(accepted) if name not in ("path_or_model", "tokenizer", "settings")}


def check_published(node: Mapping[str, Any], where: str) -> None:
    """Check everything that `published` would refuse, without reading weights; fetches from the Hub if needed.

    Args:
        node: the arguments of `published`.
        where: their place in the configuration, for the messages.

    Raises:
        UserError: as `published` does; the message begins with `where`.
    """
    check_published_settings(node, where)
    setting = f"{where}.allow_pickle"
    settings = {name: parameter.default for name, parameter in _published_parameters().items()} | dict(node)
    scorer_settings = {key: settings[key] for key in ("sign", "max_length", "truncation_side", "batch_size", "device")}
    folder_settings = {key: settings[key] for key in ("template", "label_index", "pad_token", "allow_pickle")}
    try:
        classifier_folder.check_settings(**scorer_settings)
        if node.get("path") is None and node.get("id") is None:
            published()
        pickle_key = None if node.get("allow_pickle", False) else setting
        folder = node.get("path") or repositories.resolve(str(node["id"]), node.get("revision"), "model", pickle_key)
        classifier_folder.check_classifier(folder, **folder_settings, setting=setting)
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from None
