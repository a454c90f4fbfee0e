from __future__ import annotations

import asyncio

import pytest

from providers.tasks import Tasks
from tests.providers.fakes import turn_over

pytestmark = pytest.mark.usefixtures("nothing_left")


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("unforeseen")


async def test_a_task_that_fails_is_logged_and_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    tasks.start(forever(), name="good")
    tasks.start(fail(), name="bad")
    await turn_over()
    assert len(tasks) == 1
    assert "background task bad failed" in caplog.text
    assert "ValueError: unforeseen" in caplog.text
    await tasks.cancel()
    assert len(tasks) == 0


async def test_draining_waits_for_tasks_that_tasks_start(caplog: pytest.LogCaptureFixture) -> None:
    tasks, done = Tasks(), []

    async def nested(depth: int) -> None:
        await asyncio.sleep(0)
        if depth:
            tasks.start(nested(depth - 1), name=f"{depth}")
        done.append(depth)

    tasks.start(nested(3), name="first")
    await tasks.drain()
    assert done == [3, 2, 1, 0]
    assert caplog.records == []
