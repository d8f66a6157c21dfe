"""Names of configurations in folders and tables, and the part of a configuration that a run's folder keeps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# Settings that do not change what a run computes: configurations that differ only in these are the same run.
VOLATILE = ("output", "cache_dir", "force", "preflight", "logger", "trainer")
# Keys of a stage's yaml that say how the stage is run.
_OF_STAGES = ("learns_from_rows", "scores_run")
# Sections that one stage reads, kept in its own runs alone: a run begun before there was the section is still the same.
_OF_ONE_STAGE = ("dpo", "mod", "judge")

_MAX_SLUG = 100  # characters; file systems allow names of 255 bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "\\`", "](": "]\\("}


def slug(*names: str) -> str:
    """The names, joined by +, with only letters, digits, dots, underscores and hyphens, for names of files.

    Names of other characters, and long or reserved ones, are changed and get a short hash, so that different names have
    different slugs.
    """
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed" for name in names]
    joined = "+".join(parts)
    if parts == list(names) and len(joined) <= _MAX_SLUG and not _RESERVED.fullmatch(joined):
        return joined
    mark = hashlib.sha256("\0".join(names).encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{joined[: _MAX_SLUG - 9]}-{mark}"


def markdown_text(text: str) -> str:
    """The text escaped for a line or a table's cell of Markdown: no HTML, no links, no line breaks."""
    line = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text)
    for mark, written in _MARKUP.items():
        line = line.replace(mark, written)
    return line


def solver_label(solver: Mapping[str, Any]) -> str:
    """The solver's name in folders and tables: its `name`, or else the lower-case name of its class."""
    return str(solver.get("name", str(solver.get("_target_", "solver")).rpartition(".")[2].lower()))


def method_label(container: Mapping[str, Any]) -> str:
    """What trained the policy: the label of the solver, or of the method for pairs; with `-conditioned` if it is."""
    is_conditioned = "conditioning" in recorded(container)
    of_pairs = container.get("stage", {}).get("name") == "dpo"
    label = str(container["dpo"]["method"]) if of_pairs else solver_label(container["solver"])
    return label + ("-conditioned" if is_conditioned else "")


def recorded(container: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as a run's folder keeps it, from plain nested values.

    Left out: the node `conditioning` if the policy is not conditioned, the sections of other stages, and the keys of
    the stage's yaml that say how the stage is run. So runs from before these settings keep the same configuration.
    """
    is_conditioned = container.get("conditioning", {}).get("name", "none") != "none"
    name = container.get("stage", {}).get("name")
    left_out = {key for key in _OF_ONE_STAGE if key != name} | (set() if is_conditioned else {"conditioning"})
    nodes = {key: value for key, value in container.items() if key not in left_out}
    stage = {key: value for key, value in container.get("stage", {}).items() if key not in _OF_STAGES}
    return {**nodes, "stage": stage} if "stage" in nodes else nodes


def basename(*paths: str | None) -> str:
    """The last part of the last path that is not None; `hf` if all are None."""
    present = [path for path in paths if path is not None]
    return present[-1].rstrip("/").rpartition("/")[2] if present else "hf"


def shown(text: Any) -> str:
    """The text with unprintable characters, line breaks included, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shortened(text: str, longest: int) -> str:
    """The text of at most `longest` characters, with a question mark for each unprintable one."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"


def digest(values: Any, length: int = 8) -> str:
    """A short hash of plain nested values, the same in every process."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:length]


def identity(container: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration without the settings that do not change what the run computes."""
    return {key: value for key, value in container.items() if key not in VOLATILE}


def rewards_of(kind: str) -> str:
    """The name of a kind of rewards in titles: "gold rewards" for gold, "rewards" for proxy."""
    return "gold rewards" if kind == "gold" else "rewards"
