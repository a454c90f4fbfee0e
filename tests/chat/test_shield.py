"""Requests that come again: which of them share one turn, and that no client ever gets another one's answer."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest
from redis import Redis

from chat import shield as shield_module
from chat.errors import IdempotencyKeyReused
from chat.shield import Mark, RetryShield, WholeAnswer
from hubsite.private_redis import PrivateRedis
from tests.asking import (
    CHAT,
    SESSION,
    WAIT_S,
    answer_of,
    ask,
    client_of,
    error_of,
    eventually,
    make_keys,
    streamed_text,
    turns_of,
)
from tests.hub import HubProcess, running_hub

JOIN_S = 2.0
SLOW = "[[chunks=5 delay=0.2]] one answer"
ENDLESS = ask("[[chunks=100 delay=0.5]] nobody waits for its end")


@pytest.fixture(scope="module")
def shielded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with a single worker that ends abandoned turns soon."""
    env = {
        "HUB_PROVIDERS": "echo",
        "HUB_ECHO_CEILING": "1",
        "HUB_RETRY_JOIN_S": str(JOIN_S),
        "HUB_SHUTDOWN_GRACE_S": "1",
    }
    with running_hub(tmp_path_factory.mktemp("shielded"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def spare_keys(shielded: HubProcess) -> Iterator[str]:
    """Keys without any turn, one for each test."""
    return iter(make_keys(shielded, **{f"key{number}": {} for number in range(40)}).values())


@pytest.fixture
def key(spare_keys: Iterator[str]) -> str:
    return next(spare_keys)


@pytest.fixture
def client(shielded: HubProcess, key: str) -> Iterator[httpx.Client]:
    with client_of(shielded, key) as made:
        yield made


def post(client: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
    # Retries are known by their bytes, and httpx writes JSON as abandon() does not.
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(CHAT, content=json.dumps(body).encode(), headers=named)


def outcomes(hub: HubProcess, key: str) -> list[str]:
    return [turn["outcome"] for turn in turns_of(hub, key)]


def abandon(hub: HubProcess, key: str, body: dict[str, Any], **headers: str) -> None:
    """A request whose client hangs up in the middle of its turn."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT_S) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        eventually(lambda: is_busy(hub))
        before = hang_ups(hub)
    # A retry that is faster than the news would find a client that is still there.
    eventually(lambda: hang_ups(hub) > before)


def is_busy(hub: HubProcess) -> bool:
    """Whether a turn is under way, by the lock of its session."""
    with closing(Redis.from_url(PrivateRedis(hub.data_dir / "redis").url)) as redis:
        return bool(redis.keys("hub:session:*:lock"))


def hang_ups(hub: HubProcess) -> int:
    return hub.log.read_text().count(" 499 in ")


# --- Idempotency-Key -------------------------------------------------------------------------------------------------


def test_same_key_and_body_get_the_same_answer_without_a_second_turn(
    shielded: HubProcess, key: str, client: httpx.Client
) -> None:
    first, second = (post(client, ask("once"), Idempotency_Key="k1") for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    for name in (SESSION, "X-Hub-Provider", "X-RateLimit-Limit"):
        assert first.headers[name] == second.headers[name]
    assert outcomes(shielded, key) == ["ok"]


def test_same_key_at_the_same_time_is_one_turn_that_all_get(
    shielded: HubProcess, key: str, client: httpx.Client
) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(client, ask(SLOW), Idempotency_Key="k1"), range(4)))
    assert answer_of(answers[0]) == SLOW
    assert len({answer.content for answer in answers}) == 1
    assert outcomes(shielded, key) == ["ok"]


def test_key_stands_for_one_request(shielded: HubProcess, key: str, client: httpx.Client) -> None:
    post(client, ask("one"), Idempotency_Key="k1")
    for body, session_id in ((ask("two"), ""), (ask("one"), "another-session")):
        response = post(client, body, Idempotency_Key="k1", **({SESSION: session_id} if session_id else {}))
        assert (response.status_code, error_of(response)["code"]) == (400, "idempotency_key_reused")
        assert error_of(response)["param"] == "Idempotency-Key"
    assert answer_of(post(client, ask("two"), Idempotency_Key="k2")) == "two"
    assert outcomes(shielded, key) == ["ok", "ok"]


def test_same_key_of_another_caller_is_another_request(
    shielded: HubProcess, client: httpx.Client, key: str, spare_keys: Iterator[str]
) -> None:
    others = next(spare_keys)
    post(client, ask("mine"), Idempotency_Key="k1")
    with client_of(shielded, others) as bob:
        assert answer_of(post(bob, ask("his"), Idempotency_Key="k1")) == "his"
        assert answer_of(post(bob, ask("mine"), Idempotency_Key="k2")) == "mine"
    assert (outcomes(shielded, key), outcomes(shielded, others)) == (["ok"], ["ok", "ok"])


def test_streams_are_never_shared(shielded: HubProcess, key: str, client: httpx.Client) -> None:
    for _ in range(2):
        response = post(client, ask("once", stream=True), Idempotency_Key="k1", X_Stainless_Retry_Count="1")
        assert streamed_text(response) == "once"
    assert outcomes(shielded, key) == ["ok", "ok"]


@pytest.mark.parametrize(("question", "code"), [("[[do=crash]]", "worker_crashed"), ("[[chunks=0]]", "turn_refused")])
def test_failure_is_not_kept(shielded: HubProcess, key: str, client: httpx.Client, question: str, code: str) -> None:
    failed = [error_of(post(client, ask(question), Idempotency_Key="k1"))["code"] for _ in range(2)]
    assert len(set(failed)) == 1
    assert outcomes(shielded, key) == failed
    assert answer_of(post(client, ask("now another"), Idempotency_Key="k1")) == "now another"


def test_key_of_any_length_but_a_huge_one_is_taken(client: httpx.Client) -> None:
    assert post(client, ask("hello"), Idempotency_Key="k" * 255).status_code == 200
    response = post(client, ask("hello"), Idempotency_Key="k" * 256)
    assert (response.status_code, error_of(response)["param"]) == (400, "Idempotency-Key")


# --- an SDK's retries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [{"X_Stainless_Retry_Count": "0"}, {"Idempotency_Key": "k1"}], ids=["sdk", "key"])
def test_retry_of_a_client_that_went_away_joins_its_turn(
    shielded: HubProcess, key: str, client: httpx.Client, first: dict[str, str]
) -> None:
    abandon(shielded, key, ask(SLOW), **first)
    again = {"X_Stainless_Retry_Count": "1"} if "Idempotency_Key" not in first else first
    assert answer_of(post(client, ask(SLOW), **again)) == SLOW
    assert outcomes(shielded, key) == ["ok"]


def test_answer_that_nobody_waited_for_is_there_for_the_retry(
    shielded: HubProcess, key: str, client: httpx.Client
) -> None:
    abandon(shielded, key, ask(SLOW), X_Stainless_Retry_Count="0")
    eventually(lambda: outcomes(shielded, key) == ["ok"])
    for _ in range(2):
        assert answer_of(post(client, ask(SLOW), X_Stainless_Retry_Count="2")) == SLOW
    # The second one found nothing any more: its turn is its own.
    assert outcomes(shielded, key) == ["ok", "ok"]


@pytest.mark.parametrize("count", ["0", "1"])
def test_clients_that_are_both_there_have_a_turn_each(
    shielded: HubProcess, key: str, client: httpx.Client, count: str
) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda _: post(client, ask(SLOW), X_Stainless_Retry_Count=count), range(2))
        assert [answer_of(answer) for answer in answers] == [SLOW, SLOW]
    assert outcomes(shielded, key) == ["ok", "ok"]


def test_retry_of_nothing_has_a_turn_of_its_own(shielded: HubProcess, key: str, client: httpx.Client) -> None:
    for _ in range(2):
        assert answer_of(post(client, ask("hello"), X_Stainless_Retry_Count="1")) == "hello"
    assert outcomes(shielded, key) == ["ok", "ok"]


def test_retry_gets_no_answer_of_another_caller(
    shielded: HubProcess, key: str, client: httpx.Client, spare_keys: Iterator[str]
) -> None:
    others = next(spare_keys)
    abandon(shielded, others, ask(SLOW), X_Stainless_Retry_Count="0")
    assert answer_of(post(client, ask(SLOW), X_Stainless_Retry_Count="1")) == SLOW
    assert outcomes(shielded, key) == ["ok"]


def test_turn_that_nobody_comes_back_for_ends_and_frees_its_worker(
    shielded: HubProcess, key: str, client: httpx.Client
) -> None:
    abandon(shielded, key, ENDLESS, X_Stainless_Retry_Count="0")
    began_at = time.monotonic()
    assert answer_of(client.post(CHAT, json=ask("next"))) == "next"
    assert JOIN_S / 2 < time.monotonic() - began_at < JOIN_S + 2
    eventually(lambda: sorted(outcomes(shielded, key)) == ["cancelled", "ok"])


def test_request_without_a_mark_ends_with_its_client(shielded: HubProcess, key: str, client: httpx.Client) -> None:
    abandon(shielded, key, ENDLESS)
    began_at = time.monotonic()
    assert answer_of(client.post(CHAT, json=ask("next"))) == "next"
    assert time.monotonic() - began_at < JOIN_S / 2


# --- the shield alone ------------------------------------------------------------------------------------------------


class Maker:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[WholeAnswer]] = []

    async def __call__(self) -> WholeAnswer:
        made: asyncio.Future[WholeAnswer] = asyncio.get_running_loop().create_future()
        self.runs.append(made)
        return await made

    def finish(self, body: bytes = b"done") -> None:
        self.runs[-1].set_result(WholeAnswer(body, {}))


@pytest.fixture
async def shield() -> AsyncIterator[RetryShield]:
    made = RetryShield(join_s=60, keep_s=60)
    yield made
    await made.stop()


@pytest.fixture
def make() -> Maker:
    return Maker()


def sdk(count: int, *, caller: int = 1) -> Mark:
    return Mark(caller, b"digest", is_retry=count > 0)


def keyed(word: str = "k1", *, digest: bytes = b"digest") -> Mark:
    return Mark(1, digest, word)


async def turns_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def leave(waiting: asyncio.Task[WholeAnswer]) -> None:
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def begun(shield: RetryShield, mark: Mark, make: Maker) -> asyncio.Task[WholeAnswer]:
    waiting = asyncio.create_task(shield.answer(mark, make))
    await turns_of_the_loop()
    return waiting


async def test_retry_may_leave_and_come_back_too(shield: RetryShield, make: Maker) -> None:
    await leave(await begun(shield, sdk(0), make))
    await leave(await begun(shield, sdk(1), make))
    third = await begun(shield, sdk(2), make)
    make.finish()
    assert (await third).body == b"done"
    assert len(make.runs) == 1
    assert not shield._runs


async def test_of_two_retries_only_one_joins(shield: RetryShield, make: Maker) -> None:
    await leave(await begun(shield, sdk(0), make))
    await begun(shield, sdk(1), make)
    await begun(shield, sdk(1), make)
    assert len(make.runs) == 2


async def test_answer_that_was_given_is_not_given_again_but_by_its_key(shield: RetryShield, make: Maker) -> None:
    for mark, runs in ((sdk(0), 1), (keyed(), 2)):
        first = await begun(shield, mark, make)
        make.finish()
        await first
        assert len(make.runs) == runs
    assert (await shield.answer(keyed(), make)).body == b"done"
    await begun(shield, sdk(1), make)
    assert len(make.runs) == 3


async def test_key_is_bound_to_its_request_while_that_is_under_way(shield: RetryShield, make: Maker) -> None:
    await begun(shield, keyed(), make)
    with pytest.raises(IdempotencyKeyReused):
        await shield.answer(keyed(digest=b"another"), make)


async def test_failure_reaches_all_who_wait_and_is_forgotten(shield: RetryShield, make: Maker) -> None:
    waiting = [await begun(shield, keyed(), make) for _ in range(3)]
    make.runs[0].set_exception(ValueError("it broke"))
    for it in waiting:
        with pytest.raises(ValueError, match="it broke"):
            await it
    assert len(make.runs) == 1
    assert not shield._runs


async def test_failure_that_nobody_waits_for_is_forgotten(shield: RetryShield, make: Maker) -> None:
    await leave(await begun(shield, sdk(0), make))
    make.runs[0].set_exception(ValueError("it broke"))
    await turns_of_the_loop()
    assert not shield._runs


async def test_nothing_is_left_when_the_times_are_over(make: Maker) -> None:
    shield = RetryShield(join_s=0.05, keep_s=0.05)
    await leave(await begun(shield, sdk(0), make))
    kept = await begun(shield, keyed(), make)
    make.finish()
    await kept
    async with asyncio.timeout(WAIT_S):
        while shield._runs:  # noqa: ASYNC110 (a shield tells nobody)
            await asyncio.sleep(0.01)
    assert make.runs[0].cancelled()


@pytest.mark.parametrize(("bound", "value"), [("MAX_KEPT", 10), ("MAX_KEPT_BYTES", 1_000)])
async def test_kept_answers_are_bounded_and_the_oldest_go_first(
    shield: RetryShield, make: Maker, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(shield_module, bound, value)
    for number in range(30):
        waiting = await begun(shield, keyed(f"k{number}"), make)
        make.finish(b"x" * 100)
        await waiting
    assert [name for _, name in shield._runs] == [f"k{number}" for number in range(20, 30)]


def test_retry_count_that_is_no_count_is_ignored(client: httpx.Client) -> None:
    for count in ("9" * 5_000, "-1", "1.5", "٣"):
        headers = {b"X-Stainless-Retry-Count": count.encode()}
        assert answer_of(client.post(CHAT, json=ask("Hello"), headers=headers)) == "Hello"


def test_repeat_is_counted_and_told_of_todays_limit(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "limits"}
    left = [
        int(client.post(CHAT, json=ask("Hello"), headers=headers).headers["X-RateLimit-Remaining"]) for _ in range(3)
    ]
    assert left == [left[0], left[0] - 1, left[0] - 2]


async def test_stopping_waits_for_an_answer_its_client_waits_for() -> None:
    shield = RetryShield(join_s=60, keep_s=60)
    may_end = asyncio.Event()

    async def make() -> WholeAnswer:
        await may_end.wait()
        return WholeAnswer(b"{}", {})

    client = asyncio.create_task(shield.answer(Mark(1, b"digest"), make))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(shield.stop())
    await asyncio.sleep(0)
    may_end.set()
    assert (await client).body == b"{}"
    await stopping
