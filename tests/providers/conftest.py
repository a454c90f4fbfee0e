from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psutil
import pytest

from tests.providers.fakes import Clock, Starter, until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("planning", "waiting", "breaker", "worker", "host", "pool"):
        monkeypatch.setattr(f"providers.{module}.time", clock)
    return clock


@pytest.fixture
def starter(clock: Clock) -> Starter:
    return Starter(clock)


@pytest.fixture
def short_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what follows a stop, not of the stop itself."""
    monkeypatch.setattr("providers.process.STDIN_GRACE_S", 0.1)
    monkeypatch.setattr("providers.process.TERM_GRACE_S", 0.2)


def below(processes: set[psutil.Process]) -> set[psutil.Process]:
    """What other programs start by themselves: the hub of other tests refills its pools whenever it likes."""
    found: set[psutil.Process] = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(process.children(recursive=True))
    return found


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """After the test there is no child process, no task and no open pipe that was not there before."""
    me, before = psutil.Process(), asyncio.all_tasks()
    children, pipes = set(me.children(recursive=True)), me.num_fds()

    def left() -> tuple[object, ...]:
        tasks = asyncio.all_tasks() - before - {asyncio.current_task()}
        processes = set(me.children(recursive=True)) - children - below(children)
        return (*tasks, *(it for it in processes if it.is_running()), *range(me.num_fds() - pipes))

    yield
    with contextlib.suppress(TimeoutError):
        await until(lambda: not left())
    found = left()
    for task in asyncio.all_tasks() - before - {asyncio.current_task()}:
        task.cancel()  # one failing test is enough
    assert found == ()
