"""Two hubs behind nginx on one Redis and one PostgreSQL, and what is done to them."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import psutil
import psycopg

from bench.clis import hub_env
from bench.command import Setup, Skipped
from bench.through_hub import HUB_ENV
from tests.balancers import find_nginx, running_nginx
from tests.hub import HubProcess
from tests.postgres import PostgresServer, find_programs, running_postgres
from tests.redis_server import RedisServer, running_redis

DRAIN_S = 2.0
REDIS_AWAY_S = 1.5
DATABASE_LOCKED_S = 3.0
KILLS, KILL_EVERY_S = 40, 0.1
READY_TIMEOUT_S = 30.0
LOCKED = "chat_turnrecord, chat_message, chat_session"


@dataclass(slots=True)
class Site:
    """What is soaked: the address behind which the hubs are, and their parts."""

    url: str
    hubs: list[HubProcess]
    redis: RedisServer
    postgres: PostgresServer | None
    has_vendor: bool

    @property
    def key(self) -> str:
        return self.hubs[0].key

    def faults(self) -> list[tuple[str, Callable[[], None]]]:
        """By name, in the order in which they come; each returns when it is over."""
        found = [
            ("workers killed", self._kill_workers),
            ("first hub restarted", lambda: self._restart(self.hubs[0])),
            ("Redis killed", self._kill_redis),
            ("second hub restarted", lambda: self._restart(self.hubs[1])),
        ]
        if self.postgres is not None:
            found.append(("database locked", self._lock_database))
            found.append(("database restarted", self._restart_database))
        return found

    def _kill_workers(self) -> None:
        for _ in range(KILLS):
            workers = [worker for hub in self.hubs for worker in hub.workers()]
            if workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    random.choice(workers).kill()
            time.sleep(KILL_EVERY_S)

    def _kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(REDIS_AWAY_S)
        self.redis.start()

    def _restart(self, hub: HubProcess) -> None:
        """As docs/operations.md has it: end, start, wait until it is ready."""
        hub.stop()
        hub.start()
        ends_at = time.monotonic() + READY_TIMEOUT_S
        while httpx.get(f"{hub.url}/health/ready").status_code != 200:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{hub.url} did not get ready within {READY_TIMEOUT_S:g} s")
            time.sleep(0.1)

    def _lock_database(self) -> None:
        assert self.postgres is not None
        with psycopg.connect(self.postgres.url) as connection:
            connection.execute(f"LOCK TABLE {LOCKED} IN ACCESS EXCLUSIVE MODE".encode())
            time.sleep(DATABASE_LOCKED_S)

    def _restart_database(self) -> None:
        assert self.postgres is not None
        self.postgres.stop()
        time.sleep(REDIS_AWAY_S)
        self.postgres.start()


@contextlib.contextmanager
def running_site(setup: Setup) -> Iterator[Site]:
    """Raises Skipped where there is no nginx. Without PostgreSQL the hubs share one SQLite file."""
    nginx = find_nginx()
    if nginx is None:
        raise Skipped("nginx is not installed; Debian: apt-get install nginx-light")
    folder = setup.folder / "soak"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis(folder / "redis", port=0))
        postgres = stack.enter_context(running_postgres(folder / "postgres")) if find_programs() else None
        env = _env(setup, redis, postgres.url if postgres else f"sqlite:///{folder / 'shared.sqlite3'}")
        hubs = [HubProcess(folder / name, env=env) for name in ("first", "second")]
        stack.callback(_close_all, hubs)
        for hub in hubs:
            hub.start()
        url = stack.enter_context(running_nginx(nginx, folder / "nginx", [f"127.0.0.1:{it.port}" for it in hubs]))
        yield Site(url, hubs, redis, postgres, has_vendor="claude" in setup.clis)


def _env(setup: Setup, redis: RedisServer, database_url: str) -> dict[str, str]:
    claude = setup.clis.get("claude")
    vendor = hub_env("claude", claude, setup.vendor_url) if claude else {}
    return {
        **vendor,
        **HUB_ENV,
        "HUB_PROVIDERS": "echo,claude" if claude else "echo",
        "HUB_CLAUDE_CEILING": "2",
        "HUB_LOG_LEVEL": "WARNING",
        "REDIS_URL": redis.url,
        "DATABASE_URL": database_url,
        "HUB_TRUSTED_PROXIES": "127.0.0.1",
        "HUB_DRAIN_S": f"{DRAIN_S:g}",
    }


def _close_all(hubs: list[HubProcess]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(HubProcess.close, hubs))
