"""The engine of this process: started once by whoever serves (the hub command, an ASGI server), used by the doors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings

from providers.cooldowns import Board
from providers.engine import Engine
from providers.errors import ShuttingDown
from providers.rows import Rows, first_rows, known_rows
from providers.throttle import Throttle

T = TypeVar("T")

ASK_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Running:
    engine: Engine
    loop: asyncio.AbstractEventLoop
    applying: asyncio.Lock


_running: list[_Running] = []


def engine() -> Engine:
    """The running engine. Raises ShuttingDown when there is none (before the start, after the end)."""
    return _here().engine


def _here() -> _Running:
    if not _running:
        raise ShuttingDown("the hub is not running")
    return _running[0]


def make_engine(
    rows: Rows | None = None,
    *,
    board: Board | None = None,
    throttle: Throttle | None = None,
    is_guest: bool = False,
) -> Engine:
    """An engine by this project's settings and rows (asked for if not given, which blocks), not started."""
    rows = rows or known_rows()
    return Engine(
        rows.configs,
        rules=rows.rules,
        fallback_chain=settings.HUB_PROVIDER_SETTINGS.fallback_chain,
        data_folder=settings.HUB_DATA_DIR,
        environ=settings.HUB_ENVIRON,
        max_starts=settings.HUB_MAX_STARTS,
        limits=settings.HUB_HOST_LIMITS,
        board=board,
        throttle=throttle,
        is_guest=is_guest,
    )


def ask_engine(question: Callable[[Engine], T]) -> T:
    """What the running engine says, for threads other than its own: it is asked on its event loop.

    Raises ShuttingDown when there is none in this process or it gives no answer, and whatever the question raises.
    """
    here = _here()

    async def answer() -> T:
        return question(here.engine)

    try:
        return asyncio.run_coroutine_threadsafe(answer(), here.loop).result(ASK_WAIT_S)
    except TimeoutError as exc:
        raise ShuttingDown(f"the hub gave no answer within {ASK_WAIT_S:g} s") from exc


async def apply_rows(read: Callable[[], Awaitable[Rows]]) -> Rows:
    """Read the rows and have the engine go by them, at once. Raises what reading raises.

    One after the other: rows that were read earlier must not undo what later ones say.
    """
    here = _here()
    async with here.applying:
        rows = await read()
        await here.engine.apply(rows.configs, rows.rules)
    return rows


async def start(*, board: Board | None = None, throttle: Throttle | None = None, is_guest: bool = False) -> Engine:
    """Make and start the engine of this process; a guest's is not the data folder's only one."""
    rows = await sync_to_async(first_rows)()
    started = make_engine(rows, board=board, throttle=throttle, is_guest=is_guest)
    _running[:] = [_Running(started, asyncio.get_running_loop(), asyncio.Lock())]
    await started.start()
    return started


async def stop(*, grace_s: float) -> None:
    """End the engine and every child process; running turns get `grace_s` seconds."""
    if _running:
        await _running[0].engine.close(grace_s=grace_s)
        _running.clear()
