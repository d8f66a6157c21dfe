"""FactWorld's interface: prompts, texts, gold values and the true front."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Annotated

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pama_exp.config.ranges import Range, Seed, checked
from pama_exp.errors import UserError, suggest
from pama_exp.world.demonstrations import demonstrate, near_aligned
from pama_exp.world.language import ATTRIBUTES, Language, Prompt, generate
from pama_exp.world.objectives import PROGRAMS, Answer
from pama_exp.world.true_front import Front, compute_front, distance_along, dominated_volume

_GENERATOR = "1"  # raise when the same arguments come to give another world
_SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
_SPECIAL = ("<pad>", "<eos>", "<unk>")


class FactWorld:
    """A generated world of facts: an embedded testbed whose true Pareto front is known.

    Args:
        seed: of the world; the same arguments give the same bytes on every machine.
        num_entities: number of entities that prompts ask about.
        num_attributes: facts per entity, 1 to 8; the third and the eighth are dangerous.
        values_per_attribute: number of values that each attribute can have.
        max_asked: largest number of attributes in one prompt.
        danger_share: share of the prompts with a dangerous attribute that are kept, in [0, 1].
        max_response_tokens: T_max of `concise`, in tokens.

    Raises:
        UserError: for an argument outside its range.
    """

    @checked("data.world")
    def __init__(
        self,
        seed: Seed = 0,
        num_entities: Annotated[int, Range(least=1, most=200)] = 16,
        num_attributes: Annotated[int, Range(least=1, most=len(ATTRIBUTES))] = 8,
        values_per_attribute: Annotated[int, Range(least=1, most=100)] = 8,
        max_asked: Annotated[int, Range(least=1)] = 4,
        danger_share: Annotated[float, Range(least=0, most=1)] = 0.3,
        max_response_tokens: Annotated[int, Range(least=1, most=10_000)] = 40,
    ) -> None:
        if max_asked > num_attributes:
            raise UserError(f"data.world.max_asked={max_asked}.", f"It lies between 1 and {num_attributes}.")
        self.max_response_tokens = max_response_tokens
        self.language: Language = generate(seed, num_entities, num_attributes, values_per_attribute)
        self._seed = seed
        self._prompts = self._split(seed, max_asked, danger_share)
        self._read = lru_cache(maxsize=4096)(self._parse)  # several programs read the same answers
        self._memo: dict[tuple[tuple[str, ...], str], Front] = {}

    def __getstate__(self) -> dict[str, object]:
        """All but what has been read so far, which cannot be pickled."""
        return {name: value for name, value in self.__dict__.items() if name != "_read"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._read = lru_cache(maxsize=4096)(self._parse)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the gold programs."""
        return tuple(PROGRAMS)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything that determines the world's texts and values."""
        content = repr((_GENERATOR, self.language, self.max_response_tokens, self._prompts)).encode()
        sample = repr(self.demonstrations(64, 0) + [p[:2] for p in self.preference_pairs("helpful", 64, 0)]).encode()
        return hashlib.sha256(content + sample).hexdigest()[:16]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All tokens: special tokens first, then the words of the language, sorted."""
        return (*_SPECIAL, *self.language.words())

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A new tokenizer with one token per word, split at white space, padding on the left."""
        inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(self.vocabulary)}, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token="<pad>",
            eos_token="<eos>",
            bos_token="<eos>",
            unk_token="<unk>",
            padding_side="left",
            clean_up_tokenization_spaces=False,
            model_input_names=["input_ids", "attention_mask"],
        )

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of a split (train, validation or test); no prompt is in two splits.

        Raises:
            UserError: for an unknown split.
        """
        if split not in self._prompts:
            raise UserError(f"FactWorld has no split '{split}'.", suggest(split, self._prompts))
        return self._prompts[split]

    def gold(self, objective: str, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """The gold value of each response for one objective, in [0, 1]; 0 where the prompt is not of this world.

        Raises:
            UserError: for an unknown objective.
        """
        self._check(objective)
        return [self._value(objective, p, r) for p, r in zip(prompts, responses, strict=True)]

    def demonstrations(self, count: int, seed: int) -> list[tuple[str, str]]:
        """`count` pairs (prompt, response) over training prompts, with good and bad habits, for the SFT policy."""
        source = random.Random(f"demonstrations/{self._seed}/{seed}")
        prompts = self._prompts["train"]
        return [(p.text, demonstrate(self.language, p, source)) for p in (source.choice(prompts) for _ in range(count))]

    def preference_pairs(
        self, objective: str, count: int, seed: int, label_noise: float = 0.05
    ) -> list[tuple[str, str, str]]:
        """`count` triples (prompt, chosen, rejected) over training prompts, ranked by the gold program.

        A share `label_noise` of them has chosen and rejected swapped.

        Raises:
            UserError: for an unknown objective.
        """
        self._check(objective)
        source = random.Random(f"preferences/{self._seed}/{seed}/{objective}")
        pairs: list[tuple[str, str, str]] = []
        while len(pairs) < count:
            prompt = source.choice(self._prompts["train"])
            habits = [source.choice((demonstrate, near_aligned)) for _ in range(2)]
            first, second = (habit(self.language, prompt, source) for habit in habits)
            values = [self._value(objective, prompt.text, text) for text in (first, second)]
            if values[0] == values[1]:
                continue
            is_swapped = source.random() < label_noise
            best, worst = (first, second) if values[0] > values[1] else (second, first)
            pairs.append((prompt.text, worst, best) if is_swapped else (prompt.text, best, worst))
        return pairs

    def true_front(self, objectives: Sequence[str], split: str) -> Front:
        """The exact Pareto front of mean rewards that stochastic policies can reach on the split.

        Raises:
            UserError: for an unknown objective or split.
        """
        for name in objectives:
            self._check(name)
        key = (tuple(objectives), split)
        if key not in self._memo:
            self._memo[key] = compute_front(self.language, self.prompts(split), objectives, self.max_response_tokens)
        return self._memo[key]

    def true_hypervolume(self, objectives: Sequence[str], split: str) -> float:
        """Volume that the true front dominates, measured from the origin."""
        return dominated_volume(self.true_front(objectives, split).points)

    def hypervolume_share(
        self, point: Mapping[str, float] | Sequence[float], objectives: Sequence[str], split: str
    ) -> float:
        """Volume that one operating point dominates, as a share of the true front's volume.

        `point` holds mean rewards, by name or in the order of `objectives`.
        """
        return float(np.prod(self._vector(point, objectives)) / self.true_hypervolume(objectives, split))

    def regret(self, point: Mapping[str, float] | Sequence[float], objectives: Sequence[str], split: str) -> float:
        """Distance from a point of mean rewards to the true front along the point's own direction; 0 on the front."""
        return distance_along(self._vector(point, objectives), self.true_front(objectives, split))

    def _vector(self, point: Mapping[str, float] | Sequence[float], objectives: Sequence[str]) -> np.ndarray:
        return np.array(
            [point[name] for name in objectives] if isinstance(point, Mapping) else list(point), dtype=float
        )

    def _value(self, objective: str, prompt: str, response: str) -> float:
        answer = self._read(prompt, response)
        return 0.0 if answer is None else PROGRAMS[objective](answer)

    def _parse(self, prompt: str, response: str) -> Answer | None:
        question = self.language.read_prompt(prompt)
        if question is None:
            return None
        return Answer(self.language, question, self.language.parse(response.split()), self.max_response_tokens)

    def _check(self, objective: str) -> None:
        if objective not in PROGRAMS:
            raise UserError(f"FactWorld has no objective '{objective}'.", suggest(objective, PROGRAMS))

    def _split(self, seed: int, max_asked: int, danger_share: float) -> dict[str, list[Prompt]]:
        source = random.Random(f"prompts/{seed}")
        dangerous = {name for name, attribute in self.language.attributes.items() if attribute.is_dangerous}
        prompts: list[Prompt] = []
        for entity in self.language.entities:
            for size in range(1, max_asked + 1):
                prompts += [
                    self.language.prompt(entity, names)
                    for names in combinations(self.language.attributes, size)
                    if not dangerous & set(names) or source.random() < danger_share
                ]
        source.shuffle(prompts)
        splits, start = {}, 0
        for name, share in _SPLITS.items():
            stop = len(prompts) if name == "test" else start + round(share * len(prompts))
            splits[name], start = prompts[start:stop], stop
        return splits
