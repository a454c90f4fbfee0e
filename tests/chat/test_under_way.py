"""A turn is stopped from outside: its caller learns why, and whoever cancels its task for another reason is obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from chat.errors import TurnStopped
from chat.under_way import Stop


async def events(*, then_hang: bool) -> AsyncGenerator[int, None]:
    yield 1
    if then_hang:
        await asyncio.Event().wait()
    yield 2


async def follow(stop: Stop, source: AsyncGenerator[int, None], seen: asyncio.Event) -> list[int]:
    found = []
    while (event := await stop.wait(anext(source, None))) is not None:
        found.append(event)
        seen.set()
        stop.check()
    return found


async def waiting(stop: Stop) -> asyncio.Task[list[int]]:
    """A task that has seen one event and waits for the next."""
    seen = asyncio.Event()
    task = asyncio.create_task(follow(stop, events(then_hang=True), seen))
    await seen.wait()
    await asyncio.sleep(0)
    return task


async def test_turn_that_nobody_stops_comes_to_its_end() -> None:
    assert await follow(Stop(), events(then_hang=False), asyncio.Event()) == [1, 2]


async def test_turn_that_waits_is_stopped_and_its_task_is_not_cancelled() -> None:
    stop = Stop()
    task = await waiting(stop)
    stop.ask()
    with pytest.raises(TurnStopped):
        await task
    assert not task.cancelled()


async def test_turn_that_is_elsewhere_is_stopped_at_its_next_event() -> None:
    stop = Stop()
    stop.ask()
    with pytest.raises(TurnStopped):
        await follow(stop, events(then_hang=False), asyncio.Event())


async def test_caller_who_hangs_up_cancels_as_ever() -> None:
    task = await waiting(Stop())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_caller_who_hangs_up_while_it_is_stopped_is_obeyed() -> None:
    stop = Stop()
    task = await waiting(stop)
    task.cancel()
    stop.ask()
    with pytest.raises(asyncio.CancelledError):
        await task
