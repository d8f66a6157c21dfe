"""A reward server as a scorer: responses are sent in batches over HTTP; transient failures are retried.

Protocol: POST {"prompts": [...], "completions": [...], "columns": {name: [...]}}. The answer is {"scores": [...]}, one
finite number per completion, in order, or {"scores": {name: [...]}} for several objectives at once. Column values that
JSON cannot represent (dates, for example) are sent as text.

Legend: B responses.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError, refuse_secrets
from pama_exp.rewards.server import Connection, scores_of, shared_server
from pama_exp.safety.secrets import secrets_in
from pama_exp.types import PromptBatch


class HttpScorer:
    """Scores from a reward server.

    Args:
        url: address of the server, without user, password or key.
        batch_size: responses per request.
        timeout: seconds for one request in total, with all retries, the waits between them and the whole answer.
        retries: how often a request is sent again after a lost connection or a transient error.
        backoff: seconds before the first retry, doubled for each further one; a server's Retry-After can lengthen it.
        token_variable: environment variable whose value is sent as a bearer token; None sends none.
        score: name of this objective's scores if the server returns several; scorers whose other settings are equal
            then share one request.
        max_answer_mib: size limit of a decoded answer, in MiB.

    Raises:
        UserError: for a url that is not http(s) or contains a secret, a number out of range, or a variable that is not
            set.
    """

    @checked("http")
    def __init__(
        self,
        url: str | None,
        batch_size: Annotated[int, Range(least=1)] = 64,
        timeout: Annotated[float, Range(above=0)] = 300.0,
        retries: Annotated[int, Range(least=0)] = 4,
        backoff: Annotated[float, Range(least=0)] = 1.0,
        token_variable: str | None = None,
        score: str | None = None,
        max_answer_mib: Annotated[float, Range(above=0)] = 16.0,
    ) -> None:
        refuse_secrets(secrets_in({"url": url, "score": score}))
        if url is None or not _is_url(url):
            raise UserError(f"The reward server's url is {url}.", "Write http://host:port/path or https://….")
        token = None if token_variable is None else _token(token_variable)
        self.url, self.batch_size, self.name = url, batch_size, score
        self.server = shared_server(Connection(url, timeout, retries, backoff, max_answer_mib, token))

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, ...]:
        """(B,) the server's scores; `checked_score` refuses scores that are not finite.

        Raises:
            UserError: if the server cannot be reached, refuses, or answers with anything but one number per response.
        """
        bodies, counts = [], []
        for start in range(0, len(responses), self.batch_size):
            rows = slice(start, start + self.batch_size)
            request: dict[str, Any] = {
                "prompts": list(prompts.texts[rows]),
                "completions": list(responses[rows]),
                "columns": {name: list(values[rows]) for name, values in prompts.columns.items()},
            }
            bodies.append(json.dumps(request, default=str).encode())
            counts.append(len(request["completions"]))
        answers = self.server.answers(bodies, self)
        lists = [scores_of(self.server, a, self.name, count) for a, count in zip(answers, counts, strict=True)]
        return torch.tensor([score for scores in lists for score in scores], dtype=torch.float32)


def _is_url(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        return False
    return url.startswith(("http://", "https://")) and parsed.host != "" and (parsed.port or 1) < 2**16


def _token(variable: str) -> str:
    """The token in the environment variable.

    Raises:
        UserError: if the variable is not set, or its value cannot be sent. A name that may be a token is not shown.
    """
    value = os.environ.get(variable, "").strip() if variable and "\0" not in variable else ""
    if not value and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise UserError(
            "token_variable names no environment variable that is set.",
            "It is the name of a variable, such as REWARD_TOKEN, and not the token itself.",
        )
    if not value:
        raise UserError(f"The variable {variable} is not set.", f"export {variable}=… with the token.")
    if not (value.isascii() and value.isprintable()):
        raise UserError(f"The value of {variable} cannot be sent as a token.", "It holds printable ASCII characters.")
    return value
