"""The task of a run: FactWorld with its gold programs, or a table of text, behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from pama_exp.comparison.reference import NoFront, TrueFront
from pama_exp.config.instantiate import build
from pama_exp.config.ranges import shown
from pama_exp.config.schema import Config, DataConfig
from pama_exp.data import tables
from pama_exp.data.byte_tokens import byte_tokenizer
from pama_exp.data.pairs import Pair
from pama_exp.data.text import Reading, TextData
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_tokenizer
from pama_exp.rewards.gold import GoldScorer
from pama_exp.rewards.scorer import Scorer
from pama_exp.storage.files import sha256
from pama_exp.supervised.artifacts import private_folder
from pama_exp.supervised.start_model import BYTES, StartModel, base_folder, tokenizer_for_text
from pama_exp.supervised.testbed import Testbed, random_weights
from pama_exp.world import FactWorld


class Task(Protocol):
    """A run's prompts by split (train, validation, test), its start model, its gold programs and their true front."""

    @property
    def start(self) -> StartModel:
        """The model that the run starts from."""
        ...

    @property
    def has_rows(self) -> bool:
        """Whether the data is a table that may hold demonstrations and preference pairs."""
        ...

    @property
    def programs(self) -> Sequence[str]:
        """Names of the gold programs that objectives may use; none for text."""
        ...

    @property
    def files(self) -> Mapping[str, str]:
        """{path: SHA-256} of the data files that are read."""
        ...

    def texts(self, split: str) -> list[str]:
        """The prompts of a split, as the policy reads them."""
        ...

    def plain_texts(self, split: str) -> list[str]:
        """The same prompts without chat template, as scorers and people read them."""
        ...

    def columns(self, split: str) -> dict[str, list[Any]]:
        """The data's other columns for the prompts of a split, in the same order. Scorers get them."""
        ...

    def longest(self) -> list[str]:
        """Prompts that include the longest one."""
        ...

    def mean_length(self) -> float | None:
        """Mean number of tokens of a prompt; None if it has not been counted."""
        ...

    def start_policy(self) -> Path:
        """The folder of the policy that alignment starts from. It is trained first if the cache lacks it."""
        ...

    def gold_scorer(self, program: str) -> Scorer:
        """A gold program, one of `programs`, as a scorer."""
        ...

    def reward_models(self, programs: Sequence[str]) -> list[Path]:
        """The folders of the reward models of gold programs. Those that the cache lacks are trained first."""
        ...

    def pairs(self, program: str, split: str, count: int, seed: int, label_noise: float) -> list[Pair]:
        """Preference pairs to learn from (train) or to be measured on: a gold program's, or a table's own."""
        ...

    def front(self, programs: Mapping[str, str], split: str) -> TrueFront | NoFront:
        """The true front of {objective: gold program} on a split; `NoFront` if none is known, or of no objective."""
        ...


class FactWorldTask:
    """The embedded testbed."""

    has_rows = False
    files: Mapping[str, str] = MappingProxyType({})  # the world is in the configuration

    def __init__(self, testbed: Testbed) -> None:
        self.testbed, self.world, self.start = testbed, testbed.world, testbed.start

    @property
    def programs(self) -> Sequence[str]:
        """The names of all gold programs of the world."""
        return self.world.objectives

    def texts(self, split: str) -> list[str]:
        """The questions of the world's split."""
        return [prompt.text for prompt in self.world.prompts(split)]

    def plain_texts(self, split: str) -> list[str]:
        """The questions of the world's split, which have no chat template."""
        return self.texts(split)

    def columns(self, split: str) -> dict[str, list[Any]]:
        """Empty: scorers of the world need only the question."""
        return {}

    def longest(self) -> list[str]:
        """All training prompts: they hold every form of question."""
        return self.texts("train")

    def mean_length(self) -> float | None:
        """None: the prompts are not counted; all are short."""
        return None

    def start_policy(self) -> Path:
        """The folder of the SFT policy, which is trained first if the cache lacks it."""
        return self.testbed.policy()

    def gold_scorer(self, program: str) -> Scorer:
        """A gold program of the world as a scorer."""
        return GoldScorer(self.world, program)

    def reward_models(self, programs: Sequence[str]) -> list[Path]:
        """The folders of reward models learned from pairs of the programs; those that the cache lacks are trained."""
        return self.testbed.reward_models(programs)

    def pairs(self, program: str, split: str, count: int, seed: int, label_noise: float) -> list[Pair]:
        """Pairs by the gold program, as its reward model learns them; held-out ones are others, without noise."""
        is_learned = split == "train"
        drawn = self.world.preference_pairs(
            program, count, seed if is_learned else -1 - seed, label_noise if is_learned else 0.0
        )
        return [Pair(prompt, prompt, chosen, rejected) for prompt, chosen, rejected in drawn]

    def front(self, programs: Mapping[str, str], split: str) -> TrueFront | NoFront:
        """The true front that the world enumerates; `NoFront` for an empty mapping."""
        return TrueFront(self.world, tuple(programs.values()), split, tuple(programs)) if programs else NoFront()


@dataclass(frozen=True)
class TextTask:
    """A table of text, without gold programs and without a known front.

    Attributes:
        start: the model that the run starts from.
        data: prompts, demonstrations and preference pairs.
        cache: the folder for random weights.
        seed: of random weights.
        files: {path: SHA-256} of the data files.
    """

    start: StartModel
    data: TextData
    cache: Path
    seed: int
    files: Mapping[str, str]
    has_rows = True
    programs: ClassVar[Sequence[str]] = ()

    def texts(self, split: str) -> list[str]:
        """The prompts of a split, in the order of their hashes."""
        return self.data.texts(split)

    def plain_texts(self, split: str) -> list[str]:
        """The prompts of a split without chat template, in the same order."""
        return self.data.plain_texts(split)

    def columns(self, split: str) -> dict[str, list[Any]]:
        """The table's other columns for the prompts of a split, in the same order."""
        return self.data.columns(split)

    def longest(self) -> list[str]:
        """The prompt with the most tokens."""
        return [self.data.longest()]

    def mean_length(self) -> float | None:
        """Mean number of tokens of a prompt."""
        return self.data.mean_length()

    def start_policy(self) -> Path:
        """The folder of the pretrained model, or of random weights. There is no SFT here; see `stage=sft`."""
        return random_weights(self.start, self.cache, self.seed) if self.start.folder is None else self.start.folder

    def gold_scorer(self, program: str) -> Scorer:
        """Raises KeyError: text has no gold programs."""
        raise KeyError(program)

    def reward_models(self, programs: Sequence[str]) -> list[Path]:
        """No folder for no program. Raises KeyError for any: text has no gold programs."""
        if programs:
            raise KeyError(programs[0])
        return []

    def pairs(self, program: str, split: str, count: int, seed: int, label_noise: float) -> list[Pair]:
        """The table's, whatever they express; no label is swapped."""
        return self.data.policy_pairs(split)[:count]

    def front(self, programs: Mapping[str, str], split: str) -> TrueFront | NoFront:
        """`NoFront`: no front is known for text."""
        return NoFront()


def build_task(config: Config) -> FactWorldTask | TextTask:
    """The task that the data settings describe: FactWorld if `data.domain` is factworld, else a table of text.

    Raises:
        UserError: for data that cannot be read, or a model without a tokenizer for text.
    """
    cache = Path(config.cache_dir)
    if config.data.domain == "factworld":
        world = build_world(config.data)
        folder = _start_folder(config)
        start = StartModel(config.model, config.adapter, folder, world.tokenizer() if folder is None else None)
        return FactWorldTask(Testbed(world, start, config.sft, config.reward_model, cache))
    folder = _start_folder(config)
    tokenizer = tokenizer_for_text(config.model) if folder is None else None
    start = StartModel(config.model, config.adapter, folder, tokenizer)
    files = _files(config)
    return TextTask(start, _read_text(config, start, files), cache, config.sft.seed, files)


def build_world(data: DataConfig) -> FactWorld:
    """FactWorld with the settings of `data.world`.

    Raises:
        UserError: for an unknown setting, or a value outside its range.
    """
    world: FactWorld = build({**data.world, "_target_": "pama_exp.world.FactWorld"}, "data.world")
    return world


def _start_folder(config: Config) -> Path | None:
    if config.stage.get("scores_run", False) and config.evaluate.run is not None:
        return Path(config.evaluate.run) / "policy"
    return base_folder(config.model)


def _files(config: Config) -> dict[str, str]:
    d = config.data
    if d.subsets and not any("{subset}" in pattern for pattern in d.files):
        raise UserError(
            f"data.subsets={shown(d.subsets)} has no effect: no pattern of data.files={shown(d.files)} names "
            "{subset}.",
            "Write 'data.files=[\"{subset}/*.parquet\"]', or set data.subsets=[].",
        )
    patterns = [pattern.replace("{subset}", subset) for pattern in d.files for subset in d.subsets or [""]]
    paths = tables.find(d.path, d.id, d.revision, list(dict.fromkeys(patterns)))
    return {str(file): sha256(file) for file in paths}


def _read_text(config: Config, start: StartModel, files: Mapping[str, str]) -> TextData:
    source = str(start.folder or config.model.tokenizer)
    cache = private_folder(private_folder(Path(config.cache_dir)) / "datasets")
    return _cached_text(tuple(files.items()), str(cache), source, _reading(config))


@lru_cache(maxsize=1)
def _cached_text(files: tuple[tuple[str, str], ...], cache: str, tokenizer: str, reading: Reading) -> TextData:
    """The text data, cached for further jobs of this process that read the same."""
    table = tables.read([Path(file) for file, _ in files], Path(cache))
    return TextData(table, byte_tokenizer() if tokenizer == BYTES else load_tokenizer(tokenizer), reading)


def _reading(config: Config) -> Reading:
    d = config.data
    return Reading(
        format=d.format,
        column=d.column,
        completion=d.completion,
        chosen=d.chosen,
        rejected=d.rejected,
        choice=d.choice,
        choice_kind=d.choice_kind,
        prefix_tokens=(d.prefix_tokens[0], d.prefix_tokens[1]),
        min_characters=d.min_characters,
        min_prompt_tokens=d.min_prompt_tokens,
        max_prompt_tokens=d.max_prompt_tokens,
        splits=tuple(d.splits.items()),
        seed=d.seed,
        chat_template=config.model.chat_template == "tokenizer",
    )
