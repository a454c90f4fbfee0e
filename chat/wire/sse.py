"""A stream of server-sent events that is honest: alive while silent, and never a half answer that looks whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import orjson

from chat.wire.openai_answer import ChunkWriter
from providers.errors import ProtocolBroken
from providers.events import Event, TurnFinished

logger = logging.getLogger(__name__)

HEARTBEAT = b": still working\n\n"


async def as_sse(
    events: AsyncGenerator[Event, None],
    writer: ChunkWriter,
    *,
    heartbeat_s: float,
    describe_error: Callable[[Exception], object],
) -> AsyncGenerator[bytes, None]:
    """The rest of a turn whose first event has come.

    A failure on the way becomes one error line, without `[DONE]`. Closing this closes `events`.
    """
    upcoming: asyncio.Task[Event | None] | None = None
    is_finished = False
    try:
        yield writer.first()
        while True:
            upcoming = asyncio.ensure_future(anext(events, None))
            while not (await asyncio.wait({upcoming}, timeout=heartbeat_s))[0]:
                yield HEARTBEAT
            event = upcoming.result()
            if event is None and is_finished:
                return
            if event is None:
                raise ProtocolBroken("the turn ended before its answer did")
            is_finished = isinstance(event, TurnFinished)
            if chunk := writer.write(event):
                yield chunk
    except Exception as exc:
        yield b"data: " + orjson.dumps(describe_error(exc)) + b"\n\n"
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await upcoming
        await events.aclose()
