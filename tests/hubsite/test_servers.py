"""The same application under daphne (the hub command) and uvicorn: answers, hang-ups, crowds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import httpx
import psutil
import pytest

from tests.asking import CHAT, answer_of, ask, chunks_of, error_of, streamed_text
from tests.hub import HubProcess, running_hub

MB = 1024 * 1024
WAIT_S = 20
FREED_WITHIN_S = 0.5
# What a worker's next turn costs on a busy machine, beside the wait for the worker.
TURN_S = 0.5
LONG = "[[chunks=20 delay=1]] a long answer"


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub under each server."""
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1"}
    with running_hub(tmp_path_factory.mktemp("served"), env=env, server=request.param) as started:
        yield started


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with a single worker: a turn that is not let go of keeps everybody else out."""
    env = {"HUB_PROVIDERS": "echo", "HUB_ECHO_CEILING": "1", "HUB_SHUTDOWN_GRACE_S": "1", "HUB_QUEUE_WAIT_S": "5"}
    with running_hub(tmp_path_factory.mktemp("narrow"), env=env, server=request.param) as started:
        yield started


@pytest.fixture
def client(served: HubProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, headers=served.headers, timeout=WAIT_S) as made:
        yield made


def test_answers_whole_and_streamed(client: httpx.Client) -> None:
    assert answer_of(client.post(CHAT, json=ask("Hello there"))) == "Hello there"
    response = client.post(CHAT, json=ask("Hello there", stream=True, stream_options={"include_usage": True}))
    assert streamed_text(response) == "Hello there"
    assert chunks_of(response)[-1]["usage"]["total_tokens"] == 19
    assert response.headers["X-Hub-Provider"] == "echo"


def test_pieces_arrive_while_the_answer_is_being_written(client: httpx.Client) -> None:
    arrived = []
    with client.stream("POST", CHAT, json=ask("[[chunks=3 delay=0.3]] piece by piece", stream=True)) as response:
        for line in response.iter_lines():
            if '"content":"' in line:
                arrived.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(arrived[1:])]
    assert len(gaps) == 2
    assert min(gaps) > 0.1


def test_errors_have_one_shape(client: httpx.Client) -> None:
    assert error_of(client.post(CHAT, content=b"{"))["code"] == "invalid_json"
    assert error_of(client.get("/v1/nothing"))["code"] == "not_found"
    assert error_of(client.get("/nothing"))["code"] == "not_found"
    assert error_of(client.get(CHAT))["code"] == "method_not_allowed"
    assert error_of(client.get("/v1/models", headers={"Authorization": "Bearer no"}))["code"] == "invalid_api_key"
    assert error_of(client.get("/health", headers={"Host": "evil.example"}))["code"] == "bad_request"


def test_large_prompt_comes_back_whole(client: httpx.Client) -> None:
    text = "höher \U0001f98a\n" * (MB // 8)
    assert answer_of(client.post(CHAT, json=ask(text))) == text
    assert streamed_text(client.post(CHAT, json=ask(text, stream=True))) == text


def test_health_and_admin_are_served(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "healthy"
    assert "csrfmiddlewaretoken" in client.get("/admin/login/?next=/admin/").text
    assert client.get("/static/admin/css/base.css").status_code == 200


@contextlib.asynccontextmanager
async def crowd(hub: HubProcess) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(WAIT_S)
    async with aiohttp.ClientSession(hub.url, headers=hub.headers, connector=connector, timeout=timeout) as session:
        yield session


async def one_of_a_crowd(session: aiohttp.ClientSession, number: int, stream: bool) -> None:
    text = f"number {number} speaking"
    async with session.post(CHAT, json=ask(text, stream=stream)) as response:
        assert response.status == 200
        body = await response.text()
    if stream:
        *chunks, end = [line[6:] for line in body.split("\n") if line]
        assert end == "[DONE]"
        assert "".join(json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
    else:
        assert json.loads(body)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_hundred_at_once_are_all_answered_with_their_own_words(served: HubProcess, stream: bool) -> None:
    async with crowd(served) as session, asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(one_of_a_crowd(session, number, stream))


def hang_up(connection: socket.socket, how: str) -> None:
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send(hub: HubProcess, text: str, *, stream: bool) -> socket.socket:
    """A request on its way; nothing of the answer is read."""
    body = json.dumps(ask(text, stream=stream)).encode()
    connection = socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT_S)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {hub.key}\r\nContent-Length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


def wait_until_busy(hub: HubProcess, connection: socket.socket, *, stream: bool) -> None:
    """Until the worker is at the turn: its first words, or, for a whole answer, a queue behind it."""
    if stream:
        seen = b""
        while b'"content":"[' not in seen:
            seen += connection.recv(65_536)
        return
    ends_at = time.monotonic() + WAIT_S
    while time.monotonic() < ends_at:
        try:
            httpx.post(hub.url + CHAT, json=ask("Anybody?"), headers=hub.headers, timeout=0.3)
        except httpx.ReadTimeout:
            return
    pytest.fail("the worker never became busy")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_client_that_hangs_up_frees_the_worker_at_once(narrow: HubProcess, stream: bool, how: str) -> None:
    worker = narrow.workers()
    connection = send(narrow, LONG, stream=stream)
    wait_until_busy(narrow, connection, stream=stream)
    hung_up_at = time.monotonic()
    hang_up(connection, how)
    assert answer_of(httpx.post(narrow.url + CHAT, json=ask("My turn"), headers=narrow.headers)) == "My turn"
    assert time.monotonic() - hung_up_at < FREED_WITHIN_S + TURN_S
    assert narrow.workers() == worker


def test_client_that_hangs_up_in_the_queue_leaves_it(narrow: HubProcess) -> None:
    holder = send(narrow, LONG, stream=True)
    wait_until_busy(narrow, holder, stream=True)
    for _ in range(20):
        hang_up(send(narrow, LONG, stream=False), "close")
    hang_up(holder, "close")
    assert answer_of(httpx.post(narrow.url + CHAT, json=ask("My turn"), headers=narrow.headers)) == "My turn"


def folders_of(hub: HubProcess) -> set[Path]:
    return set((hub.data_dir / "run" / "workers").glob("*"))


async def abort_one(hub: HubProcess, seats: asyncio.Semaphore, number: int) -> None:
    """Hang up at one of several moments: before the answer, at its head, in its midst."""
    body = json.dumps(ask("[[chunks=50 delay=0.05]] never read to its end", stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {hub.key}\r\nContent-Length: {len(body)}"
    async with seats, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()
        try:
            if number % 3:
                await reader.readuntil(b"\r\n\r\n" if number % 3 == 1 else b'"content":"[')
        finally:
            writer.transport.abort()


async def test_thousand_aborted_streams_leave_nothing_behind(served: HubProcess) -> None:
    hub = psutil.Process(served.pid)
    await abort_many(served, 100)
    before = hub.memory_info().rss, hub.num_fds()
    await abort_many(served, 900)
    async with crowd(served) as session:
        await one_of_a_crowd(session, 1, stream=True)
    workers = served.workers()
    assert len(workers) <= 16
    assert len(folders_of(served)) == len(workers)
    assert all(not list((folder / "tmp").iterdir()) for folder in folders_of(served))
    assert hub.memory_info().rss - before[0] < 20 * MB
    assert hub.num_fds() - before[1] <= 50


async def abort_many(hub: HubProcess, count: int) -> None:
    seats = asyncio.Semaphore(16)
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(abort_one(hub, seats, number))
