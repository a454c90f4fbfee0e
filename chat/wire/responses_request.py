"""A request of OpenAI's Responses API as a turn: what is honoured, what is ignored, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from chat.errors import BadRequest, Unsupported
from chat.responses_schemas import InputItem, InputPart, NamedTool, ResponseRequest
from chat.wire.media import DEFAULT_LIMITS, MediaLimits, check_count, read_media
from chat.wire.openai_request import SESSION_PREFIX, SYSTEM_ROLES
from chat.wire.tools import Function, read_arguments, read_format, read_toolbox
from providers.events import Media, Message, Sampling, Toolbox, ToolCall, ToolMode, ToolResult, Turn

# These would change the answer. The value says when a request really asks for it.
REFUSED: dict[str, Callable[[Any], bool]] = {
    "prompt": bool,
    "moderation": bool,
    "n": lambda value: value != 1,
    "logit_bias": bool,
    "max_tokens": lambda value: True,
    "max_completion_tokens": lambda value: True,
    "response_format": lambda value: True,
    "functions": bool,
    "function_call": lambda value: value not in ("none", "auto"),
}
INSTEAD = {
    "max_tokens": "; use max_output_tokens",
    "max_completion_tokens": "; use max_output_tokens",
    "response_format": "; use text.format",
    "functions": "; use tools",
    "function_call": "; use tool_choice",
}
# What sampling is called in this dialect.
NAMES = {"max_tokens": "max_output_tokens", "reasoning_effort": "reasoning.effort"}


def to_turn(body: ResponseRequest, limits: MediaLimits = DEFAULT_LIMITS) -> Turn:
    """Raises Unsupported or BadRequest, naming the field."""
    _check(body)
    items = [InputItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    where = [""] if isinstance(body.input, str) else [f"[{index}]" for index in range(len(items))]
    placed = [(item, f"input{place}") for item, place in zip(items, where, strict=True)]
    messages = _conversation(placed, limits)
    check_count(sum(len(message.media) for message in messages if not message.is_plain), limits)
    system = [_system_text(item, place) for item, place in placed if item.role in SYSTEM_ROLES]
    return Turn(
        messages=messages,
        system="\n\n".join(filter(None, [body.instructions, *system])),
        sampling=_sampling(body),
        toolbox=_toolbox(body),
        json_schema=_format(body),
    )


def has_answers(body: ResponseRequest) -> bool:
    """Whether the input is a history: there are answers in it, if only such without a text."""
    items = body.input if isinstance(body.input, list) else []
    return any(item.role == "assistant" or item.type == "function_call" for item in items)


def session_id_of(body: ResponseRequest) -> str:
    """The session named in the body; empty for none. Raises BadRequest."""
    if body.conversation is not None:
        return body.conversation if isinstance(body.conversation, str) else body.conversation.id
    named = (body.metadata or {}).get("session_id") or ""
    if not isinstance(named, str):
        raise BadRequest("a session id is a text", param="metadata.session_id")
    if not named and body.user is not None and body.user.startswith(SESSION_PREFIX):
        named = body.user.removeprefix(SESSION_PREFIX)
    return named.strip()


def _check(body: ResponseRequest) -> None:
    for name, value in (body.model_extra or {}).items():
        if name in REFUSED and value is not None and REFUSED[name](value):
            raise Unsupported(f"{name} is not supported here{INSTEAD.get(name, '')}", param=name)
    if body.top_logprobs:
        raise Unsupported("top_logprobs is not supported here", param="top_logprobs")
    if body.conversation is not None and body.previous_response_id:
        raise BadRequest("send previous_response_id or conversation, not both", param="previous_response_id")
    if body.background and body.stream:
        raise BadRequest("an answer in the background can't be streamed; GET it", param="background")
    if body.background and body.store is False:
        raise BadRequest("an answer in the background has to be stored to be fetched", param="background")


# --- what has no effect ---------------------------------------------------------------------------------------------


def ignored_parameters(body: ResponseRequest, unsupported: tuple[str, ...]) -> list[str]:
    """What the request holds that has no effect; `unsupported` names sampling the provider can't pass on."""
    names = [*_extras("", body), *_without_effect(body), *_extras_of_items(body)]
    for tool in body.tools or ():
        names += _extras("tools[].", tool)
    sent = body.model_dump(include={"max_output_tokens", "temperature", "top_p", "reasoning"}, exclude_none=True)
    sampling = {**sent, **{f"reasoning.{name}": value for name, value in sent.get("reasoning", {}).items()}}
    named = (NAMES.get(name, name) for name in unsupported)
    return list(dict.fromkeys([*names, *(name for name in named if name in sampling)]))


def _without_effect(body: ResponseRequest) -> Iterator[str]:
    if body.user and not body.user.startswith(SESSION_PREFIX):
        yield "user"
    if body.truncation == "auto":
        yield "truncation"
    if body.include:
        yield "include"
    if body.text is not None:
        yield from _extras("text.", body.text)
        if body.text.verbosity:
            yield "text.verbosity"
    if body.reasoning is not None:
        yield from _extras("reasoning.", body.reasoning)
    if body.stream_options is not None:
        yield from _extras("stream_options.", body.stream_options)
        if body.stream_options.include_obfuscation:
            yield "stream_options.include_obfuscation"


def _extras_of_items(body: ResponseRequest) -> Iterator[str]:
    for item in body.input if isinstance(body.input, list) else ():
        yield from _extras("input[].", item)
        for name, content in (("content", item.content), ("output", item.output)):
            for part in content if isinstance(content, list) else ():
                yield from _extras(f"input[].{name}[].", part)


def _extras(where: str, part: BaseModel) -> list[str]:
    return [where + name for name, value in (part.model_extra or {}).items() if value not in (None, [], {})]


# --- input ----------------------------------------------------------------------------------------------------------


def _conversation(items: list[tuple[InputItem, str]], limits: MediaLimits) -> tuple[Message, ...]:
    """What an answer was made of comes as items of their own: they are one message again."""
    messages: list[Message] = []
    for item, where in items:
        message = _message(item, where, limits)
        if message is None:
            continue
        if message.role == "assistant" and messages and messages[-1].role == "assistant":
            message = _joined(messages.pop(), message)
        messages.append(message)
    if not messages or messages[-1].role == "assistant":
        raise BadRequest("the last item must be a message of the user, or what a call brought", param=items[-1][1])
    return tuple(messages)


def _joined(first: Message, second: Message) -> Message:
    """Words before calls: vendors know no other order."""
    blocks = (*first.blocks, *second.blocks)
    words = [block for block in blocks if not isinstance(block, ToolCall)]
    return Message("assistant", (*words, *(block for block in blocks if isinstance(block, ToolCall))))


def _message(item: InputItem, where: str, limits: MediaLimits) -> Message | None:
    """None for what is no part of the conversation: instructions, thoughts, and answers without a word."""
    match item.type:
        case "message":
            return _said(item, where, limits)
        case "function_call":
            return _call(item, where)
        case "function_call_output":
            return _result(item, where, limits)
        case "reasoning":
            return None
    raise Unsupported(f"items of type {item.type[:40]!r} are not supported here", param=where)


def _said(item: InputItem, where: str, limits: MediaLimits) -> Message | None:
    if item.role is None:
        raise BadRequest("a message must have a role", param=f"{where}.role")
    if item.role in SYSTEM_ROLES:
        return None
    blocks = tuple(block for block in _blocks(item.content, _inside(where, "content"), limits) if block)
    is_said = any(not isinstance(block, str) or block.strip() for block in blocks)
    if item.role == "assistant":
        if any(isinstance(block, Media) for block in blocks):
            raise BadRequest("a message of the assistant holds no files", param=f"{where}.content")
        return Message("assistant", blocks) if is_said else None
    if not is_said:
        raise BadRequest("a user message must have some content", param=_inside(where, "content"))
    return Message("user", blocks)


def _inside(where: str, name: str) -> str:
    """An input that is a text has no fields."""
    return where if where == "input" else f"{where}.{name}"


def _call(item: InputItem, where: str) -> Message:
    if not item.call_id or not item.name:
        raise BadRequest("a function_call must have a call_id and a name", param=where)
    return Message(
        "assistant", (ToolCall(item.call_id, item.name, read_arguments(item.arguments, f"{where}.arguments")),)
    )


def _result(item: InputItem, where: str, limits: MediaLimits) -> Message:
    if not item.call_id or item.output is None:
        raise BadRequest("a function_call_output must have a call_id and an output", param=where)
    blocks = tuple(block for block in _blocks(item.output, f"{where}.output", limits) if block)
    return Message("tool", (ToolResult(item.call_id, blocks),))


def _blocks(content: str | list[InputPart] | None, where: str, limits: MediaLimits) -> list[str | Media]:
    if not isinstance(content, list):
        return [content] if content else []
    return [_part(part, f"{where}[{position}]", limits) for position, part in enumerate(content)]


def _part(part: InputPart, where: str, limits: MediaLimits) -> str | Media:
    match part.type:
        case "input_text" | "output_text" | "text":
            return _required(part.text, "text", part.type, where)
        case "refusal":
            return _required(part.refusal, "refusal", part.type, where)
        case "input_image" | "input_file" if part.file_id:
            raise Unsupported("there are no uploads here: send the file itself, not a file_id", param=where)
        case "input_image":
            url = _required(part.image_url, "image_url", part.type, where)
            return read_media(url, limits, f"{where}.image_url")
        case "input_file":
            url = _required(part.file_data or part.file_url, "file_data", part.type, where)
            return read_media(url, limits, where, name=part.filename or "")
    raise Unsupported(f"content of type {part.type[:40]!r} is not supported here", param=where)


def _required(text: str | None, name: str, kind: str, where: str) -> str:
    if text is None:
        raise BadRequest(f"a part of type {kind} must have {name}", param=where)
    return text


def _system_text(item: InputItem, where: str) -> str:
    if not isinstance(item.content, list):
        return item.content or ""
    for position, part in enumerate(item.content):
        if part.type not in ("input_text", "text"):
            raise Unsupported("instructions are texts alone", param=f"{where}.content[{position}]")
    return "\n\n".join(_required(part.text, "text", part.type, where) for part in item.content)


# --- the rest -------------------------------------------------------------------------------------------------------


def _toolbox(body: ResponseRequest) -> Toolbox:
    functions = []
    for index, tool in enumerate(body.tools or ()):
        name = _function(tool.type, tool.name, f"tools[{index}]")
        where = f"tools[{index}].parameters"
        functions.append(Function(name, tool.description or "", tool.parameters, where))
    mode: ToolMode = "auto"
    only = ""
    if isinstance(body.tool_choice, NamedTool):
        mode, only = "required", _function(body.tool_choice.type, body.tool_choice.name, "tool_choice")
    elif body.tool_choice is not None:
        mode = body.tool_choice
    return read_toolbox(functions, mode, only, is_parallel=body.parallel_tool_calls)


def _function(kind: str, name: str | None, where: str) -> str:
    if kind != "function":
        raise Unsupported(
            f"{kind[:40]!r} is not supported here: tools are functions the caller runs", param=f"{where}.type"
        )
    if not name:
        raise BadRequest("a function must have a name", param=f"{where}.name")
    return name


def _format(body: ResponseRequest) -> bytes:
    asked = body.text.format if body.text else None
    return read_format(asked.type, asked.schema_, "text.format.schema") if asked else b""


def _sampling(body: ResponseRequest) -> Sampling:
    return Sampling(
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
    )
