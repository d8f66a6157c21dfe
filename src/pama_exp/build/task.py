"""What a run trains on, behind one face: the generated world with its gold programs, or a table of text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from pama_exp.config.instantiate import build
from pama_exp.config.schema import Config
from pama_exp.data import tables
from pama_exp.data.text import Reading, TextData
from pama_exp.errors import UserError
from pama_exp.supervised.artifacts import private_folder
from pama_exp.supervised.start_model import read_tokenizer, tokenizer_source
from pama_exp.world import FactWorld


class Task(Protocol):
    """Prompts by split, and the world behind them where there is one."""

    world: FactWorld | None

    @property
    def programs(self) -> Sequence[str]:
        """The gold programs that objectives may name."""
        ...

    def texts(self, split: str) -> list[str]:
        """The prompts of train, validation or test, as the policy reads them."""
        ...

    def said(self, split: str) -> list[str]:
        """The same as scorers and people read them."""
        ...

    def columns(self, split: str) -> dict[str, list[Any]]:
        """What else is known of each prompt, handed on to scorers."""
        ...

    def longest(self) -> list[str]:
        """Prompts among which the longest is."""
        ...


class FactWorldTask:
    """The embedded testbed."""

    def __init__(self, world: FactWorld) -> None:
        self.world = world

    @property
    def programs(self) -> Sequence[str]:
        """All of the world's."""
        return self.world.objectives

    def texts(self, split: str) -> list[str]:
        """The world's questions."""
        return [prompt.text for prompt in self.world.prompts(split)]

    def said(self, split: str) -> list[str]:
        """The same."""
        return self.texts(split)

    def columns(self, split: str) -> dict[str, list[Any]]:
        """A question says everything itself."""
        return {}

    def longest(self) -> list[str]:
        """The training prompts, which hold every form of question."""
        return self.texts("train")


class TextTask:
    """Real text: no world, no gold programs, no known front."""

    world = None
    programs: Sequence[str] = ()

    def __init__(self, data: TextData) -> None:
        self.data = data

    def texts(self, split: str) -> list[str]:
        """Prompts in the order of their hashes."""
        return self.data.texts(split)

    def said(self, split: str) -> list[str]:
        """Without the policy's chat template."""
        return self.data.said(split)

    def columns(self, split: str) -> dict[str, list[Any]]:
        """The table's other columns."""
        return self.data.columns(split)

    def longest(self) -> list[str]:
        """The one of the most tokens."""
        return [self.data.longest()]


def make_task(config: Config) -> FactWorldTask | TextTask:
    """FactWorld where the domain is named so, else the text that the data configuration describes.

    Raises:
        UserError: for what is wrong with the data, or text without a model that brings a tokenizer.
    """
    if config.data.domain == "factworld":
        return FactWorldTask(make_world(config))
    source = _tokenizer_source(config)
    d = config.data
    patterns = [pattern.replace("{subset}", subset) for pattern in d.files for subset in d.subsets or [""]]
    found = tables.find(d.path, d.id, d.revision, list(dict.fromkeys(patterns)))
    files = tuple((str(file), file.stat().st_mtime_ns) for file in found)
    cache = private_folder(private_folder(Path(config.cache_dir)) / "datasets")
    return TextTask(_read(files, str(cache), source, _reading(config)))


def make_world(config: Config) -> FactWorld:
    """The testbed that the data configuration describes."""
    return build({**config.data.world, "_target_": "pama_exp.world.FactWorld"}, "data.world")


@lru_cache(maxsize=1)
def _read(files: tuple[tuple[str, int], ...], cache: str, tokenizer: str, reading: Reading) -> TextData:
    """Once in a process, for the check before work and for the work."""
    table = tables.read([Path(file) for file, _ in files], Path(cache))
    return TextData(table, read_tokenizer(tokenizer), reading)


def _tokenizer_source(config: Config) -> str:
    if config.stage.get("name") == "evaluate" and config.evaluate.run is not None:
        return str(Path(config.evaluate.run) / "policy")
    return tokenizer_source(config.model)


def _reading(config: Config) -> Reading:
    d = config.data
    if len(d.prefix_tokens) != 2:
        raise UserError(f"data.prefix_tokens={d.prefix_tokens}.", "Give the least and the most, at least 1.")
    return Reading(
        format=d.format,
        column=d.column,
        completion=d.completion,
        chosen=d.chosen,
        rejected=d.rejected,
        prefix_tokens=(d.prefix_tokens[0], d.prefix_tokens[1]),
        min_characters=d.min_characters,
        min_prompt_tokens=d.min_prompt_tokens,
        max_prompt_tokens=d.max_prompt_tokens,
        splits=tuple(d.splits.items()),
        seed=d.seed,
        chat_template=config.model.chat_template == "tokenizer",
    )
