"""Conversations as text: in the tokenizer's chat template if it has one, else as Human and Assistant turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from pama_exp.config.ranges import shown
from pama_exp.data.tokens import Typed, added
from pama_exp.errors import UserError

ASSISTANT = "\n\nAssistant:"  # ends a prompt of HH-RLHF (Bai et al. 2022)
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "human": "Human"}


def render(messages: Sequence[Any], tokenizer: PreTrainedTokenizerBase, by_template: bool = True) -> str:
    """The conversation as text, up to the beginning of the assistant's next turn.

    Names of control tokens in the messages stay plain text; those of the template are control tokens.

    Args:
        messages: each with role and content.
        tokenizer: the policy's.
        by_template: whether to use the tokenizer's chat template if it has one.

    Raises:
        UserError: for a message without role and content, or a conversation that the template refuses.
    """
    typed = Typed(tokenizer)
    contents = [content_of(message) for message in messages]
    hidden = [{**message, "content": typed.hide(text)} for message, text in zip(messages, contents, strict=True)]
    if tokenizer.chat_template is None or not by_template:
        return "".join(_turn(message["role"], message["content"]) for message in messages) + ASSISTANT
    try:
        text = str(tokenizer.apply_chat_template(hidden, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs, and may raise anything
        reason = str(error).splitlines()[0]
        raise UserError(f"The chat template refuses a conversation ({reason}).", "Mend or leave out its row.") from None
    # If the tokenizer adds the beginning-of-text token too, the template's is removed.
    before, _ = added(tokenizer)
    adds = tokenizer.bos_token_id in before and text.startswith(str(tokenizer.bos_token))
    prefill = _prefill(hidden, text, tokenizer)
    return typed.show(text.removeprefix(tokenizer.bos_token) if adds else text, prefill, begins=adds)


def content_of(message: Any) -> str:
    """The content of a message.

    Raises:
        UserError: unless its role and content are texts.
    """
    whole = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
    if not whole:
        raise UserError(f"The message {shown(message)} has no role and content.", "Both are texts.")
    return str(message["content"])


def response(value: Any, where: str) -> str:
    """A response as text: itself, or the last message of a conversation, which is the assistant's.

    Args:
        value: what a table holds.
        where: the setting that names its column, for messages.

    Raises:
        UserError: for anything else.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise UserError(f"{where} holds {shown(value, 40)} where text is wanted.", "Name another column.")
    if not value:
        return ""
    content, role = content_of(value[-1]), str(value[-1]["role"])
    if role in ("user", "system", "human"):
        raise UserError(
            f"{where} holds a conversation that ends with a turn of '{role}'.", "A response is the assistant's turn."
        )
    return content


def split_conversation(messages: Sequence[Any]) -> tuple[list[Mapping[str, Any]], str | None]:
    """(messages before the last, content of the last) if the assistant speaks last, else (all messages, None)."""
    last = content_of(messages[-1]) if messages else ""
    if messages and messages[-1]["role"] == "assistant":
        return list(messages[:-1]), last
    return list(messages), None


def split_transcript(text: str) -> tuple[str, str]:
    """(prompt, response) of a transcript, split after its last "Assistant:"; the prompt is empty if there is none."""
    head, mark, tail = text.rpartition(ASSISTANT)
    return head + mark, tail


def _turn(role: str, content: str) -> str:
    return content if role == "system" else f"\n\n{_SPEAKERS.get(role, role.title())}: {content}"


def _prefill(messages: Sequence[Mapping[str, Any]], prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning of the answer that the template writes itself, such as the tag that opens the reasoning.

    It is the part of the prompt after the place where the template would put an answer.
    """
    sign = "\ue002"
    answer = {"role": "assistant", "content": sign}
    try:
        text = str(tokenizer.apply_chat_template([*messages, answer], tokenize=False))
    except Exception:  # the template takes no answer after these messages
        return ""
    head, separator, _ = text.rpartition(sign)
    return prompt.removeprefix(head) if separator and prompt.startswith(head) else ""
