"""What a message holds, as it is kept and as it is shown: texts, and beside them files, calls and results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from providers.events import Block, Media, ToolCall, ToolResult

Json = dict[str, Any]


def dump_blocks(blocks: Sequence[Block]) -> list[str | Json]:
    """As JSON; a text is itself."""
    return [block if isinstance(block, str) else _dumped(block) for block in blocks]


def _dumped(block: Media | ToolCall | ToolResult) -> Json:
    match block:
        case Media(mime_type, data, name):
            return {"media": mime_type, "data": data, **({"name": name} if name else {})}
        case ToolCall(call_id, name, arguments):
            return {"call": call_id, "name": name, "arguments": arguments}
        case ToolResult(call_id, blocks, is_error):
            return {"result": call_id, "blocks": dump_blocks(blocks), **({"error": True} if is_error else {})}


def load_blocks(found: Iterable[Any]) -> tuple[Block, ...]:
    return tuple(it if isinstance(it, str) else _loaded(it) for it in found)


def _loaded(found: Json) -> Block:
    if "media" in found:
        return Media(found["media"], found["data"], found.get("name", ""))
    if "call" in found:
        return ToolCall(found["call"], found["name"], found["arguments"])
    blocks = load_blocks(found["blocks"])
    return ToolResult(found["result"], blocks, found.get("error", False))  # type: ignore[arg-type]


def chars_of(blocks: Iterable[Block]) -> int:
    """How much room they take, in characters."""
    return sum(map(_chars, blocks))


def _chars(block: Block) -> int:
    match block:
        case str():
            return len(block)
        case Media():
            return len(block.data)
        case ToolCall():
            return len(block.name) + len(block.arguments)
        case ToolResult():
            return chars_of(block.blocks)


def as_text(blocks: Iterable[Block]) -> str:
    """For people to read: what is no text is named in brackets, on a line of its own."""
    listed = tuple(blocks)
    if all(isinstance(block, str) for block in listed):
        return "".join(map(str, listed))
    return "".join(block if isinstance(block, str) else f"\n[{_named(block)}]\n" for block in listed).strip("\n")


def _named(block: Media | ToolCall | ToolResult) -> str:
    match block:
        case Media(mime_type, data, name):
            return f"{name or mime_type}, {len(data) * 3 // 4:,} bytes"
        case ToolCall(_, name, arguments):
            return f"calls {name} with {arguments}"
        case ToolResult(_, blocks, is_error):
            return f"{'failure' if is_error else 'result'}: {as_text(blocks)}"
