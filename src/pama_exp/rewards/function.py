"""A Python function as a scorer, in the signature of TRL's reward functions.

Legend: B responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import shown
from pama_exp.errors import UserError, described, users_code
from pama_exp.rewards.scorer import FIX_IT
from pama_exp.safety.import_path import import_module
from pama_exp.types import PromptBatch


class FunctionScorer:
    """Scores by a Python function, called as f(prompts, completions, **columns) -> list[float].

    Args:
        source: the function as `module:name`.

    Raises:
        UserError: if it is not named, cannot be imported, or is no function.
    """

    def __init__(self, source: str | None) -> None:
        if source is None:
            raise UserError("A reward function is not named.", "Write function: module:name.")
        self.source = source
        module, _, name = source.partition(":")
        try:
            self.function = getattr(import_module(module), name)
        except (Exception, SystemExit) as error:  # a module may raise anything
            raise UserError(
                f"The reward function '{source}' cannot be imported ({described(error)}).",
                "Write module:function, importable from here; correct a module that raises.",
            ) from None
        if not callable(self.function):
            raise UserError(f"'{source}' is {shown(self.function)}, not a function.", "Write module:function.")

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, ...]:
        """(B,) the function's scores; `checked_score` refuses a wrong number of them.

        Raises:
            UserError: if the function needs a column that the data does not have, raises, exits, or returns anything
                but numbers.
        """
        # Prompts and completions take precedence over columns of the same name.
        available = {name: list(values) for name, values in prompts.columns.items()}
        available |= {"prompts": list(prompts.texts), "completions": list(responses)}
        arguments = self._arguments(available)
        with users_code(f"The reward function '{self.source}'", FIX_IT):
            scores = self.function(**arguments)
        try:
            return torch.as_tensor(scores, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise UserError(
                f"The reward function '{self.source}' returned {shown(scores)}.", "Return one float per response."
            ) from None

    def _arguments(self, available: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The available columns that the function has parameters for."""
        try:
            parameters = signature(self.function).parameters.values()
        except (TypeError, ValueError):  # of some built in C
            return dict(available)
        for p in parameters:
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in available:
                raise UserError(
                    f"The reward function '{self.source}' asks for '{p.name}', and the data has no such column.",
                    f"It is given: {', '.join(available)}.",
                )
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        return {name: values for name, values in available.items() if takes_any or name in names}
