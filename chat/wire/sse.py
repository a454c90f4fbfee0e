"""A stream of server-sent events that is honest: never a half answer that looks whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

import orjson

from chat.ask import Note
from providers.errors import ProtocolBroken
from providers.events import Event, TurnFinished

# A comment, which clients skip; the door sends it while an answer is silent.
HEARTBEAT = b": still working\n\n"


class Writer(Protocol):
    """Writes the stream in a client's dialect: what it begins with, and what becomes of each event."""

    def first(self) -> bytes: ...

    def write(self, event: Note | Event) -> bytes: ...


def error_line(body: Any) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def as_sse(
    events: AsyncGenerator[Note | Event, None],
    writer: Writer,
    *,
    describe_error: Callable[[Exception], object],
    write_error: Callable[[Any], bytes] = error_line,
) -> AsyncGenerator[bytes, None]:
    """The rest of a turn whose first event has come.

    A failure on the way becomes one error line, without `[DONE]`. Closing this closes `events`.
    """
    is_finished = False
    try:
        async with aclosing(events):
            yield writer.first()
            async for event in events:
                is_finished = isinstance(event, TurnFinished)
                if chunk := writer.write(event):
                    yield chunk
        if not is_finished:
            raise ProtocolBroken("the turn ended before its answer did")
    except Exception as exc:
        yield write_error(describe_error(exc))
