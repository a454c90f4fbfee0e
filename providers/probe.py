"""Short questions to a CLI, such as its version: one process, bounded, with nothing but the given environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Mapping

from providers.process import parent_death_argv

PROBE_TIMEOUT_S = 10.0


async def probe(
    argv: tuple[str, ...], env: Mapping[str, str], *, timeout_s: float = PROBE_TIMEOUT_S, has_stderr: bool = False
) -> bytes:
    """What the command prints to its standard output; empty if it can't be run or takes too long.

    `has_stderr` adds what it prints to its standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            process = await asyncio.create_subprocess_exec(
                *parent_death_argv(),
                *argv,
                env={**env, "TMPDIR": folder},
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT if has_stderr else asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return b""
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await process.communicate()
            return output
        except TimeoutError:
            return b""
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
