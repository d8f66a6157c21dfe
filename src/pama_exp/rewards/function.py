"""A Python function as a scorer, in the signature of TRL's reward functions."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.types import PromptBatch


class FunctionScorer:
    """`module:function`, called as f(prompts, completions, **columns) -> list[float].

    Raises:
        UserError: if it cannot be imported.
    """

    def __init__(self, source: str) -> None:
        module, _, name = source.partition(":")
        try:
            self.function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"The reward function '{source}' cannot be imported ({error}).", "Write module:function, importable from here.") from None

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Tensor:
        """(B,) what the function returned."""
        columns = {name: list(values) for name, values in prompts.columns.items()}
        return torch.tensor(self.function(prompts=list(prompts.texts), completions=list(responses), **columns), dtype=torch.float32)
