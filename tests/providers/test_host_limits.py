"""Several pools on one host: who gets the places there are, who makes room, and that nobody is left without."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from providers.adapters.echo import EchoAdapter
from providers.engine import Engine
from providers.errors import ProviderError
from providers.events import TextDelta
from providers.host import PATIENCE_S, Host, HostLimits
from providers.pool import WorkerPool
from providers.pool_limits import PoolLimits
from providers.provider_config import ProviderConfig
from providers.roster import State
from tests.providers.fakes import BOUND_S, Clock, FakeWorker, Holder, Starter, ask, opened, take_turn, turn_over, until

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.breaker.FIRST_PAUSE_S", 0.01)


@pytest.fixture
def others(clock: Clock) -> Starter:
    """What makes the workers of a second pool."""
    return Starter(clock)


async def all_leave(*holders: Holder) -> None:
    for holder in holders:
        await holder.seated()
        await holder.leave()


# --- places ----------------------------------------------------------------------------------------------------------


async def test_all_pools_together_start_no_more_than_the_host_bears(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(max_workers=3))
    async with opened(starter, host=host, ceiling=8) as one, opened(others, host=host, ceiling=8) as two:
        holders = [Holder(pool, f"caller {n}") for n in range(4) for pool in (one, two)]
        await turn_over()
        assert host.live == one.live + two.live == 3
        assert one.live
        assert two.live
        await all_leave(*holders)
        assert host.live == 3


async def test_without_limits_pools_do_not_notice_each_other(starter: Starter, others: Starter) -> None:
    host = Host()
    async with opened(starter, host=host, ceiling=4) as one, opened(others, host=host, ceiling=4) as two:
        holders = [Holder(pool, f"caller {n}") for n in range(4) for pool in (one, two)]
        await turn_over()
        assert (one.live, two.live) == (4, 4)
        await all_leave(*holders)


async def test_a_place_that_gets_free_wakes_the_pool_that_waits_for_it(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(max_workers=1))
    async with opened(starter, host=host) as one, opened(others, host=host) as two:
        first, second = Holder(one), Holder(two)
        worker = await first.seated()
        await turn_over()
        assert two.live == 0
        worker.lives = False
        await first.leave()
        await all_leave(second)


async def test_a_caller_that_gives_up_leaves_its_place_in_line_to_another_pool(
    starter: Starter, others: Starter, clock: Clock
) -> None:
    host, third = Host(HostLimits(max_workers=1)), Starter(clock)
    async with (
        opened(starter, host=host) as one,
        opened(others, host=host) as two,
        opened(third, host=host) as three,
    ):
        first, gone, last = Holder(one), Holder(two), Holder(three)
        worker = await first.seated()
        await turn_over()
        await gone.cancel()
        worker.lives = False
        await first.leave()
        await all_leave(last)
        assert others.calls == 0


async def test_a_pool_that_closes_leaves_its_places_to_the_others(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(max_workers=1))
    async with opened(others, host=host) as two, opened(starter, host=host) as one:
        first, second = Holder(one), Holder(two)
        await first.seated()
        await turn_over()
        await one.close(grace_s=0)
        await second.seated()
        await all_leave(first, second)


# --- who makes room --------------------------------------------------------------------------------------------------


async def test_an_idle_worker_makes_room_for_a_turn_of_another_pool(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(max_workers=1))
    async with opened(starter, host=host) as one, opened(others, host=host) as two:
        idle = await take_turn(one)
        await take_turn(two)
        assert idle.is_stopped
        assert others.most_live == 1


async def test_the_least_useful_idle_worker_goes_first(starter: Starter, others: Starter, clock: Clock) -> None:
    """One that only keeps a conversation, then one beyond the floor, idle for longest, and the floor stays."""
    host = Host(HostLimits(max_workers=4))
    async with opened(starter, host=host, floor=1, kept=1) as one, opened(others, host=host) as two:
        await until(lambda: one.count(State.IDLE))
        holders = [Holder(one, binding=name, learns=b"tea" if name == "c" else None) for name in "abc"]
        workers = [await holder.seated() for holder in holders]
        for holder in holders:
            await holder.leave()
            clock.advance(1)
        await until(lambda: one.roster.unbound == 1)
        first, second, kept = workers
        went = []
        takers: list[Holder] = []
        for _ in range(3):
            takers.append(Holder(two, f"caller {len(takers)}"))
            await takers[-1].seated()
            went.append([worker.is_stopped for worker in (first, second, kept)])
        assert went == [[False, False, True], [True, False, True], [True, True, True]]
        waiting = Holder(two, "caller 3")
        await turn_over()
        assert one.roster.unbound == 1  # the floor is the owner's wish; that pool has workers to wait for
        await all_leave(*takers, waiting)


async def test_even_the_floor_makes_room_for_a_pool_that_has_no_worker(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(max_workers=2))
    async with opened(starter, host=host, floor=2) as one, opened(others, host=host) as two:
        await until(lambda: one.count(State.IDLE) == 2)
        holders = [Holder(two, f"caller {n}") for n in range(2)]
        await holders[0].seated()
        await turn_over()
        assert one.live == 1
        await all_leave(*holders)
        assert others.calls == 1


async def test_a_busy_pool_does_not_keep_every_place_from_one_that_has_none(starter: Starter, others: Starter) -> None:
    """The next worker given back goes, though turns of its own pool wait for it."""
    host = Host(HostLimits(max_workers=2))
    async with opened(starter, host=host) as one, opened(others, host=host) as two:
        holders = [Holder(one, f"caller {n}") for n in range(6)]
        await until(lambda: sum(holder.is_seated for holder in holders) == 2)
        late = Holder(two)
        await turn_over()
        await next(holder for holder in holders if holder.is_seated).leave()
        await late.seated()
        assert one.waiting
        assert one.live == 1
        await all_leave(late, *holders)


async def test_one_place_goes_round_between_two_pools_that_are_never_idle(
    starter: Starter, others: Starter, clock: Clock
) -> None:
    host = Host(HostLimits(max_workers=1))
    async with opened(starter, host=host) as one, opened(others, host=host) as two:
        hers = [Holder(one, "alice"), Holder(one, "alice")]
        await hers[0].seated()
        his = [Holder(two, f"bob {n}") for n in range(3)]
        await turn_over()
        hers.append(Holder(one, "alice"))
        await hers[0].leave()
        await hers[1].seated()
        assert others.calls == 0
        clock.advance(PATIENCE_S)
        await hers[1].leave()
        await his[0].seated()
        clock.advance(PATIENCE_S)
        await his[0].leave()
        await his[1].seated()  # it came before the third of hers
        await all_leave(*his[1:], hers[2])


# --- floors ----------------------------------------------------------------------------------------------------------


async def test_floors_beyond_the_limit_are_told_and_filled_as_far_as_there_is_room(
    starter: Starter, others: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(HostLimits(max_workers=3))
    async with opened(starter, host=host, floor=2) as one, opened(others, host=host, floor=2, watch_s=0.005) as two:
        await until(lambda: one.count(State.IDLE) == 2 and two.count(State.IDLE) == 1)
        await asyncio.sleep(0.02)
        assert host.live == 3
    assert "the floors of all pools come to 4 workers, the host's limit is 3" in caplog.text


async def test_a_floor_takes_no_place_that_a_waiting_turn_lacks(
    starter: Starter, others: Starter, clock: Clock
) -> None:
    host = Host(HostLimits(max_workers=2))
    async with opened(starter, host=host) as one:
        holders = [Holder(one, f"caller {n}") for n in range(3)]
        worker = await holders[0].seated()
        await holders[1].seated()
        async with opened(others, host=host, floor=1):
            worker.lives = False
            await holders[0].leave()
            await all_leave(*holders[1:])
            assert others.calls == 0


# --- memory ----------------------------------------------------------------------------------------------------------


async def test_the_memory_of_all_workers_together_bounds_their_number(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(memory_bytes=1_000))
    limits: dict[str, Any] = {"rss_bytes": 600, "hard_rss_bytes": 0}
    async with opened(starter, host=host, **limits) as one, opened(others, host=host, **limits) as two:
        holders = [Holder(pool, f"caller {n}") for n in range(3) for pool in (one, two)]
        await turn_over()
        assert host.live == 3
        await all_leave(*holders)


async def test_one_worker_is_allowed_however_little_memory_there_is(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(memory_bytes=1))
    async with opened(starter, host=host) as one, opened(others, host=host) as two:
        await take_turn(one)
        await take_turn(two)
        assert host.live == 1


async def test_the_biggest_idle_worker_goes_when_all_together_hold_too_much(starter: Starter, others: Starter) -> None:
    host = Host(HostLimits(memory_bytes=1_000))
    limits: dict[str, Any] = {"rss_bytes": 900, "hard_rss_bytes": 0, "watch_s": 0.005}
    async with opened(starter, host=host, **limits) as one, opened(others, host=host, **limits) as two:
        small, big = await take_turn(one), await take_turn(two)
        small.rss = 400
        big.rss = 700
        await until(lambda: big.is_stopped)
        await asyncio.sleep(0.02)
        assert not small.is_stopped


# --- the whole engine ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_ladder")
async def test_the_providers_of_an_engine_share_their_host(tmp_path: Path) -> None:
    """Real processes: the warm worker of one provider makes room for a turn of the other."""
    configs = [ProviderConfig(EchoAdapter, name=name, pool=PoolLimits(floor=1)) for name in ("one", "two")]
    limits = HostLimits(max_workers=1)
    engine = Engine(configs, data_folder=tmp_path, environ={}, max_starts=2, limits=limits)
    await engine.start()
    try:
        for name in ("one", "two", "one"):
            text = "".join(
                [event.text async for event in engine.provider(name).run(ask("hello")) if isinstance(event, TextDelta)]
            )
            assert text == "hello"
            pools = [provider.pool for provider in engine.providers.values()]
            assert sum(pool.live for pool in pools if pool is not None) == 1
    finally:
        await engine.close(grace_s=0)


# --- everything at once ----------------------------------------------------------------------------------------------


async def call(pool: WorkerPool, number: int, draw: random.Random, answered: set[int]) -> None:
    with suppress(ProviderError):
        async with pool.lease(caller=f"caller {number % 3}", binding=draw.choice("abc")) as lease:
            assert isinstance(lease.worker, FakeWorker)
            for _ in range(draw.randrange(8)):
                await asyncio.sleep(0)
            lease.worker.turns += 1
            lease.worker.lives = draw.random() > 0.05
            lease.worker.holds = draw.choice((None, b"tea"))
            answered.add(number)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_the_pools_do_the_limit_holds_and_every_turn_is_answered(
    clock: Clock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.planning.PATIENCE_S", 0.001)
    monkeypatch.setattr("providers.host.PATIENCE_S", 0.001)
    monkeypatch.setattr("providers.breaker.FIRST_PAUSE_S", 0.0001)
    draw, most, answered = random.Random(seed), 1 + seed % 4, set[int]()
    host = Host(HostLimits(max_workers=most))
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(
                opened(Starter(clock), name=f"pool {n}", host=host, floor=n % 2, kept=seed % 2, watch_s=0.002)
            )
            for n in range(4)
        ]
        tasks, given_up = [], set[int]()
        for number in range(200):
            tasks.append(asyncio.create_task(call(draw.choice(pools), number, draw, answered)))
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
                assert host.live <= most
                assert host.live == sum(pool.live for pool in pools)
            if draw.random() < 0.1:
                given_up.add(victim := draw.randrange(len(tasks)))
                tasks[victim].cancel()
        _, late = await asyncio.wait(tasks, timeout=BOUND_S)
        assert not late
        assert answered | given_up == set(range(200))
        await until(lambda: host.live == sum(pool.count(State.IDLE) for pool in pools))
