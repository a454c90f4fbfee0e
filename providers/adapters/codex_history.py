"""A conversation in the vendor's own dialect, which the CLI hands on: messages, calls and their outputs, images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from providers.adapters.call_ids import CallIds
from providers.adapters.codex_tools import name_for
from providers.adapters.json_lines import Json
from providers.events import Media, Message, ToolCall, ToolResult


def history_items(messages: Sequence[Message]) -> list[Json]:
    """The conversation, one item for each message but those of the assistant with calls.

    The vendor tells calls apart by their ids alone, so an id that comes twice, or that it would refuse, gets another
    one; always the same for the same conversation, because prompts are cached.
    """
    ids = CallIds()
    return [item for message in messages for item in _items_of(message, ids)]


def _items_of(message: Message, ids: CallIds) -> Iterator[Json]:
    for result in message.results:
        yield {"type": "function_call_output", "call_id": ids.answered(result.call_id), "output": _output(result)}
    if not message.results and not message.calls:
        yield _said(message.role, message.blocks)
        return
    for is_call, blocks in groupby(message.blocks, lambda block: isinstance(block, ToolCall)):
        if is_call:
            yield from (_call(block, ids) for block in blocks if isinstance(block, ToolCall))
        elif not message.results:
            yield _said(message.role, tuple(blocks))


def _said(role: str, blocks: Sequence[object]) -> Json:
    kind = "input_text" if role == "user" else "output_text"
    content = [_image(it) if isinstance(it, Media) else {"type": kind, "text": it} for it in blocks]
    return {"type": "message", "role": role, "content": content}


def _call(call: ToolCall, ids: CallIds) -> Json:
    arguments = call.arguments or "{}"
    return {
        "type": "function_call",
        "call_id": ids.called(call.id),
        "name": name_for(call.name),
        "arguments": arguments,
    }


def _output(result: ToolResult) -> str | list[Json]:
    if all(isinstance(block, str) for block in result.blocks):
        return result.text
    return [_image(it) if isinstance(it, Media) else {"type": "input_text", "text": it} for it in result.blocks]


def _image(media: Media) -> Json:
    return {"type": "input_image", "image_url": f"data:{media.mime_type};base64,{media.data}"}
