"""Tokenization of prompts, demonstrations, conversations and texts for classifiers.

- In typed text, the name of a control token is encoded as plain text. In a chat template it is the control token.
- Tokens that the tokenizer adds before a text are kept. Tokens that it adds after it are kept for classifiers only.
- A text that begins with the beginning-of-text token gets no second one.
- A response is tokenized together with its prompt, so that training sees the tokens of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


class Marked(str):
    """A text written by a chat template, in which names of control tokens are control tokens, except in `literal`.

    Attributes:
        literal: (start, end) of the names that were typed and stay plain text.
        prefill: the beginning of the answer, which the template has written at the text's end.
        begins: whether the tokenizer adds its tokens before the text, because the template has not written them.
    """

    literal: Sequence[Span]
    prefill: str
    begins: bool

    def __new__(cls, text: str, literal: Sequence[Span] = (), prefill: str = "", begins: bool = False) -> Marked:
        """A string with these attributes."""
        marked = super().__new__(cls, text)
        marked.literal, marked.prefill, marked.begins = tuple(literal), prefill, begins
        return marked


class Typed:
    """Passes typed texts through a chat template: replaces names of control tokens by signs, and puts them back."""

    _SIGN = re.compile("\ue000(\\d+)\ue001")

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.names = _names(tokenizer)

    def hide(self, text: str) -> str:
        """The text with a sign in place of each name of a control token."""
        text = self._SIGN.sub(r"\1", text)
        return (
            _pattern(self.names).sub(lambda match: f"\ue000{self.names.index(match[0])}\ue001", text)
            if self.names
            else text
        )

    def show(self, text: str, prefill: str = "", begins: bool = False) -> Marked:
        """The template's text with the names in place of the signs, as literal text."""
        parts, literal, length = [], [], 0
        for index, part in enumerate(self._SIGN.split(text)):
            piece = self.names[int(part)] if index % 2 else part
            literal += [(length, length + len(piece))] if index % 2 else []
            parts.append(piece)
            length += len(piece)
        return Marked("".join(parts), literal, prefill, begins)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt, with the tokens that the tokenizer adds before a text.

    A `Marked` text gets these only if its `begins` says so.
    """
    before, _ = added(tokenizer)
    plain = [_without_beginning(text, tokenizer, before) for text in texts if not isinstance(text, Marked)]
    rows = iter(_ids(tokenizer, plain))
    return [
        [*(before if text.begins else []), *_read(tokenizer, text)[0]]
        if isinstance(text, Marked)
        else [*before, *next(rows)]
        for text in texts
    ]


def encode_whole(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Token ids of each text as a classifier reads it, with the tokens that the tokenizer adds before and after.

    Tokens that a template has already written are not added again.

    Args:
        tokenizer: the classifier's.
        texts: to be encoded.
        max_length: of a row. Longer texts are cut at the tokenizer's truncation side.
    """
    before, after = added(tokenizer)
    rows = []
    for text in texts:
        ids = _read(tokenizer, text if isinstance(text, Marked) else _without_beginning(text, tokenizer, before))[0]
        first = [] if isinstance(text, Marked) and ids[: len(before)] == before else before
        last = [] if isinstance(text, Marked) and after and ids[-len(after) :] == after else after
        if max_length is not None:
            max_ids = max(0, max_length - len(first) - len(last))
            ids = ids[max(0, len(ids) - max_ids) :] if tokenizer.truncation_side == "left" else ids[:max_ids]
        rows.append([*first, *ids, *last])
    return rows


def without_names(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text with all names of control tokens removed, nested ones too."""
    names = _names(tokenizer)
    while _matches(names, text):
        text = _pattern(names).sub("", text)
    return text


def encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the response to it; together they are the tokens of the whole text.

    A token across the boundary belongs to the response. If prompt and response meet within a word, they are tokenized
    separately, as in generation.
    """
    before, _ = added(tokenizer)
    if isinstance(prompt, Marked):
        before = before if prompt.begins else []
        typed = [(at + len(prompt), to + len(prompt)) for at, to in _matches(_names(tokenizer), response)]
        text: str = Marked(prompt + response, [*prompt.literal, *typed])
    else:
        prompt = _without_beginning(prompt, tokenizer, before)
        text = prompt + response
    if tokenizer.is_fast:
        ids, spans = _read(tokenizer, text)
        start = next((i for i, (_, end) in enumerate(spans) if end > len(prompt)), len(ids))
        is_divided = start == len(ids) or spans[start][0] >= len(prompt)
        if is_divided or prompt[-1:].isspace() or response[:1].isspace():
            return [*before, *ids[:start]], ids[start:]
    return encode(tokenizer, [prompt])[0], _ids(tokenizer, [response])[0]


def encode_responses(
    tokenizer: PreTrainedTokenizerBase, prompt: str, responses: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt and of several responses to it, as `encode_pair` reads them.

    Where the prompt would not be the same before all of them, it and they are read apart.
    """
    read = [encode_pair(tokenizer, prompt, response) for response in responses]
    if all(before == read[0][0] for before, _ in read):
        return read[0][0], [ids for _, ids in read]
    return encode(tokenizer, [prompt])[0], [_ids(tokenizer, [response])[0] for response in responses]


def added(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The token ids that the tokenizer adds before every text, and those that it adds after."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, is_added = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    first = is_added.index(0) if 0 in is_added else len(ids)
    last = len(ids) - is_added[::-1].index(0) if 0 in is_added else len(ids)
    return ids[:first], ids[last:]


def _without_beginning(text: str, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> str:
    """The text without a beginning-of-text token, if the tokenizer adds one itself."""
    return str(text).removeprefix(tokenizer.bos_token) if tokenizer.bos_token_id in before else text


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [_unmarked(tokenizer, row) for row in rows]


def _unmarked(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """The ids with control tokens replaced by the unknown token: a vocabulary of words reads them in plain text too."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return list(ids)
    control = {*tokenizer.all_special_ids} - {unknown}
    return [unknown if token in control else token for token in ids]


def _read(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    """Token ids, and the (start, end) characters of each; the latter are empty for a slow tokenizer."""
    typed = text.literal if isinstance(text, Marked) else [(0, len(text))]
    names = _names(tokenizer)
    marks = [m for m in _matches(names, text) if not any(at < m[1] and m[0] < to for at, to in typed)]
    if not (marks and typed):  # all plain text, or all of the template
        return _piece(tokenizer, text, 0, split=not marks)
    ids: list[int] = []
    spans: list[Span] = []
    control = {*map(int, tokenizer.convert_tokens_to_ids(names))}
    matches = iter(_matches(names, text))  # in the order of the tokenizer's
    all_ids, all_spans = _piece(tokenizer, text, 0, split=False)
    for token, span in zip(all_ids, all_spans or [(0, 0)] * len(all_ids), strict=True):
        name = next(matches) if token in control else None
        piece = ([token], [span])
        if name is not None and name not in marks:
            piece = _piece(tokenizer, text[name[0] : name[1]], name[0], split=True)
        ids += piece[0]
        spans += piece[1]
    return ids, spans


def _piece(tokenizer: PreTrainedTokenizerBase, text: str, at: int, split: bool) -> tuple[list[int], list[Span]]:
    encoded = tokenizer(
        str(text), add_special_tokens=False, split_special_tokens=split, return_offsets_mapping=tokenizer.is_fast
    )
    ids = _unmarked(tokenizer, encoded["input_ids"]) if split else list(encoded["input_ids"])
    return ids, [(at + a, at + b) for a, b in encoded.get("offset_mapping", ())]


def _matches(names: Sequence[str], text: str) -> list[Span]:
    return [match.span() for match in _pattern(names).finditer(text)] if names else []


def _names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The names of all control tokens."""
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*marked, *map(str, tokenizer.all_special_tokens)} - {""})


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
