"""Requests to a reward server: one deadline for a request with its retries, a limit on the answer's size, no redirects.

Legend: a batch is the responses of one request.
"""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import httpx

from pama_exp.errors import UserError
from pama_exp.safety.secrets import redact

HINT = 'It is asked {"prompts", "completions", "columns"} and answers {"scores": [one number per completion]}.'
_PASSES = frozenset({408, 425, 429, 500, 502, 503, 504})  # transient status codes: a retry may succeed
_SHOWN = 80  # characters of a wrong answer in an error


@dataclass(frozen=True)
class Connection:
    """Address and limits of a reward server; see `HttpScorer`. Scorers with equal connections share answers."""

    url: str
    timeout: float = 300.0
    retries: int = 4
    backoff: float = 1.0
    max_answer_mib: float = 16.0
    token: str | None = field(default=None, repr=False)


class Server:
    """A reward server: one request at a time; the last answers are kept for the other objectives that it scores."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = redact(connection.url)
        self._lock = Lock()
        self._bodies: Sequence[bytes] = ()
        self._outcome: list[Any] | UserError = []
        self._served: set[int] = set()

    def answers(self, bodies: Sequence[bytes], asker: object) -> list[Any]:
        """The parsed answer to each request body.

        Askers (scorers) with the same bodies share one request; an asker that repeats its bodies causes a new one.

        Raises:
            UserError: if the server cannot be reached, refuses, or answers with anything but JSON.
        """
        with self._lock:
            if self._bodies != bodies or id(asker) in self._served:
                self._bodies, self._served = bodies, set()
                try:
                    self._outcome = asyncio.run(self._ask_all(bodies))
                except UserError as error:
                    self._outcome = error
                except BaseException:
                    self._bodies = ()
                    raise
            self._served.add(id(asker))
            if isinstance(self._outcome, UserError):
                raise UserError(self._outcome.message, self._outcome.hint)
            return self._outcome

    def shown(self, answer: Any) -> str:
        """The beginning of an answer for an error message, without the token, control characters escaped."""
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        secrets = [] if self.connection.token is None else [self.connection.token]
        return repr(redact(text[: 10 * _SHOWN], *secrets)[:_SHOWN])

    async def _ask_all(self, bodies: Sequence[bytes]) -> list[Any]:
        # A small compressed answer might decode to a very large one: ask for it uncompressed.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.connection.token is not None:
            headers["Authorization"] = f"Bearer {self.connection.token}"
        async with httpx.AsyncClient(headers=headers, timeout=None, follow_redirects=False) as client:
            return [self._read(*await self._ask(client, body)) for body in bodies]

    async def _ask(self, client: httpx.AsyncClient, body: bytes) -> tuple[int, bytes]:
        """Status and decoded body of the first answer whose status is not transient."""
        c, reason, attempt = self.connection, "", 0
        loop = asyncio.get_running_loop()
        end = loop.time() + c.timeout
        try:
            async with asyncio.timeout_at(end):
                for attempt in range(1, c.retries + 2):
                    retry_after = 0.0
                    try:
                        async with client.stream("POST", c.url, content=body) as answer:
                            if answer.status_code not in _PASSES:
                                return answer.status_code, await self._body(answer)
                            reason, retry_after = f"status {answer.status_code}", _retry_after(answer)
                    except httpx.TransportError as error:
                        reason = f"{type(error).__name__}: {error}".rstrip(": ")
                    if attempt <= c.retries:
                        pause = max(c.backoff * 2.0 ** min(attempt - 1, 60), retry_after)
                        if loop.time() + pause > end:
                            reason += f"; the next try in {pause:.0f} s would be too late"
                            raise TimeoutError
                        await asyncio.sleep(pause)
        except TimeoutError:
            tries = f"{attempt} {'try' if attempt == 1 else 'tries'}"
            reason = reason or "no whole answer"
            raise UserError(
                f"The reward server {self.name} gave no scores within timeout={c.timeout:g} s ({tries}: {reason}).",
                "Give it more time (timeout) or less work (batch_size). The same command goes on from the last "
                "checkpoint.",
            ) from None
        raise UserError(
            f"The reward server {self.name} failed {attempt} times ({reason}).",
            "Start it again, then type the same command: the run goes on from its last checkpoint.",
        )

    async def _body(self, answer: httpx.Response) -> bytes:
        """The decoded body of an answer, read no further than the size limit.

        Raises:
            UserError: if it is longer, as sent or decoded, or has an encoding other than gzip and deflate.
        """
        limit = int(self.connection.max_answer_mib * 2**20)
        raw = bytearray()
        async for chunk in answer.aiter_raw():
            raw += chunk
            if len(raw) > limit:
                raise self._too_long()
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return bytes(raw)
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise UserError(f"The reward server {self.name} answered in the encoding {self.shown(encoding)}.", HINT)
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or deflate
        try:
            body = decoder.decompress(bytes(raw), limit + 1)
        except zlib.error:
            body = b""
        if len(body) > limit:
            raise self._too_long()
        if not decoder.eof:
            raise UserError(f"The reward server {self.name} answered broken {encoding}.", HINT)
        return body

    def _too_long(self) -> UserError:
        return UserError(
            f"The reward server {self.name} answered more than max_answer_mib={self.connection.max_answer_mib:g} MiB.",
            HINT,
        )

    def _read(self, status: int, body: bytes) -> Any:
        text = body.decode(errors="replace")
        if 300 <= status < 400:
            raise UserError(
                f"The reward server {self.name} answered with status {status}, a redirect, which is not followed.",
                "Give the url that it leads to: a token is for the server named alone.",
            )
        if status != 200:
            raise UserError(f"The reward server {self.name} answered with status {status}: {self.shown(text)}.", HINT)
        with suppress(ValueError, RecursionError):
            return json.loads(text)
        raise UserError(f"The reward server {self.name} answered {self.shown(text)}.", HINT)


_SERVERS: WeakValueDictionary[Connection, Server] = WeakValueDictionary()
_SERVERS_LOCK = Lock()


def shared_server(connection: Connection) -> Server:
    """The server for this connection, shared by all scorers that hold it."""
    with _SERVERS_LOCK:
        server = _SERVERS.get(connection)
        if server is None:
            server = _SERVERS[connection] = Server(connection)
        return server


def scores_of(server: Server, answer: Any, name: str | None, count: int) -> list[float]:
    """The `count` scores in an answer: its only list, or the list called `name` if it has several.

    Raises:
        UserError: for an answer of any other form, or a name that it does not have.
    """
    prefix = f"The reward server {server.name} answered"
    scores = answer.get("scores") if isinstance(answer, Mapping) else None
    if isinstance(scores, Mapping):
        offered = f"It offers: {redact(_listed(list(scores)))}."
        if name is None:
            raise UserError(f"{prefix} several scores, by name, and no score is chosen.", f"Set score=NAME. {offered}")
        if name not in scores:
            raise UserError(f"{prefix} no score named '{name}'.", offered)
        scores = scores[name]
    elif isinstance(scores, list) and name is not None:
        raise UserError(
            f"{prefix} one list of scores, and score={name} asks for one of several.",
            'Leave score out, or let it answer {"scores": {NAME: [one number per completion]}}.',
        )
    if not isinstance(scores, list):
        raise UserError(f"{prefix} {server.shown(answer)}.", HINT)
    wrong = next((i for i, score in enumerate(scores) if not _is_number(score)), None)
    if wrong is not None:
        raise UserError(f"{prefix} {server.shown(scores[wrong])} as score {wrong}, which is no number.", HINT)
    if len(scores) != count:
        raise UserError(f"{prefix} {len(scores)} scores for {count} responses.", HINT)
    return [_float(score) for score in scores]


def _listed(names: Sequence[Any]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(repr(str(name)[:24])[1:-1] for name in names[:8]) or "none") + more


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: float | int) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _retry_after(answer: httpx.Response) -> float:
    """Seconds to wait by the Retry-After header, a number or a date (RFC 9110, section 10.2.3); 0 without one."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    # HTTP dates are in UTC.
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
