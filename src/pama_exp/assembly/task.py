"""What a run trains on, behind one protocol: the generated world with its gold programs, or a table of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pama_exp.comparison.reference import NoFront, TrueFront
from pama_exp.config.instantiate import build
from pama_exp.config.schema import Config, DataConfig
from pama_exp.data import tables
from pama_exp.data.byte_tokens import byte_tokenizer
from pama_exp.data.pairs import Pair
from pama_exp.data.text import Reading, TextData
from pama_exp.policy.loading import load_tokenizer
from pama_exp.rewards.gold import GoldScorer
from pama_exp.rewards.scorer import Scorer
from pama_exp.supervised.artifacts import private_folder
from pama_exp.supervised.start_model import BYTES, StartModel, base_folder, tokenizer_for_text
from pama_exp.supervised.testbed import Testbed, random_weights
from pama_exp.world import FactWorld


class Task(Protocol):
    """Prompts by split, the model that a run starts from, and what is known of the rewards."""

    @property
    def start(self) -> StartModel:
        """The model that the run starts from."""
        ...

    @property
    def has_rows(self) -> bool:
        """Whether there are demonstrations and pairs to learn from besides prompts."""
        ...

    @property
    def programs(self) -> Sequence[str]:
        """Names of the gold programs that objectives may use; none for text."""
        ...

    def texts(self, split: str) -> list[str]:
        """The prompts of train, validation or test, as the policy reads them."""
        ...

    def plain_texts(self, split: str) -> list[str]:
        """The same prompts as scorers and people read them: without a chat template."""
        ...

    def columns(self, split: str) -> dict[str, list[Any]]:
        """What else the data knows of each prompt, handed on to scorers."""
        ...

    def longest(self) -> list[str]:
        """Prompts among which the longest is."""
        ...

    def mean_length(self) -> float | None:
        """Tokens of a prompt, on average; None where it is not known without counting."""
        ...

    def start_policy(self) -> Path:
        """The folder of the policy that alignment starts from; trained first if it has to be."""
        ...

    def gold_scorer(self, program: str) -> Scorer:
        """The gold program as a scorer; called for names in `programs` alone."""
        ...

    def reward_model(self, program: str) -> Path:
        """The folder of the reward model of a gold program; trained first if the cache does not hold it."""
        ...

    def pairs(self, program: str, split: str, count: int, seed: int, label_noise: float) -> list[Pair]:
        """Preference pairs to learn from (train) or to be measured on: a gold program's, or a table's own."""
        ...

    def front(self, programs: Mapping[str, str], split: str) -> TrueFront | NoFront:
        """The true front of {objective: gold program} on a split; an empty mapping has none."""
        ...


class FactWorldTask:
    """The embedded testbed."""

    has_rows = False

    def __init__(self, testbed: Testbed) -> None:
        self.testbed, self.world, self.start = testbed, testbed.world, testbed.start

    @property
    def programs(self) -> Sequence[str]:
        """All gold programs of the world."""
        return self.world.objectives

    def texts(self, split: str) -> list[str]:
        """The world's questions."""
        return [prompt.text for prompt in self.world.prompts(split)]

    def plain_texts(self, split: str) -> list[str]:
        """The world's questions, which have no template."""
        return self.texts(split)

    def columns(self, split: str) -> dict[str, list[Any]]:
        """Nothing: the question itself is all that a scorer needs."""
        return {}

    def longest(self) -> list[str]:
        """The training prompts, which hold every form of question."""
        return self.texts("train")

    def mean_length(self) -> float | None:
        """Not known; they are all short."""
        return None

    def start_policy(self) -> Path:
        """The SFT policy's folder."""
        return self.testbed.policy()

    def gold_scorer(self, program: str) -> Scorer:
        """The exact program."""
        return GoldScorer(self.world, program)

    def reward_model(self, program: str) -> Path:
        """The learned reward model's folder."""
        return self.testbed.reward_model(program)

    def pairs(self, program: str, split: str, count: int, seed: int, label_noise: float) -> list[Pair]:
        """Pairs by the gold program, as its reward model learns them; held-out ones are others, without noise."""
        is_learned = split == "train"
        drawn = self.world.preference_pairs(
            program, count, seed if is_learned else -1 - seed, label_noise if is_learned else 0.0
        )
        return [Pair(prompt, prompt, chosen, rejected) for prompt, chosen, rejected in drawn]

    def front(self, programs: Mapping[str, str], split: str) -> TrueFront | NoFront:
        """The front that the world enumerates."""
        return TrueFront(self.world, tuple(programs.values()), split, tuple(programs)) if programs else NoFront()


@dataclass(frozen=True)
class TextTask:
    """Real text: no gold programs, no known front.

    Attributes:
        start: the model that the run starts from.
        data: prompts, demonstrations and preference pairs.
        cache: where random weights are kept.
        seed: of random weights.
    """

    start: StartModel
    data: TextData
    cache: Path
    seed: int
    has_rows = True
    programs: ClassVar[Sequence[str]] = ()

    def texts(self, split: str) -> list[str]:
        """Prompts in the order of their hashes."""
        return self.data.texts(split)

    def plain_texts(self, split: str) -> list[str]:
        """Prompts without the policy's chat template."""
        return self.data.said(split)

    def columns(self, split: str) -> dict[str, list[Any]]:
        """The table's other columns."""
        return self.data.columns(split)

    def longest(self) -> list[str]:
        """The prompt of the most tokens."""
        return [self.data.longest()]

    def mean_length(self) -> float | None:
        """As the tokenizer counts."""
        return self.data.mean_length()

    def start_policy(self) -> Path:
        """The pretrained folder, or one of random weights: off the testbed there is no SFT before `stage=sft`."""
        return random_weights(self.start, self.cache, self.seed) if self.start.folder is None else self.start.folder

    def gold_scorer(self, program: str) -> Scorer:
        """Never called: there are no programs."""
        raise KeyError(program)

    def reward_model(self, program: str) -> Path:
        """Never called: there are no programs."""
        raise KeyError(program)

    def pairs(self, program: str, split: str, count: int, seed: int, label_noise: float) -> list[Pair]:
        """The table's, whatever they express; no label is swapped."""
        return self.data.policy_pairs(split)[:count]

    def front(self, programs: Mapping[str, str], split: str) -> TrueFront | NoFront:
        """None is known."""
        return NoFront()


def build_task(config: Config) -> FactWorldTask | TextTask:
    """FactWorld where `data.domain` says so, else the text that the data configuration describes.

    Raises:
        UserError: for what is wrong with the data, or text without a model that brings a tokenizer.
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
    return TextTask(start, _read_text(config, start), cache, config.sft.seed)


def build_world(data: DataConfig) -> FactWorld:
    """The testbed that the data configuration describes.

    Raises:
        UserError: for a setting that it does not have, or a value outside its range.
    """
    world: FactWorld = build({**data.world, "_target_": "pama_exp.world.FactWorld"}, "data.world")
    return world


def _start_folder(config: Config) -> Path | None:
    if config.stage.get("scores_run", False) and config.evaluate.run is not None:
        return Path(config.evaluate.run) / "policy"
    return base_folder(config.model)


def _read_text(config: Config, start: StartModel) -> TextData:
    d = config.data
    patterns = [pattern.replace("{subset}", subset) for pattern in d.files for subset in d.subsets or [""]]
    found = tables.find(d.path, d.id, d.revision, list(dict.fromkeys(patterns)))
    files = tuple((str(file), tables.digest(file)) for file in found)
    source = str(start.folder or config.model.tokenizer)
    cache = private_folder(private_folder(Path(config.cache_dir)) / "datasets")
    return _cached_text(files, str(cache), source, _reading(config))


@lru_cache(maxsize=1)
def _cached_text(files: tuple[tuple[str, str], ...], cache: str, tokenizer: str, reading: Reading) -> TextData:
    """Read once for all jobs of a sweep that read the same."""
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
        prefix_tokens=(d.prefix_tokens[0], d.prefix_tokens[1]),
        min_characters=d.min_characters,
        min_prompt_tokens=d.min_prompt_tokens,
        max_prompt_tokens=d.max_prompt_tokens,
        splits=tuple(d.splits.items()),
        seed=d.seed,
        chat_template=config.model.chat_template == "tokenizer",
    )
