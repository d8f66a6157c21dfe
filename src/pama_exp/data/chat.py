"""Conversations as text: the tokenizer's chat template where it has one, else Human and Assistant turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from pama_exp.data.tokens import Typed, added
from pama_exp.errors import UserError

ASSISTANT = "\n\nAssistant:"  # ends a prompt of HH-RLHF (Bai et al. 2022)
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "human": "Human"}


def render(messages: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, by_template: bool = True) -> str:
    """The conversation so far, up to where the assistant's next turn begins.

    What messages say is text, whatever control tokens it names; the template's own are marks.

    Args:
        messages: role and content each.
        tokenizer: the policy's.
        by_template: write it in the tokenizer's chat template if it has one.

    Raises:
        UserError: for a message without role and content, or a conversation that the template refuses.
    """
    typed = Typed(tokenizer)
    hidden = [{**message, "content": typed.hide(content_of(message))} for message in messages]
    if tokenizer.chat_template is None or not by_template:
        return "".join(_turn(message["role"], message["content"]) for message in messages) + ASSISTANT
    try:
        text = str(tokenizer.apply_chat_template(hidden, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs, and refuse in their own words
        reason = str(error).splitlines()[0]
        raise UserError(f"The chat template refuses a conversation ({reason}).", "Mend or leave out its row.") from None
    # A template writes the token that begins a text itself; where the tokenizer adds it too, it is the tokenizer's.
    before, _ = added(tokenizer)
    adds = tokenizer.bos_token_id in before and text.startswith(str(tokenizer.bos_token))
    prefill = _prefill(hidden, text, tokenizer)
    return typed.show(text.removeprefix(tokenizer.bos_token) if adds else text, prefill, begins=adds)


def content_of(message: Mapping[str, Any]) -> str:
    """What a message says.

    Raises:
        UserError: if it has no role and content.
    """
    if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
        raise UserError(f"The message {str(dict(message))[:80]} has no role and content.", "Both are texts.")
    return str(message["content"])


def split_conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str | None]:
    """What comes before the assistant's last turn, and that turn; all and None where another speaks last."""
    if messages and messages[-1].get("role") == "assistant":
        return list(messages[:-1]), content_of(messages[-1])
    return list(messages), None


def split_transcript(text: str) -> tuple[str, str]:
    """Everything up to and including the last turn's "Assistant:", and what follows; the prompt is empty without it."""
    head, mark, tail = text.rpartition(ASSISTANT)
    return head + mark, tail


def _turn(role: str, content: str) -> str:
    return content if role == "system" else f"\n\n{_SPEAKERS.get(role, role.title())}: {content}"


def _prefill(messages: Sequence[Mapping[str, Any]], prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template has begun of the answer for the assistant, such as the mark that opens its thoughts.

    It is what the prompt has beyond the place where a given answer would begin.
    """
    sign = "\ue002"
    try:
        told = str(tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": sign}], tokenize=False))
    except Exception:  # the template takes no answer after these messages
        return ""
    head, found, _ = told.rpartition(sign)
    return prompt.removeprefix(head) if found and prompt.startswith(head) else ""
