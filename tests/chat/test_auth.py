"""Where a key stands in a request, and what happens to an address that guesses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from pytest_django import Settings

from chat import auth, key_ring
from chat.auth import FailedAttempts, Gate, key_from_headers
from chat.errors import KeyMissing, KeyRefused, TooManyFailures
from chat.keys import create_key
from chat.models import ApiKey
from tests.asking import CHAT, answer_of, ask, error_of
from tests.hub import HubProcess, running_hub

ALICE, MALLORY = "192.0.2.1", "203.0.113.9"
LIMIT = 3
WRONG_KEYS = [f"hub_{number:043}" for number in range(20)]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.time_s = 1_000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock(settings: Settings) -> Clock:
    settings.HUB_AUTH_FAILURES_PER_MINUTE = LIMIT
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock=clock)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests the database is asked for."""
    seen: list[str] = []
    read = key_ring._read

    def counted(prefix: str, digest: str) -> Any:
        seen.append(digest)
        return read(prefix, digest)

    monkeypatch.setattr(key_ring, "_read", counted)
    return seen


async def new_key(owner: str) -> str:
    return await sync_to_async(create_key)("n8n", owner=owner)


async def fail(gate: Gate, address: str, *, times: int = LIMIT) -> None:
    for key in WRONG_KEYS[:times]:
        with pytest.raises(KeyRefused):
            await gate.admit(key, address=address)


# --- where the key stands --------------------------------------------------------------------------------------------


def key_in(*, query: str = "", **headers: str) -> str:
    return key_from_headers(lambda name: headers.get(name.replace("-", "_").lower(), ""), query=query)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer KEY"},
        {"authorization": " bearer   KEY "},
        {"x_api_key": " KEY "},
        {"authorization": "Bearer KEY", "x_api_key": "KEY"},
        {"authorization": "Basic dTpw", "x_api_key": "KEY"},
        {"authorization": "Bearer", "x_api_key": "KEY"},
    ],
)
def test_key_is_found_in_either_header(headers: dict[str, str]) -> None:
    assert key_in(**headers) == "KEY"


def test_two_different_keys_are_refused() -> None:
    with pytest.raises(KeyRefused, match="different keys") as caught:
        key_in(authorization="Bearer ALICE", x_api_key="BOB")
    assert "ALICE" not in str(caught.value)


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic dTpw", "KEY"])
def test_request_without_a_key_is_told_both_headers(authorization: str) -> None:
    with pytest.raises(KeyMissing, match=r"Bearer KEY.*X-API-Key") as caught:
        key_in(authorization=authorization, query="monkey=1&page=2")
    assert "URL" not in str(caught.value)


@pytest.mark.parametrize("name", ["key", "api_key", "apikey", "api-key", "X-API-Key", "access_token", "token"])
def test_key_in_the_url_is_not_read_but_explained(name: str) -> None:
    with pytest.raises(KeyMissing, match="in headers"):
        key_in(query=f"page=1&{name}=KEY")
    assert key_in(query=f"{name}=ANOTHER", authorization="Bearer KEY") == "KEY"


# --- those who guess -------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_address_that_fails_too_often_is_turned_away_unasked(gate: Gate, clock: Clock, asked: list[str]) -> None:
    await fail(gate, MALLORY)
    assert len(asked) == LIMIT
    clock.time_s += 20
    for key in (WRONG_KEYS[0], WRONG_KEYS[-1], "nonsense", await new_key("mallory")):
        with pytest.raises(TooManyFailures) as caught:
            await gate.admit(key, address=MALLORY)
        assert caught.value.retry_after_s == 40
    assert len(asked) == LIMIT


@pytest.mark.django_db(transaction=True)
async def test_being_turned_away_does_not_prolong_it(gate: Gate, clock: Clock) -> None:
    await fail(gate, MALLORY)
    for _ in range(5):
        clock.time_s += 10
        with pytest.raises(TooManyFailures):
            await gate.admit(WRONG_KEYS[-1], address=MALLORY)
    clock.time_s += 10
    await fail(gate, MALLORY)
    with pytest.raises(TooManyFailures):
        await gate.admit(WRONG_KEYS[-1], address=MALLORY)


@pytest.mark.django_db(transaction=True)
async def test_failures_count_within_any_minute(gate: Gate, clock: Clock) -> None:
    await fail(gate, MALLORY, times=1)
    clock.time_s += 59
    await fail(gate, MALLORY, times=LIMIT - 1)
    with pytest.raises(TooManyFailures) as caught:
        await gate.admit(WRONG_KEYS[-1], address=MALLORY)
    assert caught.value.retry_after_s == 1
    clock.time_s += 1
    await fail(gate, MALLORY, times=1)
    with pytest.raises(TooManyFailures) as caught:
        await gate.admit(WRONG_KEYS[-1], address=MALLORY)
    assert caught.value.retry_after_s == 59


@pytest.mark.django_db(transaction=True)
async def test_neighbour_behind_the_same_address_gets_in_with_a_key_that_was_good(gate: Gate, clock: Clock) -> None:
    alice, bob = await new_key("alice"), await new_key("bob")
    await gate.admit(alice, address=ALICE)
    clock.time_s += 3_599
    await fail(gate, MALLORY)
    assert (await gate.admit(alice, address=MALLORY)).owner == "alice"
    with pytest.raises(TooManyFailures):
        await gate.admit(bob, address=MALLORY)  # never seen here: it might be a guess
    assert (await gate.admit(bob, address=ALICE)).owner == "bob"


@pytest.mark.django_db(transaction=True)
async def test_key_that_was_good_long_ago_is_a_stranger_again(gate: Gate, clock: Clock) -> None:
    alice = await new_key("alice")
    await gate.admit(alice, address=ALICE)
    clock.time_s += 3_600
    await fail(gate, MALLORY)
    with pytest.raises(TooManyFailures):
        await gate.admit(alice, address=MALLORY)


@pytest.mark.django_db(transaction=True)
async def test_familiar_key_that_is_revoked_is_refused_and_then_a_stranger(gate: Gate, clock: Clock) -> None:
    alice = await new_key("alice")
    await gate.admit(alice, address=MALLORY)
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    await fail(gate, MALLORY)
    clock.time_s += 0.5
    with pytest.raises(KeyRefused):
        await gate.admit(alice, address=MALLORY)
    with pytest.raises(TooManyFailures):
        await gate.admit(alice, address=MALLORY)


@pytest.mark.django_db(transaction=True)
async def test_key_is_recalled_only_while_it_is_known_to_be_good(clock: Clock) -> None:
    """Whoever is recalled is not looked at any further (hub rule)."""
    now = timezone.now()
    ring = key_ring.KeyRing(clock=clock, now=lambda: now)
    alice, carol = await new_key("alice"), await new_key("carol")
    await ApiKey.objects.filter(owner="carol").aupdate(expires_at=now + timedelta(seconds=1))
    assert ring.recall(alice) is None
    for key in (alice, carol):
        assert await ring.find(key) == ring.recall(key)
    now += timedelta(seconds=1)
    assert (ring.recall(carol), ring.recall(WRONG_KEYS[0])) == (None, None)
    clock.time_s += 0.5
    assert ring.recall(alice) is None


@pytest.mark.django_db(transaction=True)
async def test_good_keys_never_count_as_failures(gate: Gate) -> None:
    for owner in ("alice", "bob", "carol", "dave"):
        await gate.admit(await new_key(owner), address=ALICE)
    await fail(gate, ALICE)


def failed(attempts: FailedAttempts, address: str) -> bool:
    try:
        attempts.check(address)
    except TooManyFailures:
        return True
    return False


def test_zero_means_no_limit(settings: Settings, clock: Clock) -> None:
    settings.HUB_AUTH_FAILURES_PER_MINUTE = 0
    attempts = FailedAttempts(clock=clock)
    for _ in range(1_000):
        attempts.note(MALLORY)
    assert not failed(attempts, MALLORY)
    assert not attempts._times


def test_ipv6_neighbourhood_counts_as_one(clock: Clock) -> None:
    attempts = FailedAttempts(clock=clock)
    for number in range(LIMIT):
        attempts.note(f"2001:db8::{number:x}")
    assert failed(attempts, "2001:db8::ffff")
    assert not failed(attempts, "2001:db8:0:1::1")


def test_memory_of_addresses_is_bounded_and_the_oldest_goes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED_ADDRESSES", 5)
    attempts = FailedAttempts(clock=clock)
    for number in range(5):
        for _ in range(LIMIT * 2):
            attempts.note(f"192.0.2.{number}")
    attempts.note("192.0.2.0")
    attempts.note(MALLORY)
    assert len(attempts._times) == 5
    assert failed(attempts, "192.0.2.0")
    assert not failed(attempts, "192.0.2.1")
    assert sum(map(len, attempts._times.values())) <= 5 * LIMIT


def test_addresses_that_have_stopped_are_forgotten(clock: Clock) -> None:
    attempts = FailedAttempts(clock=clock)
    for number in range(100):
        attempts.note(f"192.0.2.{number}")
    clock.time_s += 60
    attempts.note(MALLORY)
    assert list(attempts._times) == [MALLORY]


# --- at a running hub ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_taken_in_any_case(hub: HubProcess, http: httpx.Client, scheme: str) -> None:
    assert http.get("/v1/models", headers={"Authorization": f"{scheme} {hub.key}"}).status_code == 200


@pytest.fixture
def anonymous(hub: HubProcess) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=hub.url) as client:
        yield client


def test_key_in_x_api_key_asks_the_same(hub: HubProcess, anonymous: httpx.Client) -> None:
    headers = {"X-API-Key": hub.key}
    assert answer_of(anonymous.post(CHAT, json=ask("Hi"), headers=headers)) == "Hi"
    assert anonymous.get("/v1/models", headers=headers | hub.headers).status_code == 200


def test_two_different_keys_are_a_401(hub: HubProcess, http: httpx.Client) -> None:
    response = http.get("/v1/models", headers={"X-API-Key": WRONG_KEYS[0]})
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert hub.key not in response.text


@pytest.mark.parametrize("name", ["api_key", "key"])
def test_key_in_the_url_is_a_401_that_says_where_it_belongs(
    hub: HubProcess, anonymous: httpx.Client, name: str
) -> None:
    response = anonymous.get("/v1/models", params={name: hub.key})
    assert (response.status_code, error_of(response)["code"]) == (401, "missing_api_key")
    assert "belong in headers" in error_of(response)["message"]
    assert hub.key not in response.text


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
def test_no_list_is_shown_without_a_key(anonymous: httpx.Client, path: str) -> None:
    assert error_of(anonymous.get(path))["code"] == "missing_api_key"


def test_openapi_names_both_headers(http: httpx.Client) -> None:
    schema = http.get("/v1/openapi.json").json()
    schemes = {(it["type"], it.get("scheme") or it["name"]) for it in schema["components"]["securitySchemes"].values()}
    assert schemes == {("http", "bearer"), ("apiKey", "X-API-Key")}
    assert len(schema["paths"]["/v1/models"]["get"]["security"]) == 2


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub behind a proxy on this machine that lets nobody guess often."""
    env = {
        "HUB_PROVIDERS": "echo",
        "HUB_AUTH_FAILURES_PER_MINUTE": str(LIMIT),
        "HUB_TRUSTED_PROXIES": "127.0.0.0/8",
    }
    with running_hub(tmp_path_factory.mktemp("guarded"), env=env) as started:
        yield started


def from_address(address: str, key: str) -> dict[str, str]:
    return {"X-Forwarded-For": f"198.51.100.1, {address}", "X-API-Key": key}


def test_guessing_address_gets_a_429_and_its_neighbours_do_not(guarded: HubProcess) -> None:
    fresh = guarded.run("create_key", "fresh").stdout.strip()
    with httpx.Client(base_url=guarded.url) as http:
        assert http.get("/v1/models", headers=from_address(ALICE, guarded.key)).status_code == 200
        for key in WRONG_KEYS[:LIMIT]:
            assert http.get("/v1/models", headers=from_address(MALLORY, key)).status_code == 401
        for key in (WRONG_KEYS[-1], fresh):
            response = http.get("/v1/models", headers=from_address(MALLORY, key))
            assert (response.status_code, error_of(response)["code"]) == (429, "too_many_failed_attempts")
            assert 0 < int(response.headers["Retry-After"]) <= 60
        assert http.get("/v1/models", headers=from_address(MALLORY, guarded.key)).status_code == 200
        assert http.get("/v1/models", headers=from_address(ALICE, fresh)).status_code == 200


def test_digest_of_a_key_is_no_key(hub: HubProcess, anonymous: httpx.Client) -> None:
    """Who has read the database can't ask with what stands there."""
    digest = hashlib.sha256(hub.key.encode()).hexdigest()
    response = anonymous.get("/v1/models", headers={"X-API-Key": digest})
    assert error_of(response)["code"] == "invalid_api_key"
