"""Finding passwords, keys and tokens in settings, and removing them from texts.

All settings, commands and errors that a run writes or prints go through `redact`. Settings that hold a secret are
refused before anything is written: secrets belong in environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
HINT = (
    "Settings are kept with the run. Put secrets into environment variables: token_variable=NAME sends the value of "
    "NAME to a reward server; the Hub reads HF_TOKEN, W&B reads WANDB_API_KEY."
)
_ENDINGS = (
    *("password", "passwd", "pwd", "passphrase", "secret", "credential", "credentials", "authorization", "cookie"),
    *(f"{kind}key" for kind in ("api", "access", "private", "secret", "auth", "signing", "wandb", "hf", "account")),
)
_NAMES = ("auth", "bearer", "pass")
_QUERY_ENDINGS = ("key", "sig", "signature")  # further endings of names in the query of a URL
# A tokenizer's tokens and numbers per token are no secrets.
_PUBLIC_TOKENS = re.compile(r"(pad|eos|bos|unk|sep|cls|mask|stop|start|end|image|video|audio|special|per)token$")
_LEAST = 8  # characters; shorter values of environment variables are not searched for in texts

_QUERY = re.compile(r"(?<=[?&;#])([^=&;#\s\"']+)=([^&;#\s\"']+)")
_PATTERNS = [
    (re.compile(r"(\w://)[^\s/?#]*@"), rf"\1{HIDDEN}@"),
    # A password may hold a slash or a question mark that is not quoted.
    (re.compile(r"(\w://)[^\s/?#@:\[\]]+:(?!\d*(?:[/?#,;)'\"\]}\s.]|$))[^\s@]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?<![\w/:])[\w.%+-]+:(?!//)[^\s/@:'\"]+@(?=[\w-]+(?:\.|:\d))"), f"{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic) +(?=[^\s,'\"}]*\d)[\w.~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?<![A-Za-z0-9])hf_(?:(?=[a-z0-9]*[A-Z0-9])[A-Za-z0-9]{10,}|[a-z]{20,})"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9])(?:wandb_v\d_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,})"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9])(?:AKIA[0-9A-Z]{16}|glpat-[\w-]{16,}|xox[abp]-[\w-]{10,})"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
]
_VALUE = r"(\"[^\"]*\"|'[^']*'|(?:Bearer |Basic |Token )?[^\s,;&'\"\])}]+)"
_ASSIGNED = [
    re.compile(rf"(?P<name>[A-Za-z_][\w.-]*)(?P<sign>[\"']?\s?=\s?|[\"']\s*:\s*){_VALUE}"),
    re.compile(rf"(?<=[{{,])(?P<name>\s*[A-Za-z_][\w.-]*)(?P<sign>\s*:\s*){_VALUE}"),
]
_NOTHING = ("", "null", "None", "true", "false", "~", "???")


def is_secret_name(name: str, in_url: bool = False) -> bool:
    """Whether a setting, a header or an environment variable of this name holds a secret, such as api_key."""
    plain = re.sub(r"[^a-z0-9]", "", name.strip().rpartition(".")[2].lower())
    if plain.endswith("token"):
        return not _PUBLIC_TOKENS.search(plain)
    return plain in _NAMES or plain.endswith(_ENDINGS) or (in_url and plain.endswith(_QUERY_ENDINGS))


def redact(text: str, *known: str) -> str:
    """The text with *** for each secret in it.

    Args:
        text: to be written or printed.
        known: secrets that are hidden whatever they look like.
    """

    def hide(match: re.Match[str]) -> str:
        is_secret = is_secret_name(match["name"]) and match[3].strip("\"'") not in _NOTHING
        return f"{match['name']}{match['sign']}{HIDDEN}" if is_secret else match[0]

    for secret in known:
        text = text.replace(secret, HIDDEN)
    text = _without_values(text)
    for pattern in _ASSIGNED:
        text = pattern.sub(hide, text)
    return text


def redacted(value: Any) -> Any:
    """Plain nested values with *** for each value under a secret's name, and for each secret in a text."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(key, each) else redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    return redact(value) if isinstance(value, str) else value


def secrets_in(settings: Mapping[str, Any]) -> Iterator[str]:
    """The settings that hold a secret in plain text, as dotted key=value with the secret hidden."""
    for key, value in _leaves(settings, "", False):
        yield key if value is None else f"{key}={value}"


def secrets_of_words(words: Sequence[str]) -> Iterator[str]:
    """The overrides that hold a secret in plain text, with the secret hidden."""
    for word in words:
        key, _, value = word.partition("=")
        if _is_secret(key, value):
            yield f"{key}={HIDDEN}"
        elif _without_values(word) != word:
            yield redact(word)


def _leaves(value: Any, where: str, is_secret: bool) -> Iterator[tuple[str, str | None]]:
    """(dotted key, value with its secret hidden) of every value that holds a secret; None for a key that holds one."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            here = f"{where}.{key}".lstrip(".")
            if _without_values(str(key)) != str(key):
                yield redact(here), None
            yield from _leaves(each, here, is_secret or is_secret_name(str(key)))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each, where, is_secret)
    elif is_secret and _is_value(value):
        yield where, HIDDEN
    elif isinstance(value, str) and _without_values(value) != value:
        yield where, redact(value)


def _is_secret(name: Any, value: Any) -> bool:
    return is_secret_name(str(name)) and _is_value(value)


def _is_value(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | Mapping | list) and str(value) not in _NOTHING


def _without_values(text: str) -> str:
    """The text without secrets that need no name: in URLs, of a known form, or values of environment variables."""

    def hide(match: re.Match[str]) -> str:
        return f"{match[1]}={HIDDEN}" if is_secret_name(unquote(match[1]), in_url=True) else match[0]

    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    if "://" in text:
        text = _QUERY.sub(hide, text)
    values = [value for name, value in os.environ.items() if is_secret_name(name) and _is_worth_hiding(value)]
    for value in sorted(values, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
    return text


def _is_worth_hiding(value: str) -> bool:
    return len(value) >= _LEAST and not value.startswith("/") and value.isprintable() and value != HIDDEN
