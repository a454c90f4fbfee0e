"""/health/live and /health/ready: who is to be started again, and who is to get no more requests."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.asking import CHAT, WAIT_S, answer_of, ask, begun_stream, client_of, data_lines, eventually
from tests.hub import HubProcess, running_hub
from tests.redis_server import RedisServer, running_redis

ECHO = {"HUB_PROVIDERS": "echo", "HUB_ECHO_CEILING": "1", "HUB_REDIS_TIMEOUT_S": "0.5"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis"), port=0) as server:
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[HubProcess]:
    with running_hub(tmp_path_factory.mktemp("hub"), env=ECHO | {"REDIS_URL": redis.url}) as started:
        yield started


def state_at(hub: HubProcess, path: str) -> tuple[int, dict[str, object]]:
    response = httpx.get(hub.url + path, timeout=WAIT_S)
    return response.status_code, dict(response.json())


def test_a_hub_that_serves_is_live_and_ready(hub: HubProcess) -> None:
    assert state_at(hub, "/health/live") == (200, {"status": "live"})
    assert state_at(hub, "/health/ready") == (200, {"status": "ready", "reasons": []})
    assert httpx.head(f"{hub.url}/health/ready").status_code == 200
    assert httpx.post(f"{hub.url}/health/live").status_code == 405


def test_without_redis_it_is_live_but_not_ready_and_heals(hub: HubProcess, redis: RedisServer) -> None:
    redis.kill()
    try:
        eventually(lambda: state_at(hub, "/health/ready")[0] == 503)
        assert state_at(hub, "/health/ready")[1] == {"status": "not_ready", "reasons": ["redis_away"]}
        assert state_at(hub, "/health/live")[0] == 200
        assert state_at(hub, "/health")[1]["status"] == "degraded"
    finally:
        redis.start()
    eventually(lambda: state_at(hub, "/health/ready")[0] == 200)


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_readiness_goes_first_and_the_hub_serves_on(tmp_path: Path, server: str) -> None:
    """HUB_DRAIN_S: the balancer has that long to notice, and connections are not kept."""
    with running_hub(tmp_path, env=ECHO | {"HUB_DRAIN_S": "3"}, server=server) as hub:
        with client_of(hub, hub.key) as client:
            assert "Connection" not in client.get("/v1/models").headers
            hub.send_signal(signal.SIGTERM)
            eventually(lambda: state_at(hub, "/health/ready")[0] == 503)
            assert state_at(hub, "/health/ready")[1]["reasons"] == ["draining"]
            assert state_at(hub, "/health")[0] == 503
            assert state_at(hub, "/health/live")[0] == 200
            answered = client.post(CHAT, json=ask("Still there"))
            assert answer_of(answered) == "Still there"
            assert answered.headers["Connection"] == "close"
        assert hub.process is not None
        assert hub.process.wait(WAIT_S) in (0, -signal.SIGTERM)


def test_what_came_in_before_the_door_shut_is_answered(tmp_path: Path) -> None:
    """Also what waits for the only worker; whoever comes later finds the door shut and can ask elsewhere."""
    with running_hub(tmp_path, env=ECHO | {"HUB_DRAIN_S": "0.3", "HUB_SHUTDOWN_GRACE_S": "20"}) as hub:
        waiting: list[httpx.Response] = []
        with client_of(hub, hub.key) as client, client_of(hub, hub.key) as other:
            with begun_stream(client, ask("[[chunks=5 delay=0.5]] first")) as lines:
                asked = threading.Thread(target=lambda: waiting.append(other.post(CHAT, json=ask("second"))))
                asked.start()
                time.sleep(0.1)  # it is to wait when the signal comes; if it is late, it still comes within the drain
                hub.send_signal(signal.SIGTERM)
                eventually(lambda: is_refused(hub.port))
                rest = data_lines("\n".join(lines))
            asked.join(WAIT_S)
        assert rest[-1] == "[DONE]"
        assert answer_of(waiting[0]) == "second"
        assert hub.process is not None
        assert hub.process.wait(WAIT_S) == 0


def is_refused(port: int) -> bool:
    with contextlib.closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_a_second_signal_cuts_the_drain_short(tmp_path: Path) -> None:
    with running_hub(tmp_path, env=ECHO | {"HUB_DRAIN_S": "600"}) as hub:
        hub.send_signal(signal.SIGTERM)
        eventually(lambda: state_at(hub, "/health/ready")[0] == 503)
        assert hub.stop(signal.SIGTERM) == 0


def test_nobody_is_let_in_before_the_engine_is_up(tmp_path: Path) -> None:
    """A balancer that finds an open door sends requests: the first one to get through has to be answered."""
    hub = HubProcess(tmp_path, env=ECHO)
    statuses: list[int] = []
    ended = threading.Event()

    def knock() -> None:
        while not ended.is_set():
            with contextlib.suppress(httpx.TransportError):
                statuses.append(httpx.get(f"{hub.url}/health/ready").status_code)
                ended.set()

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        hub.start()
        knocking.join(WAIT_S)
        assert statuses == [200]
    finally:
        ended.set()
        hub.close()
