"""The dashboard over a running hub: the workers and turns it shows are the real ones, and its acts reach them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.asking import CHAT, answer_of, ask, begun_stream, client_of, data_lines, error_of, eventually, turns_of
from tests.hub import HubProcess, running_hub

NOW, FIGURES, ACT = (f"/admin/dashboard/{it}/" for it in ("now", "figures", "act"))
SLOW = "x [[chunks=2000 delay=0.02]]"
MAKE_USER = """
import sys
from hubsite.asgi import settings
from django.contrib.auth.models import User
User.objects.create_superuser(sys.argv[1], password=sys.argv[2])
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {"HUB_PROVIDERS": "echo", "HUB_ECHO_FLOOR": "2", "HUB_ECHO_CEILING": "3", "HUB_SHUTDOWN_GRACE_S": "1"}
    with running_hub(tmp_path_factory.mktemp("hub"), env=env) as started:
        made = started.run_program(sys.executable, "-c", MAKE_USER, "root", "a good one")
        assert made.returncode == 0, made.stderr
        yield started


@pytest.fixture
def caller(hub: HubProcess) -> Iterator[httpx.Client]:
    with client_of(hub, hub.key) as client:
        yield client


@pytest.fixture
def admin(hub: HubProcess) -> Iterator[httpx.Client]:
    """A superuser's browser."""
    with httpx.Client(base_url=hub.url, follow_redirects=True, timeout=20) as client:
        page = client.get("/admin/")
        form = {"username": "root", "password": "a good one", "csrfmiddlewaretoken": token_in(page)}
        assert client.post(page.url, data=form).url.path == "/admin/"
        yield client


def token_in(page: httpx.Response) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert found, page.text
    return found[1]


def act(admin: httpx.Client, name: str, **target: object) -> str:
    """Have it done; what the hub says of it."""
    headers = {"X-CSRFToken": token_in(admin.get("/admin/"))}
    answer = admin.post(ACT, data={"act": name, **target}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["message"])


def echo_now(admin: httpx.Client) -> dict[str, Any]:
    (echo,) = admin.get(NOW).json()["providers"]
    return dict(echo)


def pids(admin: httpx.Client) -> set[int]:
    return {it["pid"] for it in echo_now(admin)["workers"]}


def running(admin: httpx.Client) -> list[dict[str, Any]]:
    return list(admin.get(NOW).json()["turns"])


def test_workers_are_those_that_run(hub: HubProcess, admin: httpx.Client, caller: httpx.Client) -> None:
    answer_of(caller.post(CHAT, json=ask("hi")))
    eventually(lambda: pids(admin) == {it.pid for it in hub.workers()} and len(pids(admin)) >= 2)
    eventually(lambda: any(it["rss_bytes"] > 2**20 for it in echo_now(admin)["workers"]))
    echo = echo_now(admin)
    assert (echo["state"], echo["pool"]["ceiling"], echo["pool"]["waiting"]) == ("ready", 3, 0)
    assert sum(it["turns"] for it in echo["workers"]) >= 1
    assert all(abs(time.time() - it["started_at"]) < 300 for it in echo["workers"])
    assert admin.get(NOW).json()["hub"]["pid"] == hub.pid


def test_finished_turn_is_in_the_figures(hub: HubProcess, admin: httpx.Client, caller: httpx.Client) -> None:
    before = admin.get(FIGURES).json()["totals"]["turns"]
    answer_of(caller.post(CHAT, json=ask("hi")))
    turns_of(hub, hub.key)
    found = admin.get(FIGURES).json()
    assert found["totals"]["turns"] == before + 1
    assert found["keys"][0]["owner"] == "default"


def test_running_turn_is_shown_without_its_words(admin: httpx.Client, caller: httpx.Client) -> None:
    with begun_stream(caller, ask(f"secret words {SLOW}")):
        (shown,) = running(admin)
        assert (shown["provider"], shown["door"], shown["is_answering"]) == ("echo", "rest", True)
        assert shown["key"].startswith("this machine")
        eventually(lambda: running(admin)[0]["chars"] > 0)
        assert "secret words" not in admin.get(NOW).text
    eventually(lambda: not running(admin))


def test_stopped_stream_ends_with_an_error_and_its_worker_is_free(
    hub: HubProcess, admin: httpx.Client, caller: httpx.Client
) -> None:
    with begun_stream(caller, ask(SLOW)) as lines:
        (shown,) = running(admin)
        assert "stopped" in act(admin, "stop_turn", turn=shown["id"])
        rest = data_lines("\n".join(lines))
    assert '"code":"turn_stopped"' in rest[-1]
    eventually(lambda: not running(admin) and echo_now(admin)["pool"]["busy"] == 0)
    assert [it["outcome"] for it in turns_of(hub, hub.key) if it["id"] == shown["id"]] == ["turn_stopped"]
    answer_of(caller.post(CHAT, json=ask("and on it goes")))


def test_stopped_whole_answer_is_an_error_that_is_not_asked_for_again(
    admin: httpx.Client, hub: HubProcess, caller: httpx.Client
) -> None:
    """A turn before its first word, as well: here it hangs."""
    with httpx.Client(base_url=hub.url, headers=hub.headers, timeout=20) as other, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(other.post, CHAT, json=ask("x [[do=hang]]"))
        eventually(lambda: len(running(admin)) == 1)
        act(admin, "stop_turn", turn=running(admin)[0]["id"])
        answer = asked.result(20)
    assert answer.status_code == 409
    assert error_of(answer)["code"] == "turn_stopped"
    assert answer.headers["X-Should-Retry"] == "false"


def test_worker_without_a_turn_goes_at_once_and_another_comes(admin: httpx.Client) -> None:
    eventually(lambda: len(pids(admin)) >= 2 and echo_now(admin)["pool"]["busy"] == 0)
    gone = min(pids(admin))
    assert str(gone) in act(admin, "replace_worker", provider="echo", pid=gone)
    eventually(lambda: gone not in pids(admin) and len(pids(admin)) >= 2)


def test_worker_with_a_turn_ends_it_first(admin: httpx.Client, caller: httpx.Client) -> None:
    with begun_stream(caller, ask("x [[chunks=60 delay=0.02]]")) as lines:
        (busy,) = (it["pid"] for it in echo_now(admin)["workers"] if it["state"] == "busy")
        act(admin, "replace_worker", provider="echo", pid=busy)
        (shown,) = (it for it in echo_now(admin)["workers"] if it["pid"] == busy)
        assert shown["is_unwanted"]
        assert data_lines("\n".join(lines))[-1] == "[DONE]"
    eventually(lambda: busy not in pids(admin))


def test_drained_provider_gets_no_turns_until_that_is_undone(admin: httpx.Client, caller: httpx.Client) -> None:
    act(admin, "drain", provider="echo")
    eventually(lambda: bool(echo_now(admin)["is_drained"]))
    eventually(lambda: caller.post(CHAT, json=ask("hi")).status_code == 503)
    act(admin, "undrain", provider="echo")
    eventually(lambda: caller.post(CHAT, json=ask("hi")).status_code == 200)


def test_restarted_provider_has_other_workers(admin: httpx.Client) -> None:
    eventually(lambda: len(pids(admin)) >= 2)
    before = pids(admin)
    act(admin, "restart", provider="echo")
    eventually(lambda: len(pids(admin)) >= 2 and not before & pids(admin))


def test_worker_of_before_a_restart_is_shown_until_its_turn_is_over(admin: httpx.Client, caller: httpx.Client) -> None:
    with begun_stream(caller, ask("x [[chunks=150 delay=0.02]]")) as lines:
        (busy,) = (it["pid"] for it in echo_now(admin)["workers"] if it["state"] == "busy")
        act(admin, "restart", provider="echo")
        eventually(lambda: len(pids(admin) - {busy}) >= 2)
        assert busy in pids(admin)
        assert data_lines("\n".join(lines))[-1] == "[DONE]"
    eventually(lambda: busy not in pids(admin))


def test_clearing_a_cooldown_is_written_down(admin: httpx.Client) -> None:
    assert "next turn" in act(admin, "clear_cooldown", provider="echo")
