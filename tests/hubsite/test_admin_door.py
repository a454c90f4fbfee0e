"""The door of the admin over a running hub: who guesses passwords, and who asks for what can't be."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from django.views.debug import get_default_exception_reporter_filter

from tests.chat.test_dashboard_live import MAKE_USER, token_in
from tests.hub import HubProcess, running_hub
from tests.postgres import running_postgres

LIMIT = 5
LOGIN = "/admin/login/?next=/admin/"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """On PostgreSQL, which refuses more than SQLite."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield from served(tmp_path_factory.mktemp("hub"), server.url)


def served(folder: Path, database_url: str) -> Iterator[HubProcess]:
    env = {
        "HUB_PROVIDERS": "echo",
        "HUB_AUTH_FAILURES_PER_MINUTE": str(LIMIT),
        "HUB_TRUSTED_PROXIES": "127.0.0.1",
        "HUB_SHUTDOWN_GRACE_S": "1",
        "DATABASE_URL": database_url,
    }
    with running_hub(folder, env=env) as started:
        made = started.run_program(sys.executable, "-c", MAKE_USER, "root", "a good one")
        assert made.returncode == 0, made.stderr
        yield started


def browser(hub: HubProcess, address: str) -> httpx.Client:
    return httpx.Client(base_url=hub.url, headers={"X-Forwarded-For": address}, timeout=20)


def log_in(client: httpx.Client, password: str, *, to: str = LOGIN) -> httpx.Response:
    form = {"username": "root", "password": password, "next": "/admin/"}
    return client.post(to, data={**form, "csrfmiddlewaretoken": token_in(client.get(to))})


def test_who_guesses_passwords_is_slowed_down_and_nobody_else_is(hub: HubProcess) -> None:
    with browser(hub, "198.51.100.1") as guesser, browser(hub, "198.51.100.2") as other:
        answers = [log_in(guesser, f"guess-{number}") for number in range(LIMIT + 2)]
        assert [it.status_code for it in answers] == [200] * LIMIT + [429] * 2
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 60
        assert log_in(guesser, "a good one").status_code == 429
        assert log_in(other, "a good one").status_code == 302
    logged = hub.log.read_text()
    assert logged.count("a login to the admin failed, from 198.51.100.1") == LIMIT
    assert "guess-" not in logged


def test_guesses_at_the_same_time_count_all(hub: HubProcess) -> None:
    with browser(hub, "198.51.100.3") as client:
        form = {"username": "root", "password": "guess", "csrfmiddlewaretoken": token_in(client.get(LOGIN))}
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda _: client.post(LOGIN, data=form).status_code, range(12)))
    assert sorted(answers) == [200] * LIMIT + [429] * (12 - LIMIT)


def test_who_logs_in_again_and_again_is_no_guesser(hub: HubProcess) -> None:
    for _ in range(LIMIT + 2):
        with browser(hub, "198.51.100.4") as client:
            assert log_in(client, "a good one").status_code == 302


@pytest.mark.parametrize("place", ["//evil.example/", "https://evil.example/", "/admin/"])
def test_login_leads_to_the_admin_and_nowhere_else(hub: HubProcess, place: str) -> None:
    with browser(hub, "198.51.100.5") as client:
        page = client.get("/admin/login/", params={"next": place})
        form = {"username": "root", "password": "a good one", "next": place}
        answer = client.post(page.url, data={**form, "csrfmiddlewaretoken": token_in(page)})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")


@pytest.mark.parametrize(
    "path",
    [
        *("chat/turnrecord/?outcome=%00", "chat/turnrecord/?provider=%00", "chat/turnrecord/?key=" + "9" * 23),
        *("chat/session/?owner=%00", "chat/session/%00/change/", "chat/session/%00/export/", "chat/apikey/?owner=%00"),
    ],
)
def test_what_no_database_can_look_for_is_the_callers_fault(hub: HubProcess, path: str) -> None:
    with browser(hub, "198.51.100.6") as client:
        log_in(client, "a good one")
        assert client.get(f"/admin/{path}").status_code < 500


@pytest.mark.parametrize("row", ["abc", "9" * 30])
@pytest.mark.parametrize("page", ["chat/apikey", "providers/routerule"])
def test_act_on_a_row_that_can_not_be_is_the_callers_fault(hub: HubProcess, page: str, row: str) -> None:
    with browser(hub, "198.51.100.7") as client:
        log_in(client, "a good one")
        listed = client.get(f"/admin/{page}/")
        act = re.findall(r'<option value="(\w+)"', listed.text)[0]
        form = {"action": act, "_selected_action": row, "csrfmiddlewaretoken": token_in(listed)}
        assert client.post(f"/admin/{page}/", data=form).status_code < 500


def test_debug_page_shows_no_address_of_a_store() -> None:
    shown = get_default_exception_reporter_filter().get_safe_settings()
    for name in ("HUB_ENVIRON", "DATABASES", "CACHES", "CHANNEL_LAYERS", "HUB_REDIS_LOCATION", "SECRET_KEY"):
        assert set(str(shown[name])) == {"*"}, name
    assert shown["ROOT_URLCONF"] == "hubsite.urls"
