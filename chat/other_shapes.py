"""Chat requests in the shapes of other APIs, as Cursor's agent sends them to /chat/completions.

Depending on the model's name it writes tools, calls and results as OpenAI's Responses API has them (`input` in place of
`messages`), or Anthropic's. What is in OpenAI's chat shape already, or in none of these, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

Json = dict[str, Any]

TEXTS = ("input_text", "output_text")
# Parts of Anthropic's messages that are none of a chat message's content, or that no other model can use.
ELSEWHERE = ("tool_use", "tool_result", "thinking", "redacted_thinking")


def in_chat_shape(data: Json) -> Json:
    """The request with what is of another shape rewritten; never changes `data` itself."""
    data = dict(data)
    if "messages" not in data and isinstance(data.get("input"), (str, list)):
        data["messages"] = _messages_of(data.pop("input"), data.pop("instructions", None))
    if isinstance(data.get("messages"), list):
        data["messages"] = [it for message in data["messages"] for it in _message(message)]
    if isinstance(data.get("tools"), list):
        data["tools"] = [_tool(tool) for tool in data["tools"]]
    if isinstance(data.get("tool_choice"), dict):
        data["tool_choice"] = _choice(data["tool_choice"])
    return data


# --- the Responses API -----------------------------------------------------------------------------------------------


def _messages_of(given: str | list[Any], instructions: Any) -> list[Any]:
    first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) and instructions else []
    if isinstance(given, str):
        return [*first, {"role": "user", "content": given}]
    return [*first, *_joined(_item(item) for item in given)]


def _item(item: Any) -> Any:
    match item:
        case {"type": "function_call", "call_id": call_id, "name": name}:
            function = {"name": name, "arguments": item.get("arguments")}
            return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
        case {"type": "function_call_output", "call_id": call_id}:
            return {"role": "tool", "tool_call_id": call_id, "content": item.get("output")}
        case {"type": "reasoning"}:
            return None
    return item


def _joined(messages: Iterator[Any]) -> list[Any]:
    """One message of the assistant for its words and the calls that follow them, as the chat shape has it."""
    joined: list[Any] = []
    for message in messages:
        last = joined[-1] if joined and isinstance(joined[-1], dict) else {}
        if isinstance(message, dict) and "tool_calls" in message and last.get("role") == "assistant":
            joined[-1] = {**last, "tool_calls": [*last.get("tool_calls", ()), *message["tool_calls"]]}
        elif message is not None:
            joined.append(message)
    return joined


# --- messages --------------------------------------------------------------------------------------------------------


def _message(message: Any) -> list[Any]:
    """One message; of Anthropic's, whose results of tools are parts of the user's, several."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return [message]
    parts = message["content"]
    calls = [_anthropic_call(part) for part in parts if _is(part, "tool_use")]
    results = [_anthropic_result(part) for part in parts if _is(part, "tool_result")]
    kept = [_part(part) for part in parts if not any(_is(part, kind) for kind in ELSEWHERE)]
    rest = {**message, "content": kept}
    if calls:
        rest["tool_calls"] = [*(message.get("tool_calls") or ()), *calls]
    return [*results, *([rest] if kept or calls or not results else [])]


def _is(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind


def _part(part: Any) -> Any:
    match part:
        case {"type": kind, "text": text} if kind in TEXTS:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "input_file", "file_data": str(data)}:
            return {"type": "file", "file": {"file_data": data, "filename": part.get("filename")}}
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
    return part


def _anthropic_call(part: Json) -> Json:
    arguments = orjson.dumps(part.get("input") or {}).decode()
    return {"id": part.get("id"), "type": "function", "function": {"name": part.get("name"), "arguments": arguments}}


def _anthropic_result(part: Json) -> Json:
    content = part.get("content")
    inner = [_part(it) for it in content] if isinstance(content, list) else content
    return {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": inner}


# --- tools -----------------------------------------------------------------------------------------------------------


def _tool(tool: Any) -> Any:
    match tool:
        case {"type": "function", "name": _} if "function" not in tool:
            names = ("name", "description", "parameters", "strict")
            return {"type": "function", "function": {name: tool[name] for name in names if name in tool}}
        case {"name": name, "input_schema": schema} if tool.get("type", "custom") == "custom":
            function = {"name": name, "description": tool.get("description"), "parameters": schema}
            return {"type": "function", "function": function}
    return tool


def _choice(choice: Json) -> Any:
    match choice:
        case {"type": "function", "name": name} if "function" not in choice:
            return {"type": "function", "function": {"name": name}}
        case {"type": "tool", "name": name}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "auto" | "none" as mode}:
            return mode
        case {"type": "any"}:
            return "required"
    return choice
