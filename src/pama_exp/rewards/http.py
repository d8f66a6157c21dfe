"""A reward server as a scorer: responses in batches over HTTP, transient failures retried.

Protocol: POST {"prompts": [...], "completions": [...], "columns": {name: [...]}}, answered by {"scores": [...]}, one
finite number per completion, in order. Values of columns that JSON has no form for (dates, say) are sent as text.

Legend: B responses.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.types import PromptBatch

_PASSES = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be another when asked again


class HttpScorer:
    """Scores from a server.

    Args:
        url: where to POST.
        batch_size: responses per request.
        timeout: seconds to wait for an answer, and at most for what a server asks for by Retry-After.
        retries: how often a request that timed out, lost its connection or met a passing error is sent again.
        backoff: seconds before the first retry; doubled for each further one. A server's Retry-After lengthens it.
        token_variable: environment variable whose value is sent as a bearer token; None sends none.

    Raises:
        UserError: for a url of another kind, a number out of range, or a variable that is not set.
    """

    def __init__(
        self,
        url: str | None,
        batch_size: int = 64,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 1.0,
        token_variable: str | None = None,
    ) -> None:
        if url is None or not url.startswith(("http://", "https://")):
            raise UserError(f"The reward server's url is {url}.", "Write http://host:port/path or https://….")
        if batch_size < 1 or not timeout > 0 or retries < 0 or backoff < 0:
            raise UserError(
                f"http: batch_size={batch_size}, timeout={timeout}, retries={retries}, backoff={backoff}.",
                "batch_size ≥ 1, timeout > 0, retries ≥ 0, backoff ≥ 0.",
            )
        headers = {"Content-Type": "application/json"}
        if token_variable is not None:
            if not os.environ.get(token_variable):
                raise UserError(
                    f"The variable {token_variable} is not set.", f"export {token_variable}=… with the token."
                )
            headers["Authorization"] = f"Bearer {os.environ[token_variable]}"
        self.url, self.batch_size, self.retries, self.backoff, self.timeout = url, batch_size, retries, backoff, timeout
        self.client = httpx.Client(headers=headers, timeout=timeout)

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, ...]:
        """(B,) what the server answered; a score that is not finite is for `checked_score` to refuse.

        Raises:
            UserError: if the server cannot be reached, refuses, or answers with anything but one number per response.
        """
        scores: list[float] = []
        for start in range(0, len(responses), self.batch_size):
            rows = slice(start, start + self.batch_size)
            columns = {name: list(values[rows]) for name, values in prompts.columns.items()}
            request: dict[str, Any] = {
                "prompts": list(prompts.texts[rows]),
                "completions": list(responses[rows]),
                "columns": columns,
            }
            scores += self._ask(request, len(request["completions"]))
        return torch.tensor(scores, dtype=torch.float32)

    def _ask(self, request: Mapping[str, object], count: int) -> list[float]:
        reason, asked = "", 0.0
        for attempt in range(self.retries + 1):
            if attempt > 0:
                time.sleep(max(self.backoff * 2 ** (attempt - 1), min(asked, self.timeout)))
            asked = 0.0
            try:
                answer = self.client.post(self.url, content=json.dumps(request, default=str))
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if answer.status_code in _PASSES:
                reason, asked = f"status {answer.status_code}", _retry_after(answer)
                continue
            return self._read(answer, count)
        raise UserError(
            f"The reward server {self.url} failed {self.retries + 1} times ({reason}).",
            "Start it again, then type the same command: the run goes on from its last checkpoint.",
        )

    def _read(self, answer: httpx.Response, count: int) -> list[float]:
        hint = 'It is asked {"prompts", "completions", "columns"} and answers {"scores": [one number per completion]}.'
        if answer.status_code != 200:
            raise UserError(f"The reward server {self.url} answered with status {answer.status_code}.", hint)
        try:
            scores = [float(score) for score in answer.json()["scores"]]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"The reward server {self.url} answered {answer.text[:80]!r}.", hint) from None
        if len(scores) != count:
            raise UserError(f"The reward server {self.url} answered {len(scores)} scores for {count} responses.", hint)
        return scores


def _retry_after(answer: httpx.Response) -> float:
    """The seconds that the server asks to be left alone for (RFC 9110, 10.2.3: a number, or a date); else 0."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    # A date without a zone is in UTC, as every HTTP date is.
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
