"""The engine that suits the model: the fast decode loop where that is right, else transformers' `generate`."""

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
    """`FastEngine`, or where it cannot decode the model `HFEngine`, whose `reason` then says why.

    Args:
        model: the policy.
        tokenizer: the policy's.
        rows_at_once: of `FastEngine`.
        graphs: of `FastEngine`.
        shift_of: of a policy conditioned by its embeddings; see `RolloutEngine`.

    Raises:
        UserError: as the engine chosen.
    """
    try:
        return FastEngine(model, tokenizer, rows_at_once, graphs, shift_of)
    except CannotDecodeError as error:
        return HFEngine(model, tokenizer, shift_of, error.reason)
