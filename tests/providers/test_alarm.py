from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from providers.alarm import Alarm

SOON_S = 0.05
LATE_S = 30.0


@pytest.fixture
async def alarm() -> AsyncIterator[Alarm]:
    alarm = Alarm()
    yield alarm
    alarm.close()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def ended(*, after_s: float = 0) -> str:
    await asyncio.sleep(after_s)
    return "done"


async def test_work_in_time_is_answered_however_often(alarm: Alarm) -> None:
    assert [await alarm.wait(ended(), LATE_S) for _ in range(3)] == ["done"] * 3


async def test_work_that_takes_too_long_is_ended(alarm: Alarm) -> None:
    with pytest.raises(TimeoutError):
        await alarm.wait(forever(), SOON_S)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await alarm.wait(ended(after_s=2 * SOON_S), LATE_S) == "done"


async def test_each_wait_has_its_own_bound(alarm: Alarm) -> None:
    """A longer one is not ended by what an earlier one had left, a shorter one not held up by it."""
    assert await alarm.wait(ended(), SOON_S) == "done"
    assert await alarm.wait(ended(after_s=2 * SOON_S), LATE_S) == "done"
    async with asyncio.timeout(LATE_S / 2):
        with pytest.raises(TimeoutError):
            await alarm.wait(forever(), SOON_S)


async def test_nobody_is_cancelled_between_two_waits(alarm: Alarm) -> None:
    assert await alarm.wait(ended(), SOON_S) == "done"
    await asyncio.sleep(3 * SOON_S)


async def test_whoever_cancels_the_task_ends_more_than_the_wait(alarm: Alarm) -> None:
    task = asyncio.create_task(alarm.wait(forever(), LATE_S))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_while_it_rings_the_task_stays_cancelled(alarm: Alarm) -> None:
    async def both() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(SOON_S, task.cancel)
        await alarm.wait(forever(), SOON_S)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(both())
