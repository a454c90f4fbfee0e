"""How a hub ends: running turns are finished, new ones refused, and no process is left, however it goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.asking import CHAT, ask, data_lines, error_of
from tests.hub import HubProcess, running_hub

WAIT_S = 15
ECHO = {"HUB_PROVIDERS": "echo"}


@contextlib.contextmanager
def watched_hub(folder: Path, **env: str) -> Iterator[HubProcess]:
    """A hub of which nothing may be left at the end: no process, and no worker's folder."""
    with running_hub(folder, env=ECHO | env) as hub:
        children = hub.children()
        assert children
        yield hub
        assert_gone(children)


def assert_gone(processes: list[psutil.Process]) -> None:
    assert not psutil.wait_procs(processes, timeout=WAIT_S)[1]


def folders_of(hub: HubProcess) -> list[Path]:
    return list((hub.data_dir / "run" / "workers").glob("*"))


@contextlib.asynccontextmanager
async def running_stream(hub: HubProcess, text: str) -> AsyncIterator[AsyncIterator[str]]:
    """A stream that has begun: the lines from its first piece of text on."""
    async with (
        httpx.AsyncClient(base_url=hub.url, headers=hub.headers, timeout=WAIT_S) as client,
        client.stream("POST", CHAT, json=ask(text, stream=True)) as response,
    ):
        assert response.status_code == 200
        lines = response.aiter_lines()
        async for line in lines:
            if line.startswith("data: ") and '"role"' not in line:
                break
        yield lines


async def end_of(hub: HubProcess) -> int:
    assert hub.process is not None
    return await asyncio.to_thread(hub.process.wait, WAIT_S)


async def refusal_of(hub: HubProcess) -> httpx.Response:
    """The first refusal after a signal; until it has arrived, requests are still answered."""
    async with httpx.AsyncClient(base_url=hub.url, headers=hub.headers, timeout=WAIT_S) as client:
        ends_at = time.monotonic() + WAIT_S
        while (response := await client.post(CHAT, json=ask("Hi"))).status_code == 200:
            assert time.monotonic() < ends_at
        return response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_turn_is_finished_and_new_ones_are_refused(tmp_path: Path, number: signal.Signals) -> None:
    with watched_hub(tmp_path) as hub:
        async with running_stream(hub, "[[chunks=4 delay=0.5]] to the end") as lines:
            hub.send_signal(number)
            refusal = await refusal_of(hub)
            assert (refusal.status_code, error_of(refusal)["code"]) == (503, "shutting_down")
            async with httpx.AsyncClient() as client:
                health = await client.get(f"{hub.url}/health")
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert await end_of(hub) == 0
        assert folders_of(hub) == []
        assert "Traceback" not in hub.log.read_text()


def test_idle_hub_ends_at_once(tmp_path: Path) -> None:
    with watched_hub(tmp_path) as hub:
        started_at = time.monotonic()
        assert hub.stop() == 0
        assert time.monotonic() - started_at < 5
        assert folders_of(hub) == []


async def test_turn_that_outlasts_the_grace_period_ends_with_an_error_line(tmp_path: Path) -> None:
    with watched_hub(tmp_path, HUB_SHUTDOWN_GRACE_S="0.5") as hub:
        async with running_stream(hub, "[[chunks=2 delay=60]] too long") as lines:
            hub.send_signal(signal.SIGTERM)
            rest = "\n".join([line async for line in lines])
        assert '"error"' in data_lines(rest)[-1]
        assert "[DONE]" not in rest
        assert await end_of(hub) == 0
        assert folders_of(hub) == []


async def test_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    with watched_hub(tmp_path, HUB_SHUTDOWN_GRACE_S="600") as hub:
        async with running_stream(hub, "[[chunks=2 delay=60]] too long"):
            hub.send_signal(signal.SIGTERM)
            await refusal_of(hub)
            hub.send_signal(signal.SIGINT)
            assert await end_of(hub) == 0


async def test_request_that_never_comes_whole_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with watched_hub(tmp_path) as hub:
        _, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        assert await asyncio.to_thread(hub.stop) == 0
        writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_killed_hub_leaves_no_process_and_the_next_one_sweeps_its_folders(tmp_path: Path) -> None:
    with running_hub(tmp_path, env=ECHO) as hub:
        async with contextlib.AsyncExitStack() as streams:
            # One that hears neither the end of its input nor SIGTERM.
            await streams.enter_async_context(running_stream(hub, "[[do=ignore_signals]] deaf"))
            children = hub.children()
            left = folders_of(hub)
            assert children
            assert left
            hub.send_signal(signal.SIGKILL)
            assert await end_of(hub) == -signal.SIGKILL
            assert_gone(children)
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                await streams.aclose()
        with running_hub(tmp_path, env=ECHO) as following:
            assert not set(left) & set(folders_of(following))
            async with httpx.AsyncClient(headers=following.headers, timeout=WAIT_S) as client:
                assert (await client.post(following.url + CHAT, json=ask("Hi"))).status_code == 200


async def test_uvicorn_finishes_running_turns_too(tmp_path: Path) -> None:
    with running_hub(tmp_path, env=ECHO, server="uvicorn") as hub:
        children = hub.children()
        async with running_stream(hub, "[[chunks=4 delay=0.2]] to the end") as lines:
            hub.send_signal(signal.SIGTERM)
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert await end_of(hub) in (0, -signal.SIGTERM)
        assert_gone(children)
        assert folders_of(hub) == []


def test_uvicorn_with_several_workers_is_refused_clearly(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path, env=ECHO)
    argv = (sys.executable, "-m", "uvicorn", "hubsite.asgi:application", "--workers", "2", "--port", "0")
    try:
        ran = hub.run_program(*argv, timeout_s=WAIT_S * 2)
    except subprocess.TimeoutExpired:
        pytest.fail("uvicorn goes on with several workers")
    # uvicorn's own exit code is 0 even then.
    assert "run it with a single server process" in ran.stderr
    assert "Stopping parent process" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not folders_of(hub)
