"""Which of a row's two responses is the better one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pama_exp.errors import UserError


def better_and_worse(
    first: Sequence[Any], second: Sequence[Any], choices: Sequence[Any] | None, kind: str, where: str
) -> list[tuple[Any, Any] | None]:
    """(better, worse) of each row; None where neither is better.

    Args:
        first: a response of each row; the better one if there are no choices.
        second: the other response of each row.
        choices: what the table says of each row; None: the first response is the better one.
        kind: `index`, 0 or 1 for the first or the second; `sign`, a number below 0 where the first is better, above 0
            where the second is, 0 where neither is.
        where: the setting that names the column, for the message.

    Raises:
        UserError: for a choice of another kind.
    """
    if choices is None:
        return list(zip(first, second, strict=True))
    for value in choices:
        is_number = isinstance(value, int | float)
        if value is not None and not (is_number and (kind == "sign" or value in (0, 1))):
            raise UserError(
                f"{where} holds {str(value)[:40]!r}.",
                "It holds 0 or 1; with data.choice_kind=sign numbers below 0 where the first response is better.",
            )
    is_second = [None if value is None or (kind == "sign" and value == 0) else value > 0 for value in choices]
    return [
        None if swapped is None else (b, a) if swapped else (a, b)
        for a, b, swapped in zip(first, second, is_second, strict=True)
    ]
