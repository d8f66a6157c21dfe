"""A transformers sequence classifier as a scorer, with its own tokenizer.

Legend: B responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pama_exp.errors import UserError
from pama_exp.types import PromptBatch


class ClassifierScorer:
    """One logit of a frozen classifier.

    Args:
        folder: a local folder in Hugging Face format, tokenizer included.
        template: how prompt and response become one text.
        label_index: which logit; may be None where there is only one.
        sign: −1 where a higher logit is worse.
        max_length: tokens kept, from the end, since that is where the response is.
        batch_size: responses per forward pass.

    Raises:
        UserError: if the classifier has several labels and none is chosen.
    """

    def __init__(
        self,
        folder: str | Path,
        template: str = "{prompt} {response}",
        label_index: int | None = None,
        sign: float = 1.0,
        max_length: int | None = None,
        batch_size: int = 64,
    ) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="right", truncation_side="left")
        self.model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval().requires_grad_(False)
        labels = self.model.config.num_labels
        if label_index is None and labels > 1:
            raise UserError(f"The classifier in {folder} has {labels} labels.", f"Set label_index to one of 0 … {labels - 1}.")
        self.template, self.label_index, self.sign = template, label_index or 0, sign
        self.max_length, self.batch_size = max_length, batch_size

    @torch.no_grad()
    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """Logits in the order of the responses; computed in batches of similar length."""
        texts = [self.template.format(prompt=p, response=r).strip() for p, r in zip(prompts.texts, responses, strict=True)]
        rows = self.tokenizer(texts, truncation=self.max_length is not None, max_length=self.max_length)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = torch.zeros(len(rows))
        for start in range(0, len(order), self.batch_size):
            index = order[start : start + self.batch_size]
            batch = self.tokenizer.pad({"input_ids": [rows[i] for i in index]}, return_tensors="pt").to(self.model.device)
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            scores[index] = self.sign * logits[:, self.label_index].float().cpu()
        return scores
