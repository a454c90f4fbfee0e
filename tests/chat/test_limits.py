"""What a key may ask: requests, turns, tokens and money, counted exactly, and what its caller is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from redis import Redis

from chat.errors import BudgetSpent, LimitReached
from chat.hot import HotState
from chat.ids import new_id
from chat.limits import KeyLimits, Limits, prefix, turns_key
from chat.local_limits import LocalLimits
from chat.usage import MICRO, Today
from tests.asking import (
    CHAT,
    SESSION,
    WAIT_S,
    answer_of,
    ask,
    begun_stream,
    client_of,
    error_of,
    eventually,
    make_keys,
    turns_of,
)
from tests.hub import HubProcess, running_hub
from tests.redis_server import RedisServer, running_redis

SLOW = "[[chunks=40 delay=0.25]] a long answer"
HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
# A million tokens for a dollar each way: a token is a micro-dollar.
PRICE = "INSERT INTO chat_price (provider, model, input_usd, output_usd, cached_input_usd) VALUES ('echo', ?, 1, 1, 0)"
MAKE_TERMS: dict[str, dict[str, Any]] = {
    "ten": {"requests_per_minute": 10},
    "two_turns": {"concurrent_turns": 2},
    "one_turn": {"concurrent_turns": 1},
    "minute": {"tokens_per_minute": 100},
    "day": {"tokens_per_day": 100},
    "day_flushed": {"tokens_per_day": 100},
    "day_cancelled": {"tokens_per_day": 10},
    "dollars": {"budget_day_usd": "0.0001", "budget_month_usd": "1"},
    "month": {"budget_month_usd": "0.0001"},
    "no_dollars": {"budget_day_usd": "0"},
    "budget_auto": {"budget_month_usd": "1"},
    "shown": {"requests_per_minute": 50},
    "free": {"requests_per_minute": 0},
    "lists": {"requests_per_minute": 3},
    "away": {"requests_per_minute": 5, "concurrent_turns": 1},
    "away_day": {"tokens_per_day": 100},
    "no_chat": {"scopes": ["sessions"]},
    "echo_only": {"allowed_providers": ["echo"]},
    "gemini_only": {"allowed_providers": ["gemini"]},
    "models": {"allowed_models": ["opus", "gemini-2.5-*"]},
    "gemini_flash": {"allowed_models": ["gemini-3.8-*"]},
    "unknown_use": {"tokens_per_day": 100},
}


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def limited(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub on a Redis that tests stop and empty; of its providers only echo is there."""
    env = {
        "HUB_PROVIDERS": "claude,echo,gemini",
        "HUB_CLAUDE_BIN": "/nowhere/claude",
        "HUB_GEMINI_BIN": "/nowhere/gemini",
        "HUB_KEY_REQUESTS_PER_MINUTE": "0",
        "REDIS_URL": redis_server.url,
        "HUB_REDIS_TIMEOUT_S": "0.5",
        "HUB_SHUTDOWN_GRACE_S": "1",
    }
    with running_hub(tmp_path_factory.mktemp("limited"), env=env) as started:
        change(started, PRICE, "ec*")
        yield started


def change(hub: HubProcess, statement: str, *values: str) -> None:
    """Behind the hub's back."""
    with closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", timeout=WAIT_S)) as database, database:
        database.execute(statement, values)


@pytest.fixture(scope="module")
def keys(limited: HubProcess) -> dict[str, str]:
    return make_keys(limited, **MAKE_TERMS)


Client = Callable[[str], httpx.Client]


@pytest.fixture
def client(limited: HubProcess, keys: dict[str, str]) -> Iterator[Client]:
    """Clients by the names of their keys."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(client_of(limited, keys[name]))


def standing(response: httpx.Response) -> tuple[str, str]:
    """Limit and what remains; the time of the reset, which is in bounds, goes without saying."""
    limit, remaining, reset = (response.headers[name] for name in HEADERS)
    assert 0 <= int(reset) <= 31 * 86_400
    return limit, remaining


def refused(response: httpx.Response, code: str = "rate_limit_exceeded") -> str:
    """The message of a refusal, which says when to come again."""
    assert response.status_code == 429, response.text
    error = error_of(response)
    assert error["code"] == code
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Retry-After"] == str(max(1, int(response.headers["X-RateLimit-Reset"])))
    assert standing(response)[1] in ("0", "0.000000")
    return str(error["message"])


def same_minute(*, left_s: float = 3) -> None:
    """Wait for the next minute where this one is nearly over: the tokens of a minute are those of the clock's."""
    if 60 - time.time() % 60 < left_s:
        time.sleep(60 - time.time() % 60 + 0.1)


# --- requests and turns ----------------------------------------------------------------------------------------------


def test_requests_per_minute_are_exact_under_a_crowd(client: Client) -> None:
    crowd = client("ten")
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: crowd.post(CHAT, json=ask(f"{number}")), range(50)))
    assert sorted(it.status_code for it in answers) == [200] * 10 + [429] * 40
    assert {standing(it)[0] for it in answers} == {"10"}
    assert sorted(int(standing(it)[1]) for it in answers if it.status_code == 200) == list(range(10))
    message = refused(next(it for it in answers if it.status_code == 429))
    assert "requests per minute (10)" in message


def test_requests_of_any_kind_count_as_requests(client: Client) -> None:
    caller = client("lists")
    responses = [caller.get(path) for path in ("/v1/models", "/v1/sessions", "/v1/providers", "/v1/models")]
    assert [it.status_code for it in responses] == [200, 200, 200, 429]
    assert [standing(it) for it in responses[:3]] == [("3", "2"), ("3", "1"), ("3", "0")]
    refused(responses[3])
    refused(caller.post(CHAT, json=ask("hello")))


def test_turns_at_a_time_are_bounded_and_their_places_come_free(client: Client) -> None:
    caller = client("two_turns")
    with begun_stream(caller, ask(SLOW)), begun_stream(caller, ask(SLOW)):
        for stream in (False, True):
            response = caller.post(CHAT, json=ask("third", stream=stream))
            assert "concurrent turns (2)" in refused(response)
            assert response.headers["Retry-After"] == "1"
        assert caller.get("/v1/models").status_code == 200
    eventually(lambda: caller.post(CHAT, json=ask("now")).status_code == 200, within_s=2)


@pytest.mark.parametrize(
    "body",
    [ask("[[do=crash]]"), ask("[[chunks=0]]"), ask("hi", model="nothing"), ask("hi", model="claude")],
    ids=["crash", "refused", "unknown model", "not installed"],
)
def test_turn_that_fails_gives_its_place_back(client: Client, body: dict[str, Any]) -> None:
    caller = client("one_turn")
    for _ in range(2):
        assert caller.post(CHAT, json=body).status_code not in (200, 429)
    assert answer_of(caller.post(CHAT, json=ask("fine"))) == "fine"


# --- tokens and money ------------------------------------------------------------------------------------------------


def test_tokens_of_the_minute_stop_the_next_turn(client: Client) -> None:
    same_minute()
    caller = client("minute")
    assert standing(caller.post(CHAT, json=ask("x" * 52))) == ("100", "100")
    assert standing(caller.post(CHAT, json=ask("x" * 52))) == ("100", "40")
    message = refused(caller.post(CHAT, json=ask("one more")))
    assert "tokens per minute (100)" in message
    assert caller.get("/v1/sessions").status_code == 200


def test_tokens_of_the_day_stop_the_next_turn(client: Client) -> None:
    caller = client("day")
    assert standing(caller.post(CHAT, json=ask("x" * 92))) == ("100", "100")
    response = caller.post(CHAT, json=ask("one more"))
    assert "tokens per day (100)" in refused(response)
    assert int(response.headers["Retry-After"]) <= 86_400


def test_tokens_of_a_cancelled_turn_are_booked(limited: HubProcess, keys: dict[str, str], client: Client) -> None:
    caller = client("day_cancelled")
    with begun_stream(caller, ask(SLOW)):
        pass
    eventually(lambda: bool(turns_of(limited, keys["day_cancelled"])))
    (turn,) = turns_of(limited, keys["day_cancelled"])
    assert (turn["outcome"], turn["is_estimated"]) == ("cancelled", 1)
    assert turn["input_tokens"] == (len(SLOW) + 3) // 4
    assert "tokens per day (10)" in refused(caller.post(CHAT, json=ask("more")))


def test_days_tokens_are_known_again_after_redis_lost_them(
    redis_server: RedisServer, limited: HubProcess, client: Client
) -> None:
    caller = client("day_flushed")
    caller.post(CHAT, json=ask("x" * 52))
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    assert standing(caller.post(CHAT, json=ask("x" * 32))) == ("100", "40")
    refused(caller.post(CHAT, json=ask("one more")))


def test_budget_wants_a_price_and_is_spent_by_it(limited: HubProcess, keys: dict[str, str], client: Client) -> None:
    """Of a model without a price nobody knows what it costs."""
    caller = client("dollars")
    response = caller.post(CHAT, json=ask("hello", model="gemini"))
    assert (response.status_code, error_of(response)["code"]) == (403, "model_not_allowed")
    assert error_of(response)["param"] == "model"
    assert "no price" in error_of(response)["message"]
    assert standing(caller.post(CHAT, json=ask("x" * 42))) == ("0.000100", "0.000100")
    assert standing(caller.post(CHAT, json=ask("x" * 42))) == ("0.000100", "0.000050")
    response = caller.post(CHAT, json=ask("one more"))
    assert "budget per day ($0.0001)" in refused(response, "budget_exceeded")
    assert error_of(response)["type"] == "insufficient_quota"
    assert response.headers["X-Should-Retry"] == "false"
    costs = [turn["cost_usd"] for turn in turns_of(limited, keys["dollars"]) if turn["outcome"] == "ok"]
    assert [float(cost) for cost in costs] == [0.00005, 0.00005]

    monthly = client("month")
    monthly.post(CHAT, json=ask("x" * 92)).raise_for_status()
    assert "budget per month" in refused(monthly.post(CHAT, json=ask("one more")), "budget_exceeded")


def test_budget_of_nothing_lets_no_turn_run(client: Client) -> None:
    assert "budget per day ($0)" in refused(client("no_dollars").post(CHAT, json=ask("hello")), "budget_exceeded")


def test_turn_whose_past_use_can_not_be_found_out_is_refused_for_a_while(limited: HubProcess, client: Client) -> None:
    caller = client("unknown_use")
    change(limited, "ALTER TABLE chat_turnrecord RENAME TO elsewhere")
    try:
        response = caller.post(CHAT, json=ask("hello"))
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
    finally:
        change(limited, "ALTER TABLE elsewhere RENAME TO chat_turnrecord")
    assert caller.post(CHAT, json=ask("hello")).status_code == 200


# --- what the caller is told -----------------------------------------------------------------------------------------


def test_every_answer_after_admission_says_where_the_key_stands(client: Client) -> None:
    caller = client("shown")
    left = iter(range(49, 0, -1))

    def shown(response: httpx.Response, status: int) -> None:
        assert response.status_code == status, response.text
        assert standing(response) == ("50", str(next(left)))

    shown(caller.post(CHAT, json=ask("hello")), 200)
    shown(caller.post(CHAT, json=ask("hello", stream=True)), 200)
    shown(caller.post(CHAT, json=ask("[[chunks=0]]")), 400)
    shown(caller.post(CHAT, json=ask("[[chunks=0]]", stream=True)), 400)
    shown(caller.post(CHAT, json=ask("hello", model="nothing")), 404)
    shown(caller.post(CHAT, json=ask("hello", model="nothing", stream=True)), 404)
    shown(caller.post(CHAT, json=ask("hello"), headers={SESSION: "*"}), 400)
    shown(caller.post(CHAT, json=ask("hello", model="claude")), 503)
    shown(caller.post(CHAT, json=ask("[[do=crash]]")), 502)
    shown(caller.get("/v1/models"), 200)
    shown(caller.get("/v1/models/nothing"), 404)
    shown(caller.get("/v1/sessions/nothing"), 404)
    shown(caller.delete("/v1/sessions/nothing"), 404)


def test_key_without_limits_gets_no_headers_of_them(client: Client) -> None:
    response = client("free").post(CHAT, json=ask("hello"))
    assert response.status_code == 200
    assert not any(name in response.headers for name in HEADERS)


# --- what a key may use ----------------------------------------------------------------------------------------------


def test_turn_needs_its_scope(client: Client) -> None:
    for stream in (False, True):
        response = client("no_chat").post(CHAT, json=ask("hello", stream=stream))
        assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")
    assert client("no_chat").get("/v1/sessions").status_code == 200


@pytest.mark.parametrize(
    "named", [{"model": "claude"}, {"model": "claude/opus"}, {"model": "opus"}, {"provider": "claude", "model": ""}]
)
def test_provider_that_is_named_must_be_allowed(client: Client, named: dict[str, str]) -> None:
    response = client("echo_only").post(CHAT, json=ask("hello", **named))
    assert (response.status_code, error_of(response)["code"]) == (403, "provider_not_allowed")
    assert error_of(response)["param"] == "provider"


def test_auto_looks_only_at_what_is_allowed(client: Client) -> None:
    """Neither is there; the message tells of the one that might be."""
    response = client("gemini_only").post(CHAT, json=ask("hello", model="auto"))
    assert (response.status_code, error_of(response)["code"]) == (503, "no_provider_ready")
    assert "gemini" in error_of(response)["message"]
    assert "claude" not in error_of(response)["message"]


def test_lists_show_what_is_allowed(client: Client) -> None:
    caller = client("gemini_only")
    names = {it["id"]: it["owned_by"] for it in caller.get("/v1/models").json()["data"]}
    assert set(names.values()) == {"auto", "gemini"}
    assert [it["name"] for it in caller.get("/v1/providers").json()["providers"]] == ["gemini"]
    assert caller.get("/v1/models/gemini").status_code == 200
    assert caller.get("/v1/models/echo").status_code == 404


def test_model_must_be_allowed_whatever_way_it_is_named(client: Client) -> None:
    caller = client("models")
    for named in ({"model": "echo"}, {"model": "sonnet"}, {"model": "claude"}, {"provider": "claude", "model": ""}):
        response = caller.post(CHAT, json=ask("hello", **named))
        assert (response.status_code, error_of(response)["code"]) == (403, "model_not_allowed")
    for model in ("opus", "claude/opus", "gemini-2.5-flash"):
        response = caller.post(CHAT, json=ask("hello", model=model))
        assert (response.status_code, error_of(response)["code"]) == (503, "provider_not_installed")


def test_auto_passes_over_a_provider_whose_model_is_not_allowed(client: Client) -> None:
    response = client("gemini_flash").post(CHAT, json=ask("hello", model="auto"))
    assert (response.status_code, error_of(response)["code"]) == (503, "no_provider_ready")
    assert "gemini" in error_of(response)["message"]
    assert "claude" not in error_of(response)["message"]


def test_model_list_shows_only_models_that_are_allowed(client: Client) -> None:
    names = {it["id"] for it in client("models").get("/v1/models").json()["data"]}
    assert {"opus", "claude/opus"} <= names
    assert not names & {"echo", "sonnet", "claude/sonnet"}


# --- while Redis is away ---------------------------------------------------------------------------------------------


def test_limits_hold_while_redis_is_away(redis_server: RedisServer, client: Client) -> None:
    caller = client("away")
    redis_server.stop()
    try:
        with begun_stream(caller, ask(SLOW)):
            response = caller.post(CHAT, json=ask("second"))
            assert "concurrent turns (1)" in refused(response)
        eventually(lambda: caller.post(CHAT, json=ask("alone again")).status_code == 200, within_s=2)
        response = caller.post(CHAT, json=ask("hello"))
        assert SESSION not in response.headers
        assert standing(response)[0] == "5"
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda _: caller.get("/v1/models"), range(10)))
        assert "requests per minute (5)" in refused(caller.post(CHAT, json=ask("hello")))
    finally:
        redis_server.start()
    eventually(lambda: SESSION in client("free").post(CHAT, json=ask("hello")).headers)


def test_tokens_used_while_redis_was_away_count_for_the_day(redis_server: RedisServer, client: Client) -> None:
    """Redis comes back with its counters, which know nothing of these turns."""
    caller = client("away_day")
    assert standing(caller.post(CHAT, json=ask("x" * 22))) == ("100", "100")
    redis_server.stop()
    try:
        assert standing(caller.post(CHAT, json=ask("x" * 32))) == ("100", "70")
        assert standing(caller.post(CHAT, json=ask("x" * 22))) == ("100", "30")
    finally:
        redis_server.start()
    eventually(lambda: SESSION in client("free").post(CHAT, json=ask("hello")).headers)
    response = caller.post(CHAT, json=ask("one more"))
    assert "tokens per day (100)" in refused(response)


# --- the counts alone ------------------------------------------------------------------------------------------------


@pytest.fixture
async def hot(redis_server: RedisServer) -> AsyncIterator[HotState]:
    hot = HotState(redis_server.url, timeout_s=2)
    await hot.start()
    yield hot
    await hot.stop()


async def nothing() -> None:
    """No turn of this process waits for the database."""


@pytest.fixture
def limits(hot: HotState) -> Limits:
    return Limits(hot, lease_s=15, settle=nothing)


key_ids = iter(range(1_000_000, 2_000_000))


@pytest.fixture
def key_id() -> int:
    """A key's that no hub knows of."""
    return next(key_ids)


async def admit(limits: Limits, key_id: int, of: KeyLimits, *, is_turn: bool = True, request: str = "") -> float:
    """What remains. Raises LimitReached."""
    standing = await limits.admit(key_id, of, request=request or new_id(), is_turn=is_turn)
    return standing.remaining


async def test_limits_are_exact_across_hubs(redis_server: RedisServer, limits: Limits, key_id: int) -> None:
    other_hot = HotState(redis_server.url, timeout_s=2)
    await other_hot.start()
    hubs = (limits, Limits(other_hot, lease_s=15, settle=nothing))
    asked = [admit(hubs[number % 2], key_id, KeyLimits(requests_per_minute=25)) for number in range(100)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(it for it in answers if isinstance(it, int)) == list(range(25))
    assert sum(isinstance(it, LimitReached) for it in answers) == 75
    await other_hot.stop()


async def test_requests_are_forgotten_after_a_minute(limits: Limits, hot: HotState, key_id: int) -> None:
    of = KeyLimits(requests_per_minute=2)
    for request in ("first", "second"):
        await admit(limits, key_id, of, request=request)
    name = f"{prefix(key_id)}requests"
    await hot.redis.zincrby(name, -59_000, "first")
    with pytest.raises(LimitReached) as caught:
        await admit(limits, key_id, of)
    assert 0 < caught.value.retry_after_s <= 1.0  # type: ignore[operator]
    await hot.redis.zincrby(name, -1_001, "first")
    assert await admit(limits, key_id, of) == 0
    with pytest.raises(LimitReached):
        await admit(limits, key_id, of)


async def test_refused_request_is_not_counted(limits: Limits, hot: HotState, key_id: int) -> None:
    of = KeyLimits(requests_per_minute=10, concurrent_turns=1)
    await admit(limits, key_id, of)
    for _ in range(20):
        with pytest.raises(LimitReached, match="concurrent turns"):
            await admit(limits, key_id, of)
    assert await admit(limits, key_id, of, is_turn=False) == 8


async def test_place_of_a_killed_hubs_turn_comes_free_and_a_renewed_one_does_not(hot: HotState, key_id: int) -> None:
    limits, of = Limits(hot, lease_s=0.5, settle=nothing), KeyLimits(concurrent_turns=2)
    await admit(limits, key_id, of, request="lost")
    await admit(limits, key_id, of, request="alive")
    with pytest.raises(LimitReached):
        await admit(limits, key_id, of)
    async with asyncio.timeout(WAIT_S):
        while await hot.redis.zscore(turns_key(key_id), "lost"):
            await limits.renew(key_id, of, "alive")
            with contextlib.suppress(LimitReached):
                await admit(limits, key_id, of, request="next")
    with pytest.raises(LimitReached):
        await admit(limits, key_id, of)
    await limits.book(key_id, of, "alive", tokens=0, cost_usd=0)
    await admit(limits, key_id, of)


async def test_nearest_limit_is_the_one_that_is_shown(limits: Limits, key_id: int) -> None:
    of = KeyLimits(requests_per_minute=100, concurrent_turns=4)
    shown = await limits.admit(key_id, of, request="one", is_turn=True)
    assert (shown.name, shown.limit, shown.remaining) == ("requests per minute", 100, 99)
    shown = await limits.admit(key_id, of, request="two", is_turn=True)
    assert (shown.name, shown.limit, shown.remaining) == ("concurrent turns", 4, 2)


@pytest.mark.django_db(transaction=True)
async def test_budget_is_counted_in_millionths_of_a_dollar(limits: Limits, key_id: int) -> None:
    of = KeyLimits(budget_day_usd=0.3, budget_month_usd=0.5)
    assert await admit(limits, key_id, of) == 0.3 * MICRO
    for number in range(3):
        await limits.book(key_id, of, f"{number}", tokens=1, cost_usd=0.1)
    with pytest.raises(BudgetSpent, match=r"budget per day \(\$0\.3\)") as caught:
        await admit(limits, key_id, of)
    assert 0 < caught.value.retry_after_s <= 86_400  # type: ignore[operator]


# --- counted by one process alone ------------------------------------------------------------------------------------


class Clock:
    time_s = 0.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


NOON = Today.now(datetime(2026, 1, 31, 12, tzinfo=UTC))


def alone(
    local: LocalLimits,
    of: KeyLimits,
    request: str = "",
    *,
    used: tuple[int, int, int] = (0, 0, 0),
    is_turn: bool = True,
) -> tuple[int, str, float]:
    """Verdict, the limit's name, and what remains."""
    numbers = of.as_numbers()
    verdict, name, _, left, _ = local.admit(1, numbers, request or new_id(), is_turn=is_turn, used=used, today=NOON)
    return verdict, name, left


def test_requests_counted_alone_are_of_the_last_minute(clock: Clock) -> None:
    local, of = LocalLimits(clock), KeyLimits(requests_per_minute=2)
    assert alone(local, of) == (1, "requests per minute", 1)
    clock.time_s = 30
    assert alone(local, of) == (1, "requests per minute", 0)
    verdict, _, limit, left, reset_ms = local.admit(1, of.as_numbers(), "x", is_turn=False, used=(0, 0, 0), today=NOON)
    assert [verdict, limit, left, reset_ms] == [0, 2, 0, 30_000]
    clock.time_s = 60
    assert alone(local, of) == (1, "requests per minute", 0)


def test_turns_and_tokens_are_counted_alone(clock: Clock) -> None:
    local, of = LocalLimits(clock), KeyLimits(concurrent_turns=1, tokens_per_minute=10)
    assert alone(local, of, "t1")[0] == 1
    assert alone(local, of, "t2")[:2] == (0, "concurrent turns")
    assert alone(local, of, "t3", is_turn=False)[0] == 1
    local.book(1, "t1", 10)
    assert alone(local, of, "t4")[:2] == (0, "tokens per minute")
    clock.time_s = 60
    assert alone(local, of, "t4")[0] == 1


@pytest.mark.parametrize(
    ("of", "used", "name"),
    [
        (KeyLimits(tokens_per_day=10), (10, 0, 0), "tokens per day"),
        (KeyLimits(budget_day_usd=0.5), (0, 500_000, 0), "budget per day"),
        (KeyLimits(budget_month_usd=0.5), (0, 0, 500_000), "budget per month"),
    ],
)
def test_calendars_limits_counted_alone_are_those_of_the_database(
    of: KeyLimits, used: tuple[int, int, int], name: str
) -> None:
    local = LocalLimits()
    less = (max(0, used[0] - 1), max(0, used[1] - 1), max(0, used[2] - 1))
    assert alone(local, of, used=less) == (1, name, 1)
    assert alone(local, of, used=used) == (0, name, 0)
    assert alone(local, of, used=used, is_turn=False)[0] == 1


@pytest.mark.parametrize(
    ("now", "day_s", "month_s"),
    [
        (datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), 1, 1),
        (datetime(2024, 2, 1, tzinfo=UTC), 86_400, 29 * 86_400),
        (datetime(2026, 12, 31, tzinfo=UTC), 86_400, 86_400),
    ],
)
def test_days_and_months_end_by_the_calendar(now: datetime, day_s: int, month_s: int) -> None:
    today = Today.now(now)
    assert (today.day_left_ms, today.month_left_ms) == (day_s * 1_000, month_s * 1_000)
    assert today.day.startswith(today.month)
