"""API keys: made once, shown once, never stored, and gone soon after they are revoked."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import time
from contextlib import closing

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from chat.keys import KeyRing, create_key
from chat.models import ApiKey
from tests.asking import CHAT, answer_of, ask, error_of
from tests.hub import HubProcess

KEY_CACHE_S = 1.0


@pytest.mark.django_db
def test_database_holds_the_hash_of_a_key_and_not_the_key() -> None:
    key = create_key("n8n", owner="alice")
    row = ApiKey.objects.values().get()
    assert row["digest"] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in str(row)
    assert key.startswith(row["prefix"])
    assert len(row["prefix"]) < len(key) / 4


@pytest.mark.django_db
def test_keys_are_long_and_never_alike() -> None:
    keys = {create_key("n8n") for _ in range(50)}
    assert len(keys) == 50
    assert all(len(key) >= 43 for key in keys)


@pytest.mark.django_db(transaction=True)
async def test_key_leads_to_its_caller_until_it_is_revoked(settings: Settings) -> None:
    settings.HUB_KEY_CACHE_S = 0
    key = await sync_to_async(create_key)("n8n", owner="alice")
    ring = KeyRing()
    caller = await ring.find(key)
    assert caller is not None
    assert (caller.name, caller.owner) == ("n8n", "alice")
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    assert await ring.find(key) is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", ["", "hub_", "x" * 10_000, "hub_\ud8ee", "hub_\0", "hub_%"])
async def test_nonsense_is_no_key(key: str) -> None:
    assert await KeyRing().find(key) is None


@pytest.mark.django_db
def test_quiet_create_key_prints_the_key_alone() -> None:
    out = io.StringIO()
    call_command("create_key", "n8n", "--quiet", stdout=out)
    digest = hashlib.sha256(out.getvalue().removesuffix("\n").encode()).hexdigest()
    assert ApiKey.objects.get().digest == digest


@pytest.mark.django_db
def test_create_key_says_that_it_shows_the_key_this_once() -> None:
    out = io.StringIO()
    call_command("create_key", "n8n", "--owner", "alice", stdout=out)
    assert "this once" in out.getvalue()
    assert ApiKey.objects.get().owner == "alice"


@pytest.mark.django_db
@pytest.mark.parametrize("argv", [[" "], ["x" * 101], ["n8n", "--owner", ""], ["n8n", "--owner", "x" * 101]])
def test_create_key_refuses_a_name_it_cannot_keep(argv: list[str]) -> None:
    with pytest.raises(CommandError, match="1 to 100"):
        call_command("create_key", *argv)
    assert not ApiKey.objects.exists()


def test_revoked_key_is_refused_within_the_cache_time(hub: HubProcess, http: httpx.Client) -> None:
    key = hub.run("create_key", "short-lived", "--quiet").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    assert answer_of(http.post(CHAT, json=ask("Hi"), headers=headers)) == "Hi"
    with closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", isolation_level=None)) as database:
        database.execute("UPDATE chat_apikey SET revoked_at = '2026-01-01' WHERE name = 'short-lived'")
    revoked_at = time.monotonic()
    while (response := http.get("/v1/models", headers=headers)).status_code == 200:
        assert time.monotonic() - revoked_at < KEY_CACHE_S + 1
    assert error_of(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_taken_in_any_case(hub: HubProcess, http: httpx.Client, scheme: str) -> None:
    assert http.get("/v1/models", headers={"Authorization": f"{scheme} {hub.key}"}).status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Basic dTpw", "hub_key"])
def test_request_without_a_bearer_key_is_told_how_to_send_one(http: httpx.Client, value: str) -> None:
    response = http.get("/v1/models", headers={"Authorization": value})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert error_of(response)["code"] == "missing_api_key"


@pytest.mark.parametrize("key", [b"hub_wrong", b"\xff\xfe", b"x" * 5_000, b"a b c"])
def test_wrong_key_is_refused_without_being_repeated(http: httpx.Client, key: bytes) -> None:
    response = http.post(CHAT, json=ask("Hi"), headers=[(b"Authorization", b"Bearer " + key)])
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"
    assert key not in response.content


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo", "/v1/providers"])
def test_no_list_is_shown_without_a_key(hub: HubProcess, path: str) -> None:
    assert error_of(httpx.get(hub.url + path))["code"] == "missing_api_key"


def test_keys_never_reach_the_log(hub: HubProcess, http: httpx.Client) -> None:
    secret = "hub_never-log-this"
    for path in ("/v1/models", "/v1/nothing", "/nothing", "/health"):
        http.get(path, headers={"Authorization": f"Bearer {secret}"})
    http.post(CHAT, content=b"{", headers={"Authorization": f"Bearer {hub.key}"})
    log = hub.log.read_text()
    assert secret not in log
    assert hub.key not in log
