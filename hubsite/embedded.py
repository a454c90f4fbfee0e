"""`run_mcp` without a hub: the same engine, conversations and limits in this very process, served over its pipes.

Standard output is the protocol's alone: it is put aside before Django is loaded, and whatever else writes there lands
on standard error.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import sys
from dataclasses import replace
from typing import Any, BinaryIO

# The client ends it with SIGTERM and then kills it; what runs must be gone before that.
STOP_WAIT_S = 5.0
PARENT_LOOK_S = 2.0
ADDRESS = "stdio"

logger = logging.getLogger(__name__)


def serve(key: str) -> int:
    """Serve until the client leaves or a signal comes; without a key, as this machine. Returns an exit code."""
    parent, wire = os.getppid(), _take_pipes()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hubsite.settings")
    import django

    django.setup()
    trouble = _prepare()
    if trouble:
        sys.stderr.write(f"run_mcp can't start: {trouble}\n")
        return 1
    return asyncio.run(_serve(key or _local_key(), wire, parent))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the client's pipes, and leave nothing in their place that a child or a print could spoil."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return pipes


def _prepare() -> str:
    """What has to be there before the engine is; returns what is wrong, empty if nothing is."""
    from django.conf import settings
    from django.core.checks import Error, run_checks

    from hubsite.first_run import ensure_local_key, one_at_a_time, prepare_data_folder

    faults = [it for it in run_checks() if isinstance(it, Error) and it.is_serious()]
    if faults:
        return "; ".join(f"{it.msg} ({it.hint})" for it in faults)
    try:
        with one_at_a_time(settings.HUB_DATA_DIR):
            prepare_data_folder(settings.HUB_DATA_DIR)
            ensure_local_key(settings.HUB_DATA_DIR)
    except Exception as error:  # the database's, the file system's: the client shows no more than a line
        logger.exception("preparing the data folder")
        return str(error)
    # Clients start several of these, many of which are never asked: CLIs start with the first question.
    known = settings.HUB_PROVIDER_SETTINGS
    configs = {name: replace(it, pool=replace(it.pool, floor=0)) for name, it in known.configs.items()}
    settings.HUB_PROVIDER_SETTINGS = replace(known, configs=configs)
    settings.HUB_HOST_LIMITS = replace(settings.HUB_HOST_LIMITS, cgroups=False)
    return ""


def _local_key() -> str:
    from django.conf import settings

    return str((settings.HUB_DATA_DIR / "local.key").read_text().strip())


async def _serve(key: str, wire: tuple[BinaryIO, BinaryIO], parent: int) -> int:
    from chat.auth import gate
    from chat.errors import ChatError
    from hubsite.life import Life

    life = Life(is_guest=True)
    try:
        await life.start()
        caller = await gate().admit(key, address=ADDRESS)
        caller.require("mcp")
        await _talk(key, wire, parent)
        code = 0
    except ChatError as error:
        sys.stderr.write(f"run_mcp can't start: {error.message}\n")
        code = 1
    except Exception:
        logger.exception("run_mcp")
        code = 1
    await _end(life)
    # The thread that reads standard input may sit in its read for ever, and would be waited for.
    logging.shutdown()
    os._exit(code)


async def _talk(key: str, wire: tuple[BinaryIO, BinaryIO], parent: int) -> None:
    """Until the input ends, a signal comes or the parent is gone."""
    from chat.auth import gate
    from mcpbridge.changes import Changes
    from mcpbridge.server import build_server

    changes = Changes()
    server = build_server(changes, lambda: gate().admit(key, address=ADDRESS))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    served = loop.create_task(_exchange(server, wire), name="MCP on stdio")
    others = {loop.create_task(stop.wait()), loop.create_task(_end_of(parent))}
    await asyncio.wait({served, *others}, return_when=asyncio.FIRST_COMPLETED)
    await changes.stop()
    if not served.done():
        served.cancel()  # and not waited for: its reader may sit in a read that nothing ends
    elif (error := served.exception()) is not None:
        raise error


async def _exchange(server: Any, wire: tuple[BinaryIO, BinaryIO]) -> None:
    import anyio
    from mcp.server.stdio import stdio_server

    from mcpbridge.eras import serve_both_eras

    reading, writing = (io.TextIOWrapper(it, encoding="utf-8", errors="replace") for it in wire)
    async with stdio_server(anyio.wrap_file(reading), anyio.wrap_file(writing)) as (read, write):
        await serve_both_eras(server._lowlevel_server, read, write)


async def _end_of(parent: int) -> None:
    """A client that was killed closes no pipe that somebody else holds, too."""
    while os.getppid() == parent:  # noqa: ASYNC110 (nobody announces it)
        await asyncio.sleep(PARENT_LOOK_S)


async def _end(life: Any) -> None:
    try:
        async with asyncio.timeout(STOP_WAIT_S):
            await life.stop(grace_s=0)
    except Exception:
        logger.exception("ending")
