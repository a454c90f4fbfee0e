"""Providers come and go while fifty turns are under way at a time, and no request fails; every hub sees it soon."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.asking import answer_of, client_of, eventually, make_keys, streamed_text
from tests.faults.rig import FAULTY, leaving_nothing, say
from tests.hub import HubProcess, running_hub
from tests.postgres import PostgresServer
from tests.redis_server import running_redis

ADMIN = "/v1/admin/providers"
AT_A_TIME = 50
WITHIN_S = 2.0
# All three have it, so that whoever is there may answer.
MODEL = "parrot"
# None of its own that answers: the test adds all that do.
NO_ECHO = FAULTY | {"HUB_PROVIDERS": "gemini", "HUB_AUTH_FAILURES_PER_MINUTE": "0"}
PAUSE_S = 0.3

SET_BY_SQL = """
from hubsite.asgi import settings
from providers.models import ProviderRow
ProviderRow.objects.filter(name="one").update(is_enabled=False)
"""
BREAK_BY_SQL = """
from hubsite.asgi import settings
from django.db import connection
from providers.models import ProviderRow
ProviderRow.objects.filter(name="two").update(extra_env=["HUB_SECRET_KEY"], floor=7, ceiling=1)
ProviderRow.objects.create(name="../three", adapter="nothing", command={"a": 1}, aliases=[1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with leaving_nothing(tmp_path_factory.mktemp("change")) as place:
        yield place


def add(admin: httpx.Client, name: str, **fields: Any) -> None:
    body = {"name": name, "adapter": "echo", "aliases": {MODEL: "echo"}, "floor": 1, "ceiling": 6, **fields}
    response = admin.post(ADMIN, json=body)
    assert response.status_code == 201, response.text


def change(admin: httpx.Client, name: str, **fields: Any) -> None:
    response = admin.patch(f"{ADMIN}/{name}", json=fields)
    assert response.status_code == 200, response.text


def act(admin: httpx.Client, name: str, what: str) -> None:
    response = admin.post(f"{ADMIN}/{name}/{what}")
    assert response.status_code == 200, response.text


@contextlib.contextmanager
def admin_of(hub: HubProcess) -> Iterator[httpx.Client]:
    key = make_keys(hub, root={"scopes": ["admin", "chat"]})["root"]
    with client_of(hub, key) as client:
        yield client


class Askers:
    """Fifty callers that ask again and again; `outcomes` counts what they got."""

    def __init__(self, hub: HubProcess) -> None:
        self.outcomes: Counter[str] = Counter()
        self.providers: Counter[str] = Counter()
        self._hub = hub
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            asked = [threads.submit(self._keep_asking, number) for number in range(AT_A_TIME)]
            try:
                yield
            finally:
                self._is_over.set()
            for it in asked:
                it.result()

    def _keep_asking(self, number: int) -> None:
        with client_of(self._hub, self._hub.key) as client:
            while not self._is_over.is_set():
                try:
                    self._ask(client, number)
                except (AssertionError, httpx.HTTPError) as error:
                    self.outcomes[str(error)[:300]] += 1

    def _ask(self, client: httpx.Client, number: int) -> None:
        text = f"[[chunks=3 delay=0.02]] {number}"
        is_stream = number % 2 == 0
        response = say(client, text, model=MODEL, stream=is_stream)
        assert (streamed_text(response) if is_stream else answer_of(response)) == text
        self.providers[response.headers["X-Hub-Provider"]] += 1
        self.outcomes["answered"] += 1


def test_no_request_fails_while_providers_are_disabled_drained_restarted_removed_and_added(folder: Path) -> None:
    with running_hub(folder / "busy", env=NO_ECHO) as hub, admin_of(hub) as admin:
        for name in ("one", "two", "three"):
            add(admin, name)
        askers = Askers(hub)
        with askers.at_work():
            for round_number in range(2):
                time.sleep(PAUSE_S)
                change(admin, "one", enabled=False)
                act(admin, "two", "restart")
                time.sleep(PAUSE_S)
                act(admin, "three", "drain")
                time.sleep(PAUSE_S)
                change(admin, "one", enabled=True, ceiling=4 + round_number)
                act(admin, "three", "undrain")
                assert admin.delete(f"{ADMIN}/two").status_code == 200
                time.sleep(PAUSE_S)
                add(admin, "two", nice=round_number + 1)
                change(admin, "three", nice=round_number + 3)
            time.sleep(PAUSE_S)
        assert set(askers.outcomes) == {"answered"}, askers.outcomes
        assert set(askers.providers) == {"one", "two", "three"}
        # Nothing is left of the pools that were replaced.
        eventually(lambda: sum(it["workers"]["live"] for it in bodies(admin)) == len(hub.workers()))


def bodies(admin: httpx.Client) -> list[dict[str, Any]]:
    return [it for it in admin.get(ADMIN).json()["providers"] if it["workers"] is not None]


@pytest.fixture(scope="module")
def hubs(folder: Path, postgres: PostgresServer) -> Iterator[list[HubProcess]]:
    postgres.execute("CREATE DATABASE change", database="postgres")
    with running_redis(folder / "server", port=0) as server, contextlib.ExitStack() as stack:
        env = NO_ECHO | {"REDIS_URL": server.url, "DATABASE_URL": postgres.url_of("change")}
        yield [stack.enter_context(running_hub(folder / name, env=env)) for name in ("first", "second")]


def state_of(client: httpx.Client, name: str) -> str:
    """Of the hub that is asked; empty if it has no such provider."""
    found = [it for it in client.get("/v1/providers").json()["providers"] if it["name"] == name]
    return str(found[0]["state"]) if found else ""


def test_two_hubs_see_every_change_within_two_seconds(hubs: list[HubProcess]) -> None:
    with admin_of(hubs[0]) as admin, client_of(hubs[1], hubs[1].key) as other:
        add(admin, "one")
        eventually(lambda: state_of(other, "one") not in ("", "disabled"), within_s=WITHIN_S)
        assert answer_of(say(other, "Hi", model=MODEL)) == "Hi"
        act(admin, "one", "drain")
        eventually(lambda: state_of(other, "one") == "disabled", within_s=WITHIN_S)
        act(admin, "one", "undrain")
        eventually(lambda: state_of(other, "one") != "disabled", within_s=WITHIN_S)
        before = {it.pid for it in hubs[1].workers()}
        act(admin, "one", "restart")
        eventually(lambda: bool({it.pid for it in hubs[1].workers()} - before))
        assert admin.delete(f"{ADMIN}/one").status_code == 200
        eventually(lambda: state_of(other, "one") == "", within_s=WITHIN_S)
        eventually(lambda: not hubs[1].workers())


def test_change_by_another_process_and_broken_rows_reach_both_hubs(hubs: list[HubProcess]) -> None:
    with admin_of(hubs[0]) as admin, client_of(hubs[1], hubs[1].key) as other:
        for name in ("one", "two"):
            add(admin, name)
        eventually(lambda: state_of(other, "two") != "")
        assert hubs[0].run_program(sys.executable, "-c", SET_BY_SQL).returncode == 0
        for client in (admin, other):
            eventually(lambda client=client: state_of(client, "one") == "disabled", within_s=WITHIN_S)  # type: ignore[misc]
        assert hubs[0].run_program(sys.executable, "-c", BREAK_BY_SQL).returncode == 0
        for client in (admin, other):
            eventually(lambda client=client: state_of(client, "two") == "")  # type: ignore[misc]
        problems = {it["name"]: it["problem"] for it in admin.get(ADMIN).json()["providers"]}
        assert "HUB_ALLOWED_ENV" in problems["two"]
        assert "adapter" in problems["../three"]
        assert problems["one"] == ""
        change(admin, "one", enabled=True)
        eventually(lambda: state_of(other, "one") not in ("", "disabled"), within_s=WITHIN_S)
        assert answer_of(say(other, "Hi", model=MODEL)) == "Hi"


def test_database_that_is_away_changes_nothing_and_floods_no_log(
    hubs: list[HubProcess], postgres: PostgresServer
) -> None:
    with admin_of(hubs[0]) as admin, client_of(hubs[1], hubs[1].key) as other:
        if not state_of(admin, "four"):
            add(admin, "four", aliases={"four": "echo"})
        eventually(lambda: state_of(other, "four") != "")
        answer_of(say(other, "Hi", model="four"))
        lines = len(hubs[1].log.read_text().splitlines())
        postgres.stop()
        try:
            ends_at = time.monotonic() + 6
            while time.monotonic() < ends_at:
                assert answer_of(say(other, "Hi", model="four")) == "Hi"
                time.sleep(0.2)
        finally:
            postgres.start()
        told = [it for it in hubs[1].log.read_text().splitlines()[lines:] if "row_watch" in it]
        assert len([it for it in told if "can't be looked at" in it]) == 1
        act(admin, "four", "drain")
        eventually(lambda: state_of(other, "four") == "disabled")
