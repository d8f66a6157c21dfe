"""A preference pair as the policy reads and says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, and which is preferred.

    Attributes:
        prompt: as the policy reads it.
        plain_prompt: the prompt without a chat template, as scorers read it.
        chosen: the preferred response.
        rejected: the other one.
        place: where it stands in a table, for messages; empty where it is in none.
        columns: what else the data knows of it, handed on to scorers.
    """

    prompt: str
    plain_prompt: str
    chosen: str
    rejected: str
    place: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
