"""How text becomes tokens: prompts, demonstrations, conversations and texts for classifiers all go through here.

- What people typed is text. A control token's name in it is read letter by letter; a template's own are marks.
- What a tokenizer adds before a text stays; what it adds after one (an end token, say) does not, unless asked for.
- A text that begins with the beginning-of-text token gets no second one.
- A response is read in its place after its prompt, so that what is learned is what the whole text reads as.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


class Marked(str):
    """A text whose control tokens are marks, as a template writes them, but for those at `literal`, which were typed.

    `prefill` is what its end has already begun of the answer; `begins`, whether the tokenizer is to add what it adds
    before a text, which the template has not written.
    """

    literal: Sequence[Span]
    prefill: str
    begins: bool

    def __new__(cls, text: str, literal: Sequence[Span] = (), prefill: str = "", begins: bool = False) -> Marked:
        """The text with what is known of it."""
        made = super().__new__(cls, text)
        made.literal, made.prefill, made.begins = tuple(literal), prefill, begins
        return made


class Typed:
    """Typed texts on their way through a template: names of control tokens travel as signs that no template knows."""

    _SIGN = re.compile("\ue000(\\d+)\ue001")

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.names = _names(tokenizer)

    def hide(self, text: str) -> str:
        """The text with signs in place of names."""
        text = self._SIGN.sub(r"\1", text)
        return (
            _pattern(self.names).sub(lambda match: f"\ue000{self.names.index(match[0])}\ue001", text)
            if self.names
            else text
        )

    def show(self, text: str, prefill: str = "", begins: bool = False) -> Marked:
        """The template's result with the names back in their places."""
        parts, literal, length = [], [], 0
        for index, part in enumerate(self._SIGN.split(text)):
            said = self.names[int(part)] if index % 2 else part
            literal += [(length, length + len(said))] if index % 2 else []
            parts.append(said)
            length += len(said)
        return Marked("".join(parts), literal, prefill, begins)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, as a language model reads what it is to go on from.

    A chat template's text (`Marked`) is whole as it is, unless it says otherwise.
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
    """Token ids of each text between what the tokenizer adds before and after it, as a classifier reads them.

    Beyond `max_length` the text loses tokens at the tokenizer's side of truncation. What a template has written itself
    of what is added is not added again.
    """
    before, after = added(tokenizer)
    rows = []
    for text in texts:
        ids = _read(tokenizer, text if isinstance(text, Marked) else _without_beginning(text, tokenizer, before))[0]
        first = [] if isinstance(text, Marked) and ids[: len(before)] == before else before
        last = [] if isinstance(text, Marked) and after and ids[-len(after) :] == after else after
        if max_length is not None:
            room = max(0, max_length - len(first) - len(last))
            ids = ids[max(0, len(ids) - room) :] if tokenizer.truncation_side == "left" else ids[:room]
        rows.append([*first, *ids, *last])
    return rows


def without_names(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text without names of control tokens, however they are nested in one another."""
    names = _names(tokenizer)
    while _found(names, text):
        text = _pattern(names).sub("", text)
    return text


def encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the response to it, which together are those of the whole text.

    A token that holds the end of the prompt and the beginning of the response is the response's. Where the two meet
    within a word, they are read apart, as the policy would go on from the prompt.
    """
    before, _ = added(tokenizer)
    if isinstance(prompt, Marked):
        before = before if prompt.begins else []
        typed = [(at + len(prompt), to + len(prompt)) for at, to in _found(_names(tokenizer), response)]
        whole: str = Marked(prompt + response, [*prompt.literal, *typed])
    else:
        prompt = _without_beginning(prompt, tokenizer, before)
        whole = prompt + response
    if tokenizer.is_fast:
        ids, spans = _read(tokenizer, whole)
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
    """What the tokenizer adds before every text, and after it."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, is_added = list(found["input_ids"]), list(found["special_tokens_mask"])
    first = is_added.index(0) if 0 in is_added else len(ids)
    last = len(ids) - is_added[::-1].index(0) if 0 in is_added else len(ids)
    return ids[:first], ids[last:]


def _without_beginning(text: str, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> str:
    """Without the beginning-of-text token that the tokenizer adds itself."""
    return str(text).removeprefix(tokenizer.bos_token) if tokenizer.bos_token_id in before else text


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [_unmarked(tokenizer, row) for row in rows]


def _unmarked(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """A vocabulary of whole words knows a control token by its name even so: it is then a word that is not known."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return list(ids)
    control = {*tokenizer.all_special_ids} - {unknown}
    return [unknown if token in control else token for token in ids]


def _read(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    """Token ids and which characters each stands for; without the latter where the tokenizer does not know."""
    typed = text.literal if isinstance(text, Marked) else [(0, len(text))]
    names = _names(tokenizer)
    marks = [m for m in _found(names, text) if not any(at < m[1] and m[0] < to for at, to in typed)]
    if not (marks and typed):  # all of one kind: as the tokenizer reads it whole
        return _piece(tokenizer, text, 0, split=not marks)
    ids: list[int] = []
    spans: list[Span] = []
    control = {*map(int, tokenizer.convert_tokens_to_ids(names))}
    found = iter(_found(names, text))  # as the tokenizer finds them
    whole, places = _piece(tokenizer, text, 0, split=False)
    for token, span in zip(whole, places or [(0, 0)] * len(whole), strict=True):
        name = next(found) if token in control else None
        piece = ([token], [span])
        if name is not None and name not in marks:
            piece = _piece(tokenizer, text[name[0] : name[1]], name[0], split=True)
        ids += piece[0]
        spans += piece[1]
    return ids, spans


def _piece(tokenizer: PreTrainedTokenizerBase, text: str, at: int, split: bool) -> tuple[list[int], list[Span]]:
    found = tokenizer(
        str(text), add_special_tokens=False, split_special_tokens=split, return_offsets_mapping=tokenizer.is_fast
    )
    ids = _unmarked(tokenizer, found["input_ids"]) if split else list(found["input_ids"])
    return ids, [(at + a, at + b) for a, b in found.get("offset_mapping", ())]


def _found(names: Sequence[str], text: str) -> list[Span]:
    return [match.span() for match in _pattern(names).finditer(text)] if names else []


def _names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Of all control tokens."""
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*marked, *map(str, tokenizer.all_special_tokens)} - {""})


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
