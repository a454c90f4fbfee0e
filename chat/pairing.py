"""Calls and their results: a vendor takes a call only with its result right after it, and a result only of a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chat.errors import BadRequest
from providers.events import Message, ToolCall, ToolResult

# In a conversation that goes on without a result: its agent was stopped, or asked something else.
NO_RESULT = "There is no result: the call was not carried out."


def paired(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with a result for every call. Raises BadRequest for a result that belongs to none."""
    if not any(message.calls or message.results for message in messages):
        return tuple(messages)
    whole: list[Message] = []
    waiting: dict[str, ToolCall] = {}
    for message in messages:
        for result in message.results:
            if waiting.pop(result.call_id, None) is None:
                raise BadRequest(
                    f"the tool message for {result.call_id[:80]!r} has no call of that id in the assistant message "
                    "before it",
                    param="messages",
                )
        if not message.results:
            whole += _missing(waiting)
            waiting = {call.id: call for call in message.calls}
        whole.append(message)
    return (*whole, *_missing(waiting))


def _missing(calls: Iterable[str]) -> list[Message]:
    return [Message("tool", (ToolResult(call_id, (NO_RESULT,), is_error=True),)) for call_id in calls]
