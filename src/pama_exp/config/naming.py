"""What a configuration is called in folders and tables, and what of it is kept there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# These say where and how a run is shown, not what it computes: two runs that differ in them alone are the same run.
VOLATILE = ("output", "cache_dir", "force", "preflight", "logger", "trainer")
# What a stage's yaml says of how it is run.
_OF_STAGES = ("learns_from_rows", "scores_run")
# Sections that one stage reads, kept in its own runs alone: a run begun before there was the section is still the same.
_OF_ONE_STAGE = ("dpo", "mod", "judge")

_LONGEST = 100  # characters of a slug; file systems allow a name 255 bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for devices
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "\\`", "](": "]\\("}


def slug(*names: str) -> str:
    """The names, joined by +, as part of a file's name: letters, digits, dots, underscores and hyphens alone.

    Ordinary names stay as they are. What had to be changed gets a short hash of the whole, so that different names
    have different slugs.
    """
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed" for name in names]
    joined = "+".join(parts)
    if parts == list(names) and len(joined) <= _LONGEST and not _RESERVED.fullmatch(joined):
        return joined
    mark = hashlib.sha256("\0".join(names).encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{joined[: _LONGEST - 9]}-{mark}"


def markdown_text(text: str) -> str:
    """Text as it may stand in a line or a table's cell of a markdown file: no HTML, no links, no line breaks."""
    line = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text)
    for mark, written in _MARKUP.items():
        line = line.replace(mark, written)
    return line


def solver_label(solver: Mapping[str, Any]) -> str:
    """The solver's name as folders and tables show it."""
    return str(solver.get("name", str(solver.get("_target_", "solver")).rpartition(".")[2].lower()))


def method_label(container: Mapping[str, Any]) -> str:
    """What trained the policy: the solver's label or, of pairs, the method's; and whether it is told its preference."""
    is_told = "conditioning" in recorded(container)
    of_pairs = container.get("stage", {}).get("name") == "dpo"
    label = str(container["dpo"]["method"]) if of_pairs else solver_label(container["solver"])
    return label + ("-conditioned" if is_told else "")


def recorded(container: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as a run's folder keeps it.

    Without a conditioning where there is none, without other stages' sections, and without what the stage's yaml says
    of how the stage is run: so a run that was begun before there were such settings is still the same run.
    """
    is_conditioned = container.get("conditioning", {}).get("name", "none") != "none"
    name = container.get("stage", {}).get("name")
    left_out = {key for key in _OF_ONE_STAGE if key != name} | (set() if is_conditioned else {"conditioning"})
    kept = {key: value for key, value in container.items() if key not in left_out}
    stage = {key: value for key, value in container.get("stage", {}).items() if key not in _OF_STAGES}
    return {**kept, "stage": stage} if "stage" in kept else kept


def basename(*paths: str | None) -> str:
    """The last part of the last path given; `hf` where none is."""
    given = [path for path in paths if path is not None]
    return given[-1].rstrip("/").rpartition("/")[2] if given else "hf"


def shown(text: Any) -> str:
    """On one line of characters that every terminal and file takes: others as escapes, such as those of odd names."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def digest(values: Any, length: int = 8) -> str:
    """A short hash of plain nested values, the same in every process."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:length]


def identity(container: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that determines the numbers."""
    return {key: value for key, value in container.items() if key not in VOLATILE}


def rewards_of(kind: str) -> str:
    """What rewards of a kind are called where only one kind is shown: gold ones by that name, others are rewards."""
    return "gold rewards" if kind == "gold" else "rewards"
