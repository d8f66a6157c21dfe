"""Asking a reward server: one deadline for a request and all its retries, a limit on what it may answer, no redirects.

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
_PASSES = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be another when asked again
_SHOWN = 80  # characters of a wrong answer


@dataclass(frozen=True)
class Connection:
    """How a server is asked; objectives that ask in the same way share its answers."""

    url: str
    timeout: float = 300.0
    retries: int = 4
    backoff: float = 1.0
    max_answer_mib: float = 16.0
    token: str | None = field(default=None, repr=False)


class Server:
    """One server, asked for one batch at a time; the last answer is kept for the other objectives that it scores."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = redact(connection.url)
        self._lock = Lock()
        self._asked: Sequence[bytes] = ()
        self._outcome: list[Any] | UserError = []
        self._told: set[int] = set()

    def answers(self, bodies: Sequence[bytes], asker: object) -> list[Any]:
        """The parsed answer to each of the bodies. Each asker is told an answer once: asked again, so is the server.

        Raises:
            UserError: if the server cannot be reached, refuses, or answers with anything but JSON.
        """
        with self._lock:
            if self._asked != bodies or id(asker) in self._told:
                self._asked, self._told = bodies, set()
                try:
                    self._outcome = asyncio.run(self._ask_all(bodies))
                except UserError as error:
                    self._outcome = error
                except BaseException:
                    self._asked = ()
                    raise
            self._told.add(id(asker))
            if isinstance(self._outcome, UserError):
                raise UserError(self._outcome.message, self._outcome.hint)
            return self._outcome

    def shown(self, answer: Any) -> str:
        """The beginning of what it answered, without the token, control characters escaped."""
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        known = [] if self.connection.token is None else [self.connection.token]
        return repr(redact(text[: 10 * _SHOWN], *known)[:_SHOWN])

    async def _ask_all(self, bodies: Sequence[bytes]) -> list[Any]:
        # What is asked for compressed might be much more than it seems.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.connection.token is not None:
            headers["Authorization"] = f"Bearer {self.connection.token}"
        async with httpx.AsyncClient(headers=headers, timeout=None, follow_redirects=False) as client:
            return [self._read(*await self._ask(client, body)) for body in bodies]

    async def _ask(self, client: httpx.AsyncClient, body: bytes) -> tuple[int, bytes]:
        """Status and decoded body of the first answer that is not a passing error."""
        c, reason, attempt = self.connection, "", 0
        loop = asyncio.get_running_loop()
        end = loop.time() + c.timeout
        try:
            async with asyncio.timeout_at(end):
                for attempt in range(1, c.retries + 2):
                    asked = 0.0
                    try:
                        async with client.stream("POST", c.url, content=body) as answer:
                            if answer.status_code not in _PASSES:
                                return answer.status_code, await self._whole(answer)
                            reason, asked = f"status {answer.status_code}", _retry_after(answer)
                    except httpx.TransportError as error:
                        reason = f"{type(error).__name__}: {error}".rstrip(": ")
                    if attempt <= c.retries:
                        pause = max(c.backoff * 2.0 ** min(attempt - 1, 60), asked)
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

    async def _whole(self, answer: httpx.Response) -> bytes:
        """The body, decoded. Neither as sent nor decoded does it become longer than the limit.

        Raises:
            UserError: if it would, or is in an encoding other than gzip and deflate.
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
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either kind
        try:
            whole = decoder.decompress(bytes(raw), limit + 1)
        except zlib.error:
            whole = b""
        if len(whole) > limit:
            raise self._too_long()
        if not decoder.eof:
            raise UserError(f"The reward server {self.name} answered broken {encoding}.", HINT)
        return whole

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
    """The one that every scorer with this connection asks, as long as there is such a scorer."""
    with _SERVERS_LOCK:
        server = _SERVERS.get(connection)
        if server is None:
            server = _SERVERS[connection] = Server(connection)
        return server


def scores_of(server: Server, answer: Any, name: str | None, count: int) -> list[float]:
    """The scores in an answer: a list of `count` numbers, or one of several lists by its name.

    Raises:
        UserError: for an answer of any other form, or a name that is not there.
    """
    said = f"The reward server {server.name} answered"
    scores = answer.get("scores") if isinstance(answer, Mapping) else None
    if isinstance(scores, Mapping):
        offered = f"It offers: {redact(_listed(list(scores)))}."
        if name is None:
            raise UserError(f"{said} several scores, by name, and no score is chosen.", f"Set score=NAME. {offered}")
        if name not in scores:
            raise UserError(f"{said} no score named '{name}'.", offered)
        scores = scores[name]
    elif isinstance(scores, list) and name is not None:
        raise UserError(
            f"{said} one list of scores, and score={name} asks for one of several.",
            'Leave score out, or let it answer {"scores": {NAME: [one number per completion]}}.',
        )
    if not isinstance(scores, list):
        raise UserError(f"{said} {server.shown(answer)}.", HINT)
    wrong = next((i for i, score in enumerate(scores) if not _is_number(score)), None)
    if wrong is not None:
        raise UserError(f"{said} {server.shown(scores[wrong])} as score {wrong}, which is no number.", HINT)
    if len(scores) != count:
        raise UserError(f"{said} {len(scores)} scores for {count} responses.", HINT)
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
