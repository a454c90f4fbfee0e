"""A turn with tools, calls or media in the vendor's own structures.

The CLI's hook carries texts alone. `httpOptions.extraBody` of its generation settings is added to the request as it
is, so `contents` and `tools` in it take the place of the CLI's own. The CLI itself knows none of the tools: what the
model calls is not there, ends the turn, and can never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from providers.adapters.gemini_text import NOTHING
from providers.events import Media, Message, Tool, Toolbox, ToolCall, ToolResult, Turn

Json = dict[str, Any]

# Google's rule for the name of a function; OpenAI's allows others to begin with a digit or a dash.
NAME = re.compile(r"[A-Za-z_][\w.:-]{0,63}", re.ASCII)
NAME_CHARS = 64

# A model of the third generation refuses its own call without the signature it came with, which no client sends back.
# Google's word for "made elsewhere", which the CLI sends itself where it has none.
NO_SIGNATURE = "skip_thought_signature_validator"

# What may stand within a result; elsewhere, and for the models before, it stands beside it.
WITHIN_RESULTS = ("image/png", "image/jpeg", "image/webp", "application/pdf")
WITHOUT_MEDIA_IN_RESULTS = re.compile(r"gemini-[12]\b")


def is_rich(turn: Turn) -> bool:
    """Whether it holds more than texts."""
    return bool(turn.toolbox) or any(not message.is_plain for message in turn.messages)


def extra_body(turn: Turn, model: str) -> Json:
    """The part of a request that holds the conversation and the tools."""
    names = vendor_names(turn)
    body: Json = {"contents": list(_contents(turn.messages, model, names))}
    if turn.toolbox:
        body["tools"] = [{"functionDeclarations": [_declaration(tool, names) for tool in turn.toolbox.tools]}]
        body |= _tool_config(turn.toolbox, names)
    return body


def vendor_names(turn: Turn) -> dict[str, str]:
    """What Google is told for each function's name: the name itself, except where that breaks Google's rule."""
    calls = (call.name for message in turn.messages for call in message.calls)
    wanted = dict.fromkeys((*(tool.name for tool in turn.toolbox.tools), *calls))
    found = {name: name for name in wanted if NAME.fullmatch(name)}
    for name in wanted.keys() - found.keys():
        found[name] = _unlike(found.values(), "_" + re.sub(r"[^\w.:-]", "_", name, flags=re.ASCII))
    return found


def _unlike(taken: Iterable[str], name: str) -> str:
    known, number, found = set(taken), 1, name[:NAME_CHARS]
    while found in known:
        number += 1
        found = f"{name[: NAME_CHARS - len(str(number)) - 1]}_{number}"
    return found


# --- the conversation ------------------------------------------------------------------------------------------------


def _contents(messages: tuple[Message, ...], model: str, names: dict[str, str]) -> Iterator[Json]:
    called: dict[str, str] = {}
    results: list[Json] = []
    for message in messages:
        if message.role == "tool":
            for result in message.results:
                results += _result_parts(result, called.get(result.call_id, ""), model)
            continue
        if results:  # all results of an answer's calls belong into one message
            yield {"role": "user", "parts": results}
            results = []
        called |= {call.id: names[call.name] for call in message.calls}
        role = "model" if message.role == "assistant" else "user"
        yield {"role": role, "parts": list(_parts(message, names)) or [{"text": NOTHING}]}
    if results:
        yield {"role": "user", "parts": results}


def _parts(message: Message, names: dict[str, str]) -> Iterator[Json]:
    is_first = True
    for block in message.blocks:
        match block:
            case str() if block:
                yield {"text": block}
            case Media():
                yield _inline(block)
            case ToolCall():
                yield _call_part(block, names[block.name]) | ({"thoughtSignature": NO_SIGNATURE} if is_first else {})
                is_first = False


def _call_part(call: ToolCall, name: str) -> Json:
    return {"functionCall": {"id": call.id, "name": name, "args": call.input}}


def _result_parts(result: ToolResult, name: str, model: str) -> list[Json]:
    media = [block for block in result.blocks if isinstance(block, Media)]
    takes_media = WITHOUT_MEDIA_IN_RESULTS.match(model) is None
    within = [it for it in media if takes_media and it.mime_type in WITHIN_RESULTS]
    response: Json = {"id": result.call_id, "name": name, "response": _response(result)}
    if within:
        response["parts"] = [_inline(it) for it in within]
    return [{"functionResponse": response}, *(_inline(it) for it in media if it not in within)]


def _response(result: ToolResult) -> Json:
    return {"error" if result.is_error else "output": result.text}


def _inline(media: Media) -> Json:
    return {"inlineData": {"mimeType": media.mime_type, "data": media.data}}


# --- the tools -------------------------------------------------------------------------------------------------------


def _declaration(tool: Tool, names: dict[str, str]) -> Json:
    schema = orjson.loads(tool.schema)
    return {"name": names[tool.name], "description": tool.description, "parametersJsonSchema": schema}


def _tool_config(toolbox: Toolbox, names: dict[str, str]) -> Json:
    if toolbox.mode == "auto":
        return {}
    config: Json = {"mode": "ANY" if toolbox.mode == "required" else "NONE"}
    if toolbox.only:
        config["allowedFunctionNames"] = [names[toolbox.only]]
    return {"toolConfig": {"functionCallingConfig": config}}
