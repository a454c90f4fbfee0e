"""OpenAI's chat request as a turn: what is honoured, what is ignored, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from chat.errors import BadRequest, Unsupported
from chat.schemas import ChatCompletionRequest, ChatMessage, ContentPart
from providers.events import Message, Sampling, Turn

SYSTEM_ROLES = ("system", "developer")

# These would change the answer. The value says when a request really asks for it.
REFUSED: dict[str, Callable[[Any], bool]] = {
    "n": lambda value: value != 1,
    "tools": bool,
    "functions": bool,
    "tool_choice": lambda value: value not in ("none", "auto"),
    "function_call": lambda value: value not in ("none", "auto"),
    "response_format": lambda value: value != {"type": "text"},
    "logprobs": bool,
    "top_logprobs": bool,
    "logit_bias": bool,
    "modalities": lambda value: value != ["text"],
    "audio": bool,
    "prediction": bool,
    "web_search_options": lambda value: True,
}

# Other names of the same sampling.
ALSO_CALLED = {"max_tokens": ("max_completion_tokens",)}


def to_turn(body: ChatCompletionRequest) -> Turn:
    """Raises Unsupported or BadRequest, naming the field."""
    for name, value in (body.model_extra or {}).items():
        if name in REFUSED and value is not None and REFUSED[name](value):
            raise Unsupported(f"{name} is not supported here yet", param=name)
    system = [_texts(message, index) for index, message in enumerate(body.messages) if message.role in SYSTEM_ROLES]
    return Turn(
        messages=_conversation(body.messages),
        system="\n\n".join(text for texts in system for text in texts),
        sampling=_sampling(body),
    )


def ignored_parameters(body: ChatCompletionRequest, unsupported: tuple[str, ...]) -> list[str]:
    """What the request holds that has no effect; `unsupported` names sampling the provider can't pass on."""
    extra = _extras("", body)
    if body.stream_options is not None:
        extra += _extras("stream_options.", body.stream_options)
    for message in body.messages:
        extra += _extras("messages[].", message)
        if isinstance(message.content, list):
            extra += [name for part in message.content for name in _extras("messages[].content[].", part)]
    names = [each for name in unsupported for each in (name, *ALSO_CALLED.get(name, ()))]
    return list(dict.fromkeys(extra)) + [name for name in names if getattr(body, name, None) is not None]


def _extras(where: str, part: BaseModel) -> list[str]:
    return [where + name for name, value in (part.model_extra or {}).items() if value not in (None, [], {})]


def _conversation(messages: list[ChatMessage]) -> tuple[Message, ...]:
    turns = [_message(message, index) for index, message in enumerate(messages) if message.role not in SYSTEM_ROLES]
    conversation = tuple(message for message in turns if message is not None)
    last = len(messages) - 1
    if not conversation or conversation[-1].role != "user":
        raise BadRequest("the last message must be one of the user", param=f"messages[{last}]")
    return conversation


def _message(message: ChatMessage, index: int) -> Message | None:
    """None for an assistant message without text: agents send those, and there is nothing to replay."""
    extra = message.model_extra or {}
    if message.role in ("tool", "function") or extra.get("tool_calls") or extra.get("function_call"):
        raise Unsupported("tool calls are not supported here yet", param=f"messages[{index}]")
    texts = tuple(text for text in _texts(message, index) if text)
    if message.role == "assistant":
        return Message("assistant", texts) if "".join(texts).strip() else None
    if not "".join(texts).strip():
        raise BadRequest("a user message must have some text", param=f"messages[{index}].content")
    return Message("user", texts)


def _texts(message: ChatMessage, index: int) -> list[str]:
    if message.content is None:
        return []
    if isinstance(message.content, str):
        return [message.content]
    where = f"messages[{index}].content"
    return [_text(part, f"{where}[{position}]") for position, part in enumerate(message.content)]


def _text(part: ContentPart, where: str) -> str:
    if part.type != "text":
        raise Unsupported(f"content of type {part.type[:40]!r} is not supported here yet, only text", param=where)
    if part.text is None:
        raise BadRequest("a text part must have a text", param=where)
    return part.text


def _sampling(body: ChatCompletionRequest) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stop) or any("\0" in text for text in stop):
        raise BadRequest("stop sequences must be texts that are not empty and hold no NUL", param="stop")
    return Sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=tuple(stop),
    )
