"""The engine that suits the model: the fast decode loop where that works, else transformers' `generate`."""

from __future__ import annotations

from typing import Annotated

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.ranges import Range
from pama_exp.rollout.engine import RolloutEngine, ShiftOf
from pama_exp.rollout.fast import CannotDecodeError, FastEngine
from pama_exp.rollout.hf import HFEngine


def choose_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows_at_once: Annotated[int, Range(least=1)] | None = None,
    graphs: bool = False,
    shift_of: ShiftOf | None = None,
) -> RolloutEngine:
    """`FastEngine`, or `HFEngine` where that cannot decode the model; its `reason` then says why.

    Args:
        model: the policy.
        tokenizer: the policy's.
        rows_at_once, graphs: settings of `FastEngine`.
        shift_of: for a policy conditioned by its embeddings; see `RolloutEngine`.

    Raises:
        UserError: as `FastEngine` and `HFEngine` do.
    """
    try:
        return FastEngine(model, tokenizer, rows_at_once, graphs, shift_of)
    except CannotDecodeError as error:
        return HFEngine(model, tokenizer, shift_of, error.reason)
