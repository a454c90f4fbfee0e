"""What was asked, as input items of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from chat.conversation import StoredMessage
from providers.events import Block, Media, ToolCall, ToolResult

Json = dict[str, Any]


def input_items(turn_id: str, messages: Iterable[StoredMessage]) -> list[Json]:
    items = [item for message in messages for item in _items(message)]
    return [{"id": f"item_{turn_id}_{number}", **item} for number, item in enumerate(items)]


def _items(message: StoredMessage) -> Iterator[Json]:
    said = message.as_message()
    parts = [_part(block, message.role) for block in said.blocks if isinstance(block, (str, Media))]
    if parts:
        yield {"type": "message", "role": message.role, "status": "completed", "content": parts}
    for block in said.blocks:
        match block:
            case ToolCall(call_id, name, arguments):
                call = {"call_id": call_id, "name": name, "arguments": arguments}
                yield {"type": "function_call", **call, "status": "completed"}
            case ToolResult(call_id, blocks):
                is_text = all(isinstance(it, str) for it in blocks)
                output = block.text if is_text else [_part(it, "user") for it in blocks]
                yield {"type": "function_call_output", "call_id": call_id, "output": output, "status": "completed"}


def _part(block: Block, role: str) -> Json:
    match block:
        case Media() if block.is_image:
            return {"type": "input_image", "detail": "auto", "image_url": _url(block)}
        case Media():
            return {"type": "input_file", "filename": block.name, "file_data": _url(block)}
    if role == "assistant":
        return {"type": "output_text", "text": block, "annotations": []}
    return {"type": "input_text", "text": block}


def _url(media: Media) -> str:
    return f"data:{media.mime_type};base64,{media.data}"
