"""A reward model with several heads: one forward pass scores a batch for every objective that takes a head of it.

Legend: B responses, H heads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import Annotated, Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, Range, shown
from pama_exp.errors import UserError, suggest
from pama_exp.hub import repositories
from pama_exp.rewards.classifier import ClassifierScorer
from pama_exp.types import PromptBatch


class SharedClassifier:
    """A classifier that several objectives read; the last batch's logits are kept for the others."""

    def __init__(self, classifier: ClassifierScorer) -> None:
        self.classifier = classifier
        self._lock = Lock()
        self._asked: tuple[list[str], list[str]] | None = None
        self._logits = torch.zeros(0, 0)

    def logits(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, "B H"]:
        """All heads' scores of a batch."""
        asked = (list(prompts.texts), list(responses))
        with self._lock:
            if self._asked != asked:
                self._logits = self.classifier.logits(prompts, responses)
                self._asked = asked
            return self._logits


_SHARED: WeakValueDictionary[str, SharedClassifier] = WeakValueDictionary()


class MultiHead:
    """One head of a frozen regressor, such as the attributes that HelpSteer rates.

    Objectives whose settings are the same but for `head` and `sign` share the model and its forward passes.

    Args:
        head: its name, or its place from 0.
        id: owner/name on the Hub.
        revision: commit, tag or branch; the newest where None.
        path: a local folder in Hugging Face format, in place of the Hub's; a sequence classifier of H labels.
        heads: the names in their order; the model's own labels where empty.
        parameters: as published, for the preflight's estimate of memory.
        sign: −1 where a higher score is worse.
        template, strip, max_length, truncation_side, batch_size, pad_token, allow_pickle, device: as `ClassifierScorer`
            takes them.

    Raises:
        UserError: if there is no such head, or as `ClassifierScorer` does.
    """

    def __init__(
        self,
        head: str | Annotated[int, Range(least=0)] | None = None,
        id: str | None = None,
        revision: str | None = None,
        path: str | None = None,
        heads: Sequence[str] = (),
        parameters: Annotated[int, Range(least=1)] | None = None,
        sign: Annotated[float, Range()] = 1.0,
        template: str = "{prompt} {response}",
        strip: bool = True,
        max_length: Annotated[int, Range(least=1)] | None = None,
        truncation_side: Annotated[str, OneOf("left", "right")] = "left",
        batch_size: Annotated[int, Range(least=1)] = 64,
        pad_token: str | None = None,
        allow_pickle: bool = False,
        device: str | None = None,
    ) -> None:
        if sign == 0:
            raise UserError("sign=0 makes every score 0.", "1 where a higher score is better, -1 where it is worse.")
        if not path and id is None:
            raise UserError(
                "A model with heads has neither id nor path.", "Give id: owner/name on the Hub, or path: FOLDER."
            )
        folder = path or repositories.resolve(str(id), revision, "model", None if allow_pickle else "allow_pickle")
        settings: dict[str, Any] = {
            "template": template,
            "strip": strip,
            "max_length": max_length,
            "truncation_side": truncation_side,
            "batch_size": batch_size,
            "pad_token": pad_token,
            "allow_pickle": allow_pickle,
            "device": device,
        }
        key = json.dumps([str(folder), settings], sort_keys=True)
        shared = _SHARED.get(key)
        if shared is None:
            shared = SharedClassifier(ClassifierScorer(folder, label_index=0, **settings))
            _SHARED[key] = shared
        self.shared, self.sign = shared, sign
        self.index = _place(head, list(heads), shared.classifier.model.config, str(folder))

    @property
    def device(self) -> torch.device | None:
        """Where it stays, if it has a device of its own."""
        return self.shared.classifier.device

    def to(self, device: torch.device) -> None:
        """Score there from now on, unless it has a device of its own."""
        self.shared.classifier.to(device)

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """The head's scores, in the order of the responses.

        Raises:
            UserError: for a text longer than the model's positions.
        """
        return self.sign * self.shared.logits(prompts, responses)[:, self.index]


def _place(head: str | int | None, heads: list[str], config: Any, source: str) -> int:
    names = heads or [str(config.id2label.get(i, i)) for i in range(config.num_labels)]
    if len(names) != config.num_labels:
        raise UserError(f"{source} has {config.num_labels} heads, and {len(names)} are named.", "Name every one.")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise UserError(f"heads={shown(names)} holds '{twice[0]}' twice.", "Name each head once.")
    if isinstance(head, int) and 0 <= head < len(names):
        return head
    if head not in names:
        raise UserError(f"{source} has no head {shown(head)}.", suggest(str(head), names))
    return names.index(str(head))
