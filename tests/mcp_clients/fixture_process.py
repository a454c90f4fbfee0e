"""The fixture server as a child process, under either of the servers the hub runs with."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hub import ROOT, clean_env, free_port

APPLICATION = "tests.mcp_clients.fixture_asgi:application"
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


@contextlib.contextmanager
def running_fixtures(folder: Path, server: str) -> Iterator[str]:
    """The address of a server that accepts connections; it ends with the block."""
    port, log = free_port(), folder / "fixtures.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            _argv(server, port),
            cwd=ROOT,
            env=clean_env(folder, {}),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        _wait_until_ready(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


def _argv(server: str, port: int) -> list[str]:
    if server == "daphne":
        return [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), APPLICATION]
    return [sys.executable, "-m", "uvicorn", "--port", str(port), APPLICATION]


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends_at = time.monotonic() + READY_TIMEOUT_S
    while not _accepts(port):
        if process.poll() is not None or time.monotonic() > ends_at:
            raise AssertionError(f"the fixture server did not get ready:\n{log.read_text()}")
        time.sleep(0.02)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
