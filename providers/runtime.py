"""The engine of this process: started once by whoever serves (the hub command, an ASGI server), used by the doors."""

from __future__ import annotations

from django.conf import settings

from providers.engine import Engine
from providers.errors import ShuttingDown

_running: list[Engine] = []


def engine() -> Engine:
    """The running engine. Raises ShuttingDown when there is none (before the start, after the end)."""
    if not _running:
        raise ShuttingDown("the hub is not running")
    return _running[0]


def make_engine() -> Engine:
    """An engine by this project's settings, not started."""
    return Engine(
        settings.HUB_PROVIDER_CONFIGS,
        data_folder=settings.HUB_DATA_DIR,
        environ=settings.HUB_ENVIRON,
        max_starts=settings.HUB_MAX_STARTS,
    )


async def start() -> Engine:
    """Make and start the engine of this process."""
    started = make_engine()
    _running[:] = [started]
    await started.start()
    return started


async def stop(*, grace_s: float) -> None:
    """End the engine and every child process; running turns get `grace_s` seconds."""
    if _running:
        await _running[0].close(grace_s=grace_s)
        _running.clear()
