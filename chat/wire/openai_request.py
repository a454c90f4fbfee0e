"""OpenAI's chat request as a turn: what is honoured, what is ignored, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from chat.errors import BadRequest, Unsupported
from chat.schemas import ChatCompletionRequest, ChatMessage, ContentPart
from chat.tool_schemas import NamedToolChoice, ToolCallBody
from chat.wire.media import DEFAULT_LIMITS, MediaLimits, check_count, read_media
from chat.wire.tools import Function, read_arguments, read_format, read_toolbox
from providers.events import Block, Media, Message, Sampling, Toolbox, ToolCall, ToolMode, ToolResult, Turn

SYSTEM_ROLES = ("system", "developer")
SESSION_PREFIX = "session:"

# These would change the answer. The value says when a request really asks for it.
REFUSED: dict[str, Callable[[Any], bool]] = {
    "n": lambda value: value != 1,
    "functions": bool,
    "function_call": lambda value: value not in ("none", "auto"),
    "logprobs": bool,
    "top_logprobs": bool,
    "logit_bias": bool,
    "modalities": lambda value: value != ["text"],
    "audio": bool,
    "prediction": bool,
    "web_search_options": lambda value: True,
}
INSTEAD = {"functions": "; use tools", "function_call": "; use tool_choice"}

# Other names of the same sampling.
ALSO_CALLED = {"max_tokens": ("max_completion_tokens",)}


def to_turn(body: ChatCompletionRequest, limits: MediaLimits = DEFAULT_LIMITS) -> Turn:
    """Raises Unsupported or BadRequest, naming the field."""
    for name, value in (body.model_extra or {}).items():
        if name in REFUSED and value is not None and REFUSED[name](value):
            raise Unsupported(f"{name} is not supported here{INSTEAD.get(name, '')}", param=name)
    system = [
        _system_text(message, index) for index, message in enumerate(body.messages) if message.role in SYSTEM_ROLES
    ]
    messages = _conversation(body.messages, limits)
    check_count(sum(len(message.media) for message in messages if not message.is_plain), limits)
    return Turn(
        messages=messages,
        system="\n\n".join(filter(None, system)),
        sampling=_sampling(body),
        toolbox=_toolbox(body),
        json_schema=_format(body),
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
    if body.user and not body.user.startswith(SESSION_PREFIX):
        extra.append("user")
    extra += [f"metadata.{name}" for name in body.metadata or () if name != "session_id"]
    names = [each for name in unsupported for each in (name, *ALSO_CALLED.get(name, ()))]
    return list(dict.fromkeys(extra)) + [name for name in names if getattr(body, name, None) is not None]


def session_id_of(body: ChatCompletionRequest) -> str:
    """The session named in the body, for clients that can't set headers; empty for none. Raises BadRequest."""
    named = (body.metadata or {}).get("session_id") or ""
    if not isinstance(named, str):
        raise BadRequest("a session id is a text", param="metadata.session_id")
    if not named and body.user is not None and body.user.startswith(SESSION_PREFIX):
        named = body.user.removeprefix(SESSION_PREFIX)
    return named.strip()


def _extras(where: str, part: BaseModel) -> list[str]:
    named = [name for name, value in (part.model_extra or {}).items() if value not in (None, [], {})]
    return [where + name for name in named if where or name not in REFUSED]  # these ask for what is given anyway


# --- messages -------------------------------------------------------------------------------------------------------


def _conversation(messages: list[ChatMessage], limits: MediaLimits) -> tuple[Message, ...]:
    turns = [
        _message(message, f"messages[{index}]", limits)
        for index, message in enumerate(messages)
        if message.role not in SYSTEM_ROLES
    ]
    conversation = tuple(message for message in turns if message is not None)
    if not conversation or conversation[-1].role == "assistant":
        where = f"messages[{len(messages) - 1}]"
        raise BadRequest("the last message must be one of the user, or the result of a tool", param=where)
    return conversation


def _message(message: ChatMessage, where: str, limits: MediaLimits) -> Message | None:
    """None for an assistant message without any content: agents send those, and there is nothing to replay."""
    blocks = _blocks(message, where, limits)
    match message.role:
        case "assistant":
            return _of_assistant(blocks, message.tool_calls or [], where)
        case "tool":
            return _of_tool(blocks, message.tool_call_id, where)
        case "function":
            raise Unsupported("messages of the role function are not supported here; use tool", param=where)
    if not any(not isinstance(block, str) or block.strip() for block in blocks):
        raise BadRequest("a user message must have some content", param=f"{where}.content")
    return Message("user", blocks)


def _of_assistant(blocks: tuple[Block, ...], calls: list[ToolCallBody], where: str) -> Message | None:
    if any(isinstance(block, Media) for block in blocks):
        raise BadRequest("a message of the assistant holds no files", param=f"{where}.content")
    has_text = any(str(block).strip() for block in blocks)
    made = tuple(
        ToolCall(it.id, it.function.name, read_arguments(it.function.arguments, f"{where}.tool_calls[{n}]"))
        for n, it in enumerate(calls)
    )
    return Message("assistant", (*(blocks if has_text else ()), *made)) if has_text or made else None


def _of_tool(blocks: tuple[Block, ...], call_id: str | None, where: str) -> Message:
    if not call_id:
        raise BadRequest("a message of a tool must name its call", param=f"{where}.tool_call_id")
    inner = tuple(block for block in blocks if isinstance(block, (str, Media)))
    return Message("tool", (ToolResult(call_id, inner),))


def _blocks(message: ChatMessage, where: str, limits: MediaLimits) -> tuple[Block, ...]:
    if isinstance(message.content, str):
        return (message.content,) if message.content else ()
    parts = enumerate(message.content or ())
    blocks = [_part(part, f"{where}.content[{position}]", limits) for position, part in parts]
    return tuple(block for block in blocks if block)


def _part(part: ContentPart, where: str, limits: MediaLimits) -> str | Media:
    match part.type:
        case "text":
            return _required(part.text, "text", where)
        case "refusal":
            return _required(part.refusal, "refusal", where)
        case "image_url" if part.image_url is not None:
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            return read_media(url, limits, f"{where}.image_url")
        case "file" if part.file is not None and part.file.file_data is not None:
            return read_media(part.file.file_data, limits, f"{where}.file", name=part.file.filename or "")
        case "file":
            raise Unsupported("a file has to come with its file_data; there are no uploads here", param=where)
        case "image_url":
            raise BadRequest("an image_url part must have an image_url", param=where)
    raise Unsupported(f"content of type {part.type[:40]!r} is not supported here", param=where)


def _required(text: str | None, kind: str, where: str) -> str:
    if text is None:
        raise BadRequest(f"a {kind} part must have a {kind}", param=where)
    return text


def _system_text(message: ChatMessage, index: int) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    where = f"messages[{index}].content"
    for position, part in enumerate(message.content):
        if part.type != "text":
            raise Unsupported("a system message holds texts alone", param=f"{where}[{position}]")
    return "\n\n".join(_required(part.text, "text", where) for part in message.content)


# --- the rest -------------------------------------------------------------------------------------------------------


def _toolbox(body: ChatCompletionRequest) -> Toolbox:
    functions = [
        Function(
            it.function.name, it.function.description or "", it.function.parameters, f"tools[{n}].function.parameters"
        )
        for n, it in enumerate(body.tools or ())
    ]
    mode: ToolMode = "auto"
    only = ""
    if isinstance(body.tool_choice, NamedToolChoice):
        mode, only = "required", body.tool_choice.function.name
    elif body.tool_choice is not None:
        mode = body.tool_choice
    return read_toolbox(functions, mode, only, is_parallel=body.parallel_tool_calls)


def _format(body: ChatCompletionRequest) -> bytes:
    asked = body.response_format
    if asked is None:
        return b""
    schema = asked.json_schema.schema_ if asked.json_schema else None
    return read_format(asked.type, schema, "response_format.json_schema.schema")


def _sampling(body: ChatCompletionRequest) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stop) or any("\0" in text for text in stop):
        raise BadRequest("stop sequences must be texts that are not empty and hold no NUL", param="stop")
    return Sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=tuple(stop),
        reasoning_effort=body.reasoning_effort,
    )
