"""Prompts, demonstrations and preference pairs of a table of text: formatted, filtered and split.

A prompt's split and its place there depend only on the prompt and the seed. More rows, or files in another order, move
no prompt to another split.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from pama_exp.config.schema import DataConfig
from pama_exp.config.validity import check_field
from pama_exp.data import chat
from pama_exp.data.choices import better_and_worse
from pama_exp.data.pairs import Pair
from pama_exp.data.tables import Table, column
from pama_exp.data.tokens import Marked, encode
from pama_exp.errors import UserError, suggest

_NOTHING: tuple[Any, ...] = (None, "", [])  # where a row has no response
Rows = list[tuple[str, int]]  # (prompt, row of the table)


@dataclass(frozen=True)
class Reading:
    """The settings of how the rows of a table are read. conf/data/ explains them.

    Raises:
        UserError: for an unknown format, bounds in the wrong order, or shares that do not sum to 1.
    """

    format: str = "prompt"
    column: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    choice: str | None = None  # a column that says which of the two is chosen; None: the first
    choice_kind: str = "index"  # 0 or 1; or sign: of a strength that is below 0 where the first is better
    prefix_tokens: tuple[int, int] = (2, 7)
    min_characters: int = 1
    min_prompt_tokens: int = 1
    max_prompt_tokens: int = 512
    splits: tuple[tuple[str, float], ...] = (("train", 0.9), ("validation", 0.05), ("test", 0.05))
    seed: int = 0
    chat_template: bool = True  # whether prompts are written in the tokenizer's chat template if it has one

    def __post_init__(self) -> None:
        for name, value in (
            ("format", self.format),
            ("choice_kind", self.choice_kind),
            ("prefix_tokens", self.prefix_tokens),
            ("splits", dict(self.splits)),
        ):
            check_field(DataConfig, name, value, "data.")
        if self.min_prompt_tokens > self.max_prompt_tokens:
            raise UserError(
                f"data.min_prompt_tokens={self.min_prompt_tokens}, data.max_prompt_tokens={self.max_prompt_tokens}.",
                "The least lies above the most: no prompt is between them.",
            )


class TextData:
    """The prompts of a table, by split, with its demonstrations and preference pairs.

    Args:
        table: {column: values}.
        tokenizer: the policy's; it counts tokens and has the chat template.
        reading: how rows become prompts.

    Raises:
        UserError: for a column that is missing or holds no text, or if a split is left without prompts.
    """

    def __init__(self, table: Table, tokenizer: PreTrainedTokenizerBase, reading: Reading) -> None:
        self.table, self.tokenizer, self.reading = table, tokenizer, reading
        self._plain: dict[str, str] = {}  # {prompt in a chat template: the prompt without it}
        pairs = list(_FORMATS[reading.format](self))
        self._completions = [completion for _, completion in pairs]
        self._rows = self._split(self._filtered([prompt for prompt, _ in pairs]))

    def texts(self, split: str) -> list[str]:
        """The prompts of a split, as the policy reads them, each once. No prompt is in two splits.

        Raises:
            UserError: for an unknown split.
        """
        return [prompt for prompt, _ in self._of(split)]

    def plain_texts(self, split: str) -> list[str]:
        """The prompts of a split without chat template, in the order of `texts`, as reward models and people read them.

        A single prompt is as in the table; a conversation is in Human and Assistant turns.
        """
        return [self._plain.get(prompt, prompt) for prompt in self.texts(split)]

    def columns(self, split: str) -> dict[str, list[Any]]:
        """The table's other columns, each in the order of `texts`."""
        rows = [row for _, row in self._of(split)]
        return {name: [values[i] for i in rows] for name, values in self.table.items() if name not in self._hidden}

    def mean_length(self) -> float:
        """Mean number of tokens of a prompt."""
        return sum(self._lengths.values()) / len(self._lengths)

    def longest(self) -> str:
        """The prompt with the most tokens."""
        return max((prompt for rows in self._rows.values() for prompt, _ in rows), key=self._lengths.__getitem__)

    def demonstrations(self, split: str) -> list[tuple[str, str]]:
        """(prompt, response) of each of the split's rows that has a response.

        Raises:
            UserError: if no row has one, or the column is missing.
        """
        if self.reading.format in ("prompt", "whole"):
            responses = column(self.table, self.reading.completion, "data.completion")
        else:
            responses = self._completions
        pairs = [
            (prompt, chat.response(responses[i], f"data.completion={self.reading.completion}"))
            for prompt, i in self._of(split, doubles=True)
            if responses[i] not in _NOTHING
        ]
        if not pairs:
            raise UserError(
                f"No row of the {split} split has a response to learn.", "Name its column: data.completion."
            )
        return pairs

    def preference_pairs(self, split: str) -> list[tuple[str, str, str]]:
        """(prompt, chosen, rejected) of the split's rows, without chat template. Pairs of equal responses are left out.

        Raises:
            UserError: if there is no pair, or a column is missing.
        """
        is_whole, rows = self.reading.format == "whole", self._better_and_worse()
        pairs = []
        for prompt, i in self._of(split, doubles=True):
            better, worse = rows[i] or ("", "")
            if better not in _NOTHING and worse not in _NOTHING and better != worse:
                text = "" if is_whole else self._plain.get(prompt, prompt)
                pairs.append((text, self._response(better), self._response(worse)))
        if not pairs:
            raise UserError(
                f"No row of the {split} split holds two responses that differ.",
                "Name their columns: data.chosen and data.rejected.",
            )
        return pairs

    def policy_pairs(self, split: str) -> list[Pair]:
        """The split's pairs as the policy reads and writes them; rows whose pair is no pair are among them.

        Rows in which neither response is better are left out.

        Raises:
            UserError: if a column is not there, or the format has no prompt beside the responses.
        """
        rows = self._better_and_worse()
        if self.reading.format == "whole":
            raise UserError("data.format=whole: these pairs have no prompt to answer.", "Set data.format=prompt.")
        others = {name: values for name, values in self.table.items() if name not in self._hidden}
        pairs = []
        for prompt, i in self._of(split, doubles=True):
            if (pair := rows[i]) is not None:
                better, worse = (self._answer(response, prompt) for response in pair)
                columns = {name: values[i] for name, values in others.items()}
                plain = self._plain.get(prompt, prompt)
                pairs.append(Pair(prompt, plain, better, worse, f"row {i + 1} of the table", columns))
        return pairs

    def _better_and_worse(self) -> list[tuple[Any, Any] | None]:
        r = self.reading
        first, second = column(self.table, r.chosen, "data.chosen"), column(self.table, r.rejected, "data.rejected")
        choices = None if r.choice is None else column(self.table, r.choice, "data.choice")
        return better_and_worse(first, second, choices, r.choice_kind, f"data.choice={r.choice}")

    def read_prompts(self) -> Iterator[tuple[str | None, str | None]]:
        """(prompt, None) of each row: a text, in a chat template as a user's turn; or a conversation."""
        for value in column(self.table, self.reading.column, "data.column"):
            yield (self._render(value) if isinstance(value, list) else self._user_turn(self._text(value))), None

    def read_whole(self) -> Iterator[tuple[str | None, str | None]]:
        """(text, None) of each row: the text without a template, or a conversation."""
        for value in column(self.table, self.reading.column, "data.column"):
            yield (self._render(value) if isinstance(value, list) else self._text(value)), None

    def read_messages(self) -> Iterator[tuple[str | None, str | None]]:
        """(prompt, response) of each row, a conversation: the response is the assistant's last turn."""
        for value in column(self.table, self.reading.column, "data.column"):
            if value is not None and not isinstance(value, list):
                raise self._wrong_kind(value, "a list of messages")
            if value and not all(isinstance(message, Mapping) for message in value):
                raise self._wrong_kind(value, "a list of messages")
            before, answer = chat.split_conversation(value or [])
            prompt = self._render(before) if before else None
            # Without a template, a space stands between "Assistant:" and the answer.
            yield prompt, answer if not answer or isinstance(prompt, Marked) else f" {answer}"

    def read_transcripts(self) -> Iterator[tuple[str | None, str | None]]:
        """(prompt, response) of each row, a dialogue in one text as in HH-RLHF (Bai et al. 2022)."""
        for value in column(self.table, self.reading.column, "data.column"):
            yield chat.split_transcript(self._text(value) or "")

    def read_prefixes(self) -> Iterator[tuple[str | None, str | None]]:
        """(prompt, response) of each row: the first tokens of a text, in a number drawn for each, and the rest."""
        low, high = self.reading.prefix_tokens
        texts = [self._text(value) for value in column(self.table, self.reading.column, "data.column")]
        encoded = self.tokenizer(
            [text or "" for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        for text, spans in zip(texts, encoded["offset_mapping"], strict=True):
            if text is None or len(text) < self.reading.min_characters or len(spans) <= high:
                yield None, None
                continue
            count = random.Random(f"prefix/{self.reading.seed}/{text}").randint(low, high)
            end = spans[count - 1][1]
            yield text[:end], text[end:]

    def _render(self, messages: Sequence[Any], plain: str | None = None) -> str:
        if not all(isinstance(message, Mapping) for message in messages):
            raise self._wrong_kind(messages, "text or a list of messages")
        text = chat.render(messages, self.tokenizer, self.reading.chat_template)
        if self._has_template:
            self._plain[text] = chat.render(messages, self.tokenizer, by_template=False) if plain is None else plain
        return text

    def _user_turn(self, text: str | None) -> str | None:
        if not (self._has_template and text and text.strip()):
            return text
        return self._render([{"role": "user", "content": text}], plain=text)

    @property
    def _hidden(self) -> set[str]:
        """The column that scorers get as the prompt."""
        return {self.reading.column} if self.reading.format in ("prompt", "messages", "whole") else set()

    @property
    def _has_template(self) -> bool:
        return self.reading.chat_template and self.tokenizer.chat_template is not None

    def _filtered(self, prompts: Sequence[str | None]) -> Rows:
        r = self.reading
        present = [(p, i) for i, p in enumerate(prompts) if p is not None and p.strip() and len(p) >= self._least]
        counts = [len(ids) for ids in encode(self.tokenizer, [p for p, _ in present])]
        fitting = [
            (row, count)
            for row, count in zip(present, counts, strict=True)
            if r.min_prompt_tokens <= count <= r.max_prompt_tokens
        ]
        if not fitting:
            lengths = f"{min(counts)} to {max(counts)} tokens" if counts else "no prompts"
            raise UserError(
                f"Of {len(prompts)} rows none is left after filtering (the data has {lengths}).",
                f"data.min_prompt_tokens={r.min_prompt_tokens}, data.max_prompt_tokens={r.max_prompt_tokens} and "
                f"data.min_characters={r.min_characters} decide.",
            )
        self._lengths = {prompt: count for (prompt, _), count in fitting}
        return [row for row, _ in fitting]

    @property
    def _least(self) -> int:
        """The least number of characters of a prompt; for prefixes, `read_prefixes` has checked the whole text."""
        return 1 if self.reading.format == "prefix" else self.reading.min_characters

    def _split(self, rows: Rows) -> dict[str, Rows]:
        """Each split's rows in the order of their prompts' hashes."""
        places = {prompt: _place(prompt, self.reading.seed) for prompt, _ in rows}
        ordered = sorted(rows, key=lambda row: (places[row[0]], row[1]))
        splits: dict[str, Rows] = {}
        edges = list(itertools.accumulate((share for _, share in self.reading.splits), initial=0.0))
        edges[-1] = 1.0  # the sum may be rounded
        for (name, share), low, high in zip(self.reading.splits, edges, edges[1:], strict=False):
            splits[name] = [row for row in ordered if low <= places[row[0]][0] < high]
            if not splits[name]:
                raise UserError(
                    f"Of {len(places)} prompts none falls into the {name} split.",
                    f"Give more data, or data.splits.{name} a larger share than {share:g}.",
                )
        return splits

    def _of(self, split: str, doubles: bool = False) -> Rows:
        if split not in self._rows:
            raise UserError(f"The data has no split '{split}'.", suggest(split, self._rows))
        rows = self._rows[split]
        return rows if doubles else list({prompt: (prompt, i) for prompt, i in reversed(rows)}.values())[::-1]

    def _response(self, value: Any) -> str:
        """One of a pair's two responses, without the prompt."""
        if self.reading.format == "transcript":
            return chat.split_transcript(value)[1].strip()
        return chat.response(value, self._pair)

    def _answer(self, value: Any, prompt: str) -> str:
        """One of a pair's responses as the policy says it: with the space that begins a turn without a template."""
        if value is None:
            return ""
        if self.reading.format == "transcript":
            return chat.split_transcript(value)[1]
        is_turn = isinstance(value, list) and not isinstance(prompt, Marked)
        return f" {chat.response(value, self._pair)}" if is_turn else chat.response(value, self._pair)

    @property
    def _pair(self) -> str:
        return f"data.chosen={self.reading.chosen} or data.rejected={self.reading.rejected}"

    def _text(self, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        raise self._wrong_kind(value, "text")

    def _wrong_kind(self, value: Any, wanted: str) -> UserError:
        return UserError(
            f"data.column={self.reading.column} holds {str(value)[:40]!r} where {wanted} is wanted.",
            "Name another column, or set data.format.",
        )


_FORMATS: Mapping[str, Callable[[TextData], Iterator[tuple[str | None, str | None]]]] = {
    "prompt": TextData.read_prompts,
    "whole": TextData.read_whole,  # of pairs: the texts compared have no prompt beside them
    "messages": TextData.read_messages,
    "transcript": TextData.read_transcripts,
    "prefix": TextData.read_prefixes,
}


def _place(prompt: str, seed: int) -> tuple[float, str]:
    """The prompt's place in [0, 1), and its hash, which breaks ties."""
    digest = hashlib.sha256(f"{seed}/{prompt}".encode()).hexdigest()
    return int(digest[:13], 16) / 16**13, digest
