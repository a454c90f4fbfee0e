"""What the vendors said, shared by two hubs over one Redis: seen soon, survived, and tried by one request alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from chat.hot import HotState
from chat.leases import Leases
from chat.limits import Limits
from hubsite.shared_board import NOTES, POLL_S, SharedBoard, read_cooldowns
from hubsite.throttle import SharedThrottle
from providers.cooldowns import MOST_S, Board, Cooldown
from providers.errors import Busy
from providers.events import LimitNotice
from providers.throttle import OutboundLimits
from tests.redis_server import RedisServer, running_redis

LIMITED = "vendor_rate_limited"
WAIT_S = 10.0
# What the doors promise: every hub knows within a second; some more for a machine that has other things to do.
SOON_S = 2.0


async def soon(holds: Callable[[], object], *, within_s: float = SOON_S) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 (a board tells nobody of what it takes over)
            await asyncio.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as started:
        yield started


@asynccontextmanager
async def hub(server: RedisServer) -> AsyncIterator[SharedBoard]:
    """What one hub has of the vendors' limits."""
    hot = HotState(server.url, timeout_s=0.5)
    await hot.start()
    shared = SharedBoard(hot)
    await shared.start()
    try:
        yield shared
    finally:
        await shared.stop()
        await hot.stop()


@pytest.fixture
async def boards(server: RedisServer) -> AsyncIterator[tuple[Board, Board]]:
    async with hub(server) as one, hub(server) as two:
        yield one.board, two.board


def until(board: Board, model: str = "sonnet") -> float | None:
    cooldown = board.cooling("claude", model)
    return None if cooldown is None else cooldown.until


async def test_a_cooldown_of_one_hub_is_the_others_within_a_second(boards: tuple[Board, Board]) -> None:
    one, two = boards
    ends_at = time.time() + 600
    one.cool("claude", LIMITED, until=ends_at, window="five_hour")
    await soon(lambda: until(two) == ends_at)
    two.cool("claude", LIMITED, until=ends_at + 60, model="opus")
    await soon(lambda: until(one, "opus") == ends_at + 60)
    assert until(one) == ends_at


async def test_windows_are_shared_too(boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.note_limit("claude", LimitNotice("warning", "five_hour", time.time() + 600, 0.91))
    await soon(lambda: two.used_quota("claude") == 0.91)
    two.note_limit("claude", LimitNotice("warning", "five_hour", time.time() + 600, 0.95))
    await soon(lambda: one.used_quota("claude") == 0.95)


async def test_one_clears_it_for_both(boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.cool("claude", LIMITED, until=time.time() + 600)
    await soon(lambda: until(two))
    two.clear("claude")
    await soon(lambda: until(one) is None)
    assert not one.needs_probe("claude", "sonnet")


async def test_a_hub_whose_clock_is_wrong_neither_holds_the_others_nor_hushes_them(server: RedisServer) -> None:
    year_s = 365 * 86_400.0
    async with hub(server) as one, hub(server) as two:
        two.board.clock = lambda: time.time() + year_s
        two.board.cool("claude", LIMITED, until=time.time() + 2 * year_s)
        await asyncio.sleep(2 * POLL_S)
        assert until(one.board) is None
        ends_at = time.time() + 600
        one.board.cool("claude", LIMITED, until=ends_at)
        async with hub(server) as three:
            await soon(lambda: until(three.board) == ends_at)


async def test_what_another_hub_says_lasts_no_longer_than_a_vendors_word(boards: tuple[Board, Board]) -> None:
    one, _ = boards
    now = time.time()
    one.take_over(Cooldown("claude", LIMITED, now, now + 365 * 86_400.0))
    assert until(one) == pytest.approx(now + MOST_S, abs=5)


async def test_after_it_one_request_of_both_tries_and_its_answer_counts_for_both(boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.cool("claude", LIMITED, until=time.time() + 1)
    await soon(lambda: two.needs_probe("claude", "sonnet"))
    await soon(lambda: until(one) is None and until(two) is None, within_s=WAIT_S)
    tries = await asyncio.gather(*(board.may_probe("claude", "sonnet") for board in (one, two, one, two)))
    assert sum(tries) == 1
    trying = one if tries[0] or tries[2] else two
    trying.succeeded("claude", "sonnet")
    trying.end_probe("claude", "sonnet")
    await soon(lambda: not one.needs_probe("claude", "sonnet") and not two.needs_probe("claude", "sonnet"))


async def test_a_try_that_showed_nothing_is_left_to_the_other_hub(boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.cool("claude", LIMITED, until=time.time() + 1)
    await soon(lambda: two.needs_probe("claude", "sonnet"))
    await soon(lambda: until(one) is None and until(two) is None, within_s=WAIT_S)
    assert await one.may_probe("claude", "sonnet")
    one.end_probe("claude", "sonnet")
    await asyncio.sleep(0.2)
    assert await two.may_probe("claude", "sonnet")


async def test_a_hub_that_starts_knows_what_was_said_before(server: RedisServer) -> None:
    ends_at = time.time() + 600
    async with hub(server) as before:
        before.board.cool("claude", LIMITED, until=ends_at)
        before.board.note_limit("gemini", LimitNotice("warning", "per_day", ends_at, 0.9))
    server.kill()
    server.start()
    async with hub(server) as after:
        assert until(after.board) == ends_at
        assert after.board.used_quota("gemini") == 0.9
    with Redis.from_url(server.url) as redis:
        held = redis.hgetall(NOTES)
        assert [it.until for it in read_cooldowns(held)] == [ends_at]
        assert redis.ttl(NOTES) > 600


async def test_a_note_that_can_t_be_read_keeps_no_other_from_being_shared(
    server: RedisServer, boards: tuple[Board, Board]
) -> None:
    note = {"provider": "gemini", "code": LIMITED, "since": 1.0, "until": None}
    with Redis.from_url(server.url) as redis:
        redis.hset(NOTES, "broken", json.dumps({"kind": "cooldown", "is_over": False, "note": note}))
    await asyncio.sleep(2 * POLL_S)
    one, two = boards
    one.cool("claude", LIMITED, until=time.time() + 60)
    await soon(lambda: until(two) is not None)


async def test_without_redis_each_hub_goes_on_alone_and_they_agree_when_it_is_back(
    server: RedisServer, boards: tuple[Board, Board]
) -> None:
    one, two = boards
    ends_at = time.time() + 600
    server.kill()
    one.cool("claude", LIMITED, until=ends_at)
    assert until(one) == ends_at
    two.cool("gemini", LIMITED, until=time.time() + 1)
    await soon(lambda: two.cooling("gemini", "") is None, within_s=WAIT_S)
    assert await two.may_probe("gemini", "flash")
    server.start()
    await soon(lambda: until(two) == ends_at, within_s=WAIT_S)


async def test_a_redis_that_forgot_everything_is_told_again(server: RedisServer, boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.cool("claude", LIMITED, until=time.time() + 600)
    await soon(lambda: until(two))
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        await soon(lambda: redis.hlen(NOTES))
    assert until(one) == until(two)


async def test_what_another_version_wrote_is_passed_over(server: RedisServer) -> None:
    with Redis.from_url(server.url) as redis:
        redis.hset(NOTES, mapping={"a": b"\xff", "b": b"{}", "c": b'{"kind":"window","is_over":false,"note":{"x":1}}'})
    async with hub(server) as one:
        one.board.cool("claude", LIMITED, until=time.time() + 600)
        assert until(one.board)


# --- what is asked of the vendors ------------------------------------------------------------------------------------


@asynccontextmanager
async def throttles(server: RedisServer, count: int) -> AsyncIterator[list[SharedThrottle]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            hot, leases = HotState(server.url, timeout_s=0.5), Leases(lease_s=1.5)
            await hot.start()
            leases.start()
            throttle = SharedThrottle(Limits(hot, lease_s=1.5, settle=_nothing), leases)
            stack.push_async_callback(hot.stop)
            stack.push_async_callback(leases.stop)
            stack.push_async_callback(throttle.stop)
            found.append(throttle)
        yield found


async def _nothing() -> None:
    return


async def admitted(throttle: SharedThrottle, turn_id: str, limits: OutboundLimits, provider: str = "claude") -> bool:
    try:
        await throttle.enter(provider, turn_id, limits)
    except Busy as busy:
        assert busy.retry_after_s
        return False
    return True


async def test_concurrent_turns_are_counted_over_both_hubs(server: RedisServer) -> None:
    limits = OutboundLimits(concurrent_turns=2)
    async with throttles(server, 2) as (one, two):
        assert [await admitted(it, name, limits) for it, name in ((one, "a"), (two, "b"), (one, "c"))] == [1, 1, 0]
        assert await admitted(one, "d", limits, "gemini")
        await asyncio.sleep(2.5)  # longer than a lease: running turns hold on to their places
        assert not await admitted(two, "e", limits)
        one.leave("claude", "a")
        one.leave("claude", "never entered")
        await one.stop()
        assert await admitted(two, "f", limits)
        assert not await admitted(one, "g", limits)


async def test_requests_per_minute_are_counted_over_both_hubs(server: RedisServer) -> None:
    limits = OutboundLimits(requests_per_minute=3)
    async with throttles(server, 2) as (one, two):
        found = await asyncio.gather(*(admitted((one, two)[n % 2], str(n), limits) for n in range(8)))
        assert sum(found) == 3
        with pytest.raises(Busy) as caught:
            await one.enter("claude", "later", limits)
        assert caught.value.retry_after_s == pytest.approx(60, abs=5)


async def test_without_redis_each_hub_counts_for_itself(server: RedisServer) -> None:
    limits = OutboundLimits(concurrent_turns=1)
    async with throttles(server, 1) as (one,):
        server.kill()
        assert await admitted(one, "a", limits)
        assert not await admitted(one, "b", limits)
        one.leave("claude", "a")
        await one.stop()
        assert await admitted(one, "c", limits)
