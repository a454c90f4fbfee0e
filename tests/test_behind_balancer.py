"""Two hubs behind the balancers of deploy/: streams come through as they are written, and a rolling restart of both
under load fails no request."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from itertools import pairwise

import aiohttp
import httpx
import pytest

from tests.asking import CHAT, ask, client_of, eventually
from tests.balancers import find_caddy, find_nginx, running_caddy, running_nginx
from tests.hub import HubProcess
from tests.programs import lacking
from tests.redis_server import running_redis

WAIT_S = 20
# Caddy asks every two seconds whether a hub is there, and waits up to three for an answer: it has to notice before the
# door is shut, and that a hub is back before the other one goes.
DRAIN_S = 3
NOTICE_S = 2.5
CLIENTS = 4
BALANCERS = {"nginx": (find_nginx, running_nginx), "caddy": (find_caddy, running_caddy)}


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[HubProcess]]:
    """Two that share Redis and the database."""
    folder = tmp_path_factory.mktemp("two")
    with running_redis(folder / "redis", port=0) as redis:
        env = {
            "HUB_PROVIDERS": "echo",
            "REDIS_URL": redis.url,
            "DATABASE_URL": f"sqlite:///{folder / 'shared.sqlite3'}",
            "HUB_TRUSTED_PROXIES": "127.0.0.1",
            "HUB_DRAIN_S": str(DRAIN_S),
            "HUB_SHUTDOWN_GRACE_S": "10",
        }
        both = [HubProcess(folder / name, env=env) for name in ("first", "second")]
        try:
            for hub in both:  # one after the other: nobody makes SQLite's tables twice
                hub.start()
            yield both
        finally:
            with ThreadPoolExecutor() as pool:
                list(pool.map(HubProcess.close, both))


@pytest.fixture(scope="module")
def urls(hubs: list[HubProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of each balancer that is installed."""
    upstreams = [f"127.0.0.1:{hub.port}" for hub in hubs]
    with ExitStack() as stack:
        started = {}
        for name, (find, running) in BALANCERS.items():
            if program := find():
                started[name] = stack.enter_context(running(program, tmp_path_factory.mktemp(name), upstreams))
        yield started


@pytest.fixture(params=BALANCERS)
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return required(urls, request.param)


def required(urls: dict[str, str], name: str) -> str:
    if name not in urls:
        lacking(name, f"{name} is not installed; Debian: apt-get install {name}")
    return urls[name]


def test_pieces_come_through_while_the_answer_is_being_written(url: str, hubs: list[HubProcess]) -> None:
    arrived = []
    with (
        httpx.Client(base_url=url, headers=hubs[0].headers, timeout=WAIT_S) as client,
        client.stream("POST", CHAT, json=ask("[[chunks=4 delay=0.3]] piece by piece", stream=True)) as response,
    ):
        assert response.status_code == 200
        for line in response.iter_lines():
            if '"content":"' in line:
                arrived.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(arrived[1:])]
    assert len(gaps) == 3
    assert min(gaps) > 0.1


async def test_websocket_handshake_reaches_the_hub(url: str, hubs: list[HubProcess]) -> None:
    """Whatever the hub says to it, it says the same through the balancer: its own 101, or its own refusal."""
    assert await handshake_of(url) == await handshake_of(hubs[0].url)


async def handshake_of(url: str) -> int:
    async with aiohttp.ClientSession() as client:
        try:
            async with client.ws_connect(f"{url}/ws/chat/", timeout=aiohttp.ClientWSTimeout(ws_close=WAIT_S)):
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status


def test_a_body_too_large_is_refused_in_the_hubs_own_words(url: str, hubs: list[HubProcess]) -> None:
    text = "x" * (16 * 1024 * 1024)
    response = httpx.post(url + CHAT, json=ask(text), headers=hubs[0].headers, timeout=WAIT_S)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_metrics_stay_inside(url: str) -> None:
    assert httpx.get(f"{url}/metrics").status_code == 404


async def test_a_rolling_restart_under_load_fails_no_request(urls: dict[str, str], hubs: list[HubProcess]) -> None:
    """Unready first, then drained, then gone: for each hub in turn, until it is ready again and was noticed."""
    if not urls:
        required(urls, "nginx")
    loads = {name: Load(url, hubs[0].headers) for name, url in urls.items()}
    async with AsyncExitStack() as stack:
        for load in loads.values():
            await stack.enter_async_context(load)
        for hub in hubs:
            before = [load.answered for load in loads.values()]
            await asyncio.to_thread(restart, hub)
            await asyncio.sleep(NOTICE_S)
            assert all(load.answered > was for load, was in zip(loads.values(), before, strict=True))
    assert {name: load.failures for name, load in loads.items() if load.failures} == {}
    assert min(load.answered for load in loads.values()) > 50


def restart(hub: HubProcess) -> None:
    hub.stop(signal.SIGTERM)
    hub.start()
    with client_of(hub, hub.key) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)


class Load:
    """So many clients that ask all the time, streamed and whole, each on its connection or on new ones."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.failures: list[str] = []
        self.answered = 0
        self._url, self._headers = url, headers
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._ask_on(number), name=f"client {number}") for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ended.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*self._tasks)

    async def _ask_on(self, number: int) -> None:
        connector = aiohttp.TCPConnector(force_close=number % 2 == 0)
        async with aiohttp.ClientSession(self._url, headers=self._headers, connector=connector) as client:
            while not self._ended.is_set():
                await self._ask(client, is_streamed=number % 3 == 0)

    async def _ask(self, client: aiohttp.ClientSession, *, is_streamed: bool) -> None:
        body = ask("[[chunks=5 delay=0.05]] all of it", stream=is_streamed)
        try:
            async with client.post(CHAT, json=body, timeout=aiohttp.ClientTimeout(WAIT_S)) as response:
                text = await response.text()
                is_right = "[DONE]" in text if is_streamed else "all of it" in text
                if response.status == 200 and is_right:
                    self.answered += 1
                else:
                    self.failures.append(f"{response.status}: {text[-200:]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(repr(error))
