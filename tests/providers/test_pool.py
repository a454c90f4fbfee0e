"""The pool's decisions, with workers that are no processes: every state is the test's to choose."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import chain

import pytest

from providers.breaker import FAILURES_TO_OPEN
from providers.errors import Busy, CrashLoop, NotInstalled, ProviderError, ShuttingDown, WorkerCrashed, WorkerFailed
from providers.planning import MAKE_ROOM_AFTER_S, PATIENCE_S, REFILL_DELAY_S
from providers.pool import LASTING_AFTER_S, WorkerPool
from providers.roster import State
from tests.providers.fakes import (
    BOUND_S,
    FOREVER_S,
    Clock,
    FakeWorker,
    Holder,
    Starter,
    opened,
    take_turn,
    turn_over,
    until,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.breaker.FIRST_PAUSE_S", 0.01)


# --- lending ---------------------------------------------------------------------------------------------------------


async def test_a_lease_tells_how_its_worker_came_to_be_there(starter: Starter) -> None:
    async with opened(starter) as pool:
        kinds = []
        for _ in range(2):
            holder = Holder(pool)
            await holder.seated()
            assert holder.lease is not None
            kinds.append(holder.lease.start)
            await holder.leave()
    async with opened(starter, floor=1) as pool:
        await until(lambda: pool.count(State.IDLE))
        holder = Holder(pool)
        await holder.seated()
        assert holder.lease is not None
        kinds.append(holder.lease.start)
        await holder.leave()
    assert kinds == ["cold", "reused", "warm"]


async def test_a_worker_is_used_again_by_turns_of_its_binding(starter: Starter) -> None:
    async with opened(starter) as pool:
        first = await take_turn(pool, binding="alice")
        assert await take_turn(pool, binding="alice") is first
        assert first.binding == "alice"
        assert first.resets == 2
        assert starter.calls == 1


async def test_a_worker_is_never_shared_by_two_bindings(starter: Starter) -> None:
    async with opened(starter) as pool:
        hers = await take_turn(pool, binding="alice")
        assert await take_turn(pool, "bob", binding="bob") is not hers
        assert await take_turn(pool, binding="alice") is hers


async def test_the_worker_used_last_is_lent_first(starter: Starter) -> None:
    """Its caches are warm, and the others grow old enough to be let go."""
    async with opened(starter) as pool:
        one, two = Holder(pool), Holder(pool)
        await one.seated()
        await two.seated()
        await two.leave()
        await one.leave()
        assert await take_turn(pool) is one.worker


async def test_a_worker_of_the_callers_own_is_preferred_to_a_fresh_one(starter: Starter) -> None:
    async with opened(starter, floor=1) as pool:
        hers = await take_turn(pool)
        await until(lambda: pool.count(State.IDLE) == 2)
        assert await take_turn(pool) is hers


async def test_a_worker_is_not_lent_while_it_is_emptied(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        first = Holder(pool)
        (await first.seated()).may_reset.clear()
        await first.leave()
        second = Holder(pool)
        await turn_over()
        assert pool.count(State.TIDYING) == 1
        assert not second.is_seated
        first.worker.may_reset.set()
        assert await second.seated() is first.worker
        await second.leave()


async def test_a_worker_with_nothing_to_empty_is_free_at_once(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        first, second = Holder(pool), Holder(pool)
        (await first.seated()).is_spent = False
        await turn_over()
        first.worker.may_reset.clear()
        await first.leave()
        assert await second.seated() is first.worker
        first.worker.lives = False
        await second.leave()
        await until(lambda: first.worker.is_stopped)  # a dead one is not left to the next turn


async def test_a_pool_says_what_it_holds(starter: Starter) -> None:
    async with opened(starter, ceiling=2, floor=1) as pool:
        await until(lambda: pool.count(State.IDLE))
        one, two, three = Holder(pool), Holder(pool), Holder(pool)
        await one.seated()
        await two.seated()
        assert repr(pool) == "<WorkerPool fake: 0 idle, 2 busy, 0 tidying, 0 retiring, 0 starting, 1 waiting>"
        assert (pool.live, pool.waiting) == (2, 1)
        for holder in (one, two, three):
            await holder.leave()


# --- the queue -------------------------------------------------------------------------------------------------------


async def test_a_caller_with_many_turns_does_not_starve_one_with_a_single_turn(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        first = Holder(pool, "alice", binding="shared")
        await first.seated()
        waiting = [Holder(pool, "alice", binding="shared") for _ in range(5)]
        await turn_over()
        waiting.append(Holder(pool, "bob", binding="shared"))
        await turn_over()
        served, holder = [], first
        while waiting:
            await holder.leave()
            await until(lambda: any(waiter.is_seated for waiter in waiting))
            (holder,) = [waiter for waiter in waiting if waiter.is_seated]
            waiting.remove(holder)
            served.append(holder.caller)
        await holder.leave()
        assert served.index("bob") <= 1


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(starter: Starter) -> None:
    async with opened(starter, ceiling=1, queue=2) as pool:
        holders = [Holder(pool)]
        await holders[0].seated()
        holders += [Holder(pool), Holder(pool)]
        await turn_over()
        refused = await Holder(pool).refusal()
        assert isinstance(refused, Busy)
        assert refused.retry_after_s
        assert pool.waiting == 2
        for holder in holders:
            await holder.leave()
        await take_turn(pool)


async def test_a_wait_that_is_too_long_ends_and_leaves_the_queue(starter: Starter) -> None:
    async with opened(starter, ceiling=1, queue_wait_s=0.05) as pool:
        holder = Holder(pool)
        await holder.seated()
        refused = await Holder(pool).refusal()
        assert isinstance(refused, Busy)
        assert refused.retry_after_s
        assert pool.waiting == 0
        await holder.leave()
        await take_turn(pool)


async def test_a_caller_cancelled_while_it_waits_leaves_the_queue(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder, gone, patient = Holder(pool), Holder(pool), Holder(pool)
        await holder.seated()
        await gone.cancel()
        assert pool.waiting == 1
        await holder.leave()
        assert await patient.seated() is holder.worker
        await patient.leave()


async def test_a_caller_cancelled_at_the_hand_over_gives_its_worker_back(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder, unlucky, patient = Holder(pool), Holder(pool), Holder(pool)
        worker = await holder.seated()
        worker.may_reset.clear()
        await holder.leave()
        waiter = next(iter(pool._queue))
        worker.may_reset.set()
        while not waiter.seat.done():  # noqa: ASYNC110 (the step between the hand-over and the caller's next one)
            await asyncio.sleep(0)
        unlucky.task.cancel()
        assert await patient.seated() is worker
        assert unlucky.task.cancelled()
        assert not unlucky.is_seated
        await patient.leave()


async def test_a_worker_is_not_given_to_one_who_has_just_been_cancelled(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder, gone, patient = Holder(pool), Holder(pool), Holder(pool)
        worker = await holder.seated()
        gone.task.cancel()
        pool.roster.set(worker, State.IDLE)
        pool._settle()
        assert await patient.seated() is worker
        pool.roster.set(worker, State.BUSY)
        await patient.leave()
        await holder.leave()
        assert gone.task.cancelled()


async def test_a_caller_cancelled_within_its_turn_gives_its_worker_back(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        await holder.cancel()
        assert await take_turn(pool) is worker


async def test_a_caller_that_fails_within_its_turn_gives_its_worker_back(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        with suppress(RuntimeError):
            async with pool.lease(caller="alice", binding="alice"):
                raise RuntimeError
        await take_turn(pool)
        assert starter.calls == 1


# --- the ceiling -----------------------------------------------------------------------------------------------------


async def test_no_more_processes_are_started_than_the_ceiling_allows(starter: Starter) -> None:
    starter.may_start.clear()
    async with opened(starter, ceiling=2, floor=2) as pool:
        holders = [Holder(pool, f"caller {n}", binding=n) for n in range(5)]
        await turn_over()
        assert starter.calls == pool.live == 2
        starter.may_start.set()
        for holder in holders:
            await holder.seated()
            await holder.leave()
        assert starter.most_live == 2


async def test_no_more_are_started_at_a_time_than_the_hub_can_bear(starter: Starter) -> None:
    starter.may_start.clear()
    async with opened(starter, starts=2, ceiling=8) as pool:
        holders = [Holder(pool) for _ in range(8)]
        await turn_over()
        assert starter.under_way == 2
        starter.may_start.set()
        for holder in holders:
            await holder.seated()
        assert starter.most_under_way == 2
        for holder in holders:
            await holder.leave()


async def test_a_retiring_worker_keeps_its_seat_until_it_is_gone(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        old = await take_turn(pool, binding="alice")
        old.may_stop.clear()
        bob = Holder(pool, "bob", binding="bob")
        await turn_over()
        assert pool.count(State.RETIRING) == pool.live == starter.calls == 1
        old.may_stop.set()
        assert await bob.seated() is not old
        await bob.leave()


async def test_workers_in_the_way_are_let_go_but_no_more_than_needed(starter: Starter) -> None:
    async with opened(starter, ceiling=3) as pool:
        old = [await take_turn(pool, binding=n) for n in range(3)]
        bob = await take_turn(pool, "bob", binding="bob")
        assert [worker.is_stopped for worker in old] == [True, False, False]  # the one unused for longest
        assert bob.binding == "bob"


async def test_no_second_worker_is_let_go_for_one_who_has_a_place_coming(starter: Starter) -> None:
    async with opened(starter, ceiling=3) as pool:
        old = [await take_turn(pool, binding=n) for n in range(3)]
        for worker in old:
            worker.may_stop.clear()
        bobs = [Holder(pool, "bob", binding="bob") for _ in range(2)]
        await turn_over()
        pool._settle()
        assert (pool.count(State.RETIRING), pool.count(State.IDLE)) == (2, 1)
        starter.may_start.clear()
        for worker in old:
            worker.may_stop.set()
        await turn_over()
        pool._settle()
        assert (pool.live, pool.count(State.IDLE)) == (3, 1)
        starter.may_start.set()
        for bob in bobs:
            await bob.seated()
            await bob.leave()


async def test_nobody_is_let_go_while_there_is_room(starter: Starter) -> None:
    async with opened(starter, ceiling=3) as pool:
        old = [await take_turn(pool, binding=n) for n in range(2)]
        await take_turn(pool, "bob", binding="bob")
        assert not any(worker.is_stopped for worker in old)


async def test_memory_bounds_the_workers_by_what_they_use(starter: Starter) -> None:
    """Each is counted with at least half its own limit: one just started has not grown yet."""
    async with opened(starter, ceiling=9, memory_bytes=1_000, rss_bytes=400, hard_rss_bytes=0, watch_s=0.005) as pool:
        holders = [Holder(pool) for _ in range(9)]
        await until(lambda: starter.calls == 5)
        await turn_over()
        assert pool.live == 5
        for holder in holders:
            await holder.leave()
        assert starter.most_live == 5
    async with opened(starter, ceiling=9, memory_bytes=1_000, rss_bytes=400, hard_rss_bytes=0, watch_s=0.005) as pool:
        first = Holder(pool)
        (await first.seated()).rss = 700
        await until(lambda: pool.roster.rss_bytes(first.worker) == 700)
        others = [Holder(pool) for _ in range(3)]
        await turn_over()
        assert pool.live == 2
        for holder in (first, *others):
            await holder.leave()


async def test_memory_that_is_given_back_makes_room_for_those_who_wait(starter: Starter) -> None:
    async with opened(starter, memory_bytes=1_000, rss_bytes=400, hard_rss_bytes=0, watch_s=0.005) as pool:
        big = Holder(pool)
        (await big.seated()).rss = 1_000
        await until(lambda: pool.roster.rss_bytes(big.worker) == 1_000)
        waiting = Holder(pool)
        await turn_over()
        assert not waiting.is_seated
        big.worker.rss = 200
        await waiting.seated()
        await waiting.leave()
        await big.leave()


async def test_one_worker_is_allowed_however_little_memory_there_is(starter: Starter) -> None:
    async with opened(starter, memory_bytes=10, rss_bytes=400) as pool:
        one, two = Holder(pool), Holder(pool)
        await one.seated()
        await turn_over()
        assert pool.live == 1
        await one.leave()
        await two.leave()


# --- starvation ------------------------------------------------------------------------------------------------------


async def test_matching_turns_may_pass_the_first_in_line_for_a_while_and_not_longer(
    starter: Starter, clock: Clock
) -> None:
    """Starting a process costs more than a turn; but a steady stream of one binding must not keep the worker."""
    async with opened(starter, ceiling=1) as pool:
        alice = Holder(pool, "alice", binding="alice")
        worker = await alice.seated()
        bob, second, third = Holder(pool, "bob", binding="bob"), Holder(pool), Holder(pool)
        await turn_over()
        await alice.leave()
        assert await second.seated() is worker
        assert not bob.is_seated
        clock.advance(PATIENCE_S)
        await second.leave()
        assert (await bob.seated()).binding == "bob"
        assert worker.is_stopped
        await bob.leave()
        await third.seated()
        await third.leave()


async def test_more_bindings_than_workers_are_all_served(starter: Starter, clock: Clock) -> None:
    """Each binding always has turns waiting; all are past their patience."""
    async with opened(starter, ceiling=2) as pool:
        served: set[int] = set()
        waiting = [Holder(pool, f"caller {n}", binding=n) for n in range(5)]
        for _ in range(40):
            clock.advance(PATIENCE_S)
            await until(lambda: any(holder.is_seated for holder in waiting))
            done = next(holder for holder in waiting if holder.is_seated)
            number = int(done.caller.split()[1])
            served.add(number)
            waiting.remove(done)
            waiting.append(Holder(pool, done.caller, binding=number))
            await turn_over()
            await done.leave()
        for holder in waiting:
            await holder.cancel()
        assert served == set(range(5))
        assert starter.most_live == 2


async def test_a_binding_that_has_its_share_takes_no_worker_from_others(starter: Starter, clock: Clock) -> None:
    async with opened(starter, ceiling=2) as pool:
        alice, bob = Holder(pool, "alice", binding="alice"), Holder(pool, "bob", binding="bob")
        await alice.seated()
        await bob.seated()
        hers, his = Holder(pool, "alice", binding="alice"), Holder(pool, "bob", binding="bob")
        await turn_over()
        clock.advance(PATIENCE_S)
        await bob.leave()
        assert await his.seated() is bob.worker
        assert not hers.is_seated
        assert starter.calls == 2
        for holder in (his, alice, hers):
            await holder.leave()


async def test_a_worker_is_taken_from_a_binding_that_has_more_than_its_share_only(
    starter: Starter, clock: Clock
) -> None:
    """Six workers and an equal queue: two for each. Alice has two, Bob one, Carol three."""
    async with opened(starter, ceiling=6) as pool:
        holders = {name: [Holder(pool, name, binding=name) for _ in range(n)] for name, n in HELD.items()}
        for holder in chain(*holders.values()):
            await holder.seated()
        waiting = {name: [Holder(pool, name, binding=name) for _ in range(2)] for name in ("bob", "alice", "carol")}
        await turn_over()
        clock.advance(PATIENCE_S)
        alice, carol = holders["alice"][0], holders["carol"][0]
        await alice.leave()
        assert await waiting["alice"][0].seated() is alice.worker
        await carol.leave()
        assert (await waiting["bob"][0].seated()).binding == "bob"
        assert carol.worker.is_stopped
        carol = holders["carol"][1]
        await carol.leave()  # now each has two
        assert await waiting["carol"][0].seated() is carol.worker
        for holder in chain(*holders.values(), *waiting.values()):
            await (holder.leave() if holder.is_seated else holder.cancel())


HELD = {"alice": 2, "bob": 1, "carol": 3}


async def test_a_binding_that_has_its_share_takes_no_worker_that_another_has_beyond_its_own(
    starter: Starter, clock: Clock
) -> None:
    """Three workers do not divide by two: the odd one stays where it is."""
    async with opened(starter, ceiling=3) as pool:
        alice = Holder(pool, "alice", binding="alice")
        bobs = [Holder(pool, "bob", binding="bob") for _ in range(2)]
        for holder in (alice, *bobs):
            await holder.seated()
        hers, his = Holder(pool, "alice", binding="alice"), Holder(pool, "bob", binding="bob")
        await turn_over()
        clock.advance(PATIENCE_S)
        await bobs[0].leave()
        assert await his.seated() is bobs[0].worker
        for holder in (his, bobs[1], alice, hers):
            await holder.leave()


async def test_one_worker_at_a_time_is_taken_for_the_first_in_line(starter: Starter, clock: Clock) -> None:
    async with opened(starter, ceiling=2) as pool:
        first, second = Holder(pool), Holder(pool)
        for holder in (first, second):
            (await holder.seated()).may_stop.clear()
        bob, *more = Holder(pool, "bob", binding="bob"), Holder(pool), Holder(pool)
        await turn_over()
        clock.advance(PATIENCE_S)
        await first.leave()
        assert pool.count(State.RETIRING) == 1
        await second.leave()
        assert pool.count(State.RETIRING) == 1
        assert await more[0].seated() is second.worker
        for holder in (first, second):
            holder.worker.may_stop.set()
        await bob.seated()
        for holder in (bob, *more):
            await holder.leave()


async def test_a_binding_gets_its_share_of_workers_that_another_holds_all_of(starter: Starter, clock: Clock) -> None:
    """Four workers, half of those who wait are Bob's: two become his, and no more."""
    async with opened(starter, ceiling=4, queue=99) as pool:
        alice = [Holder(pool, "alice", binding="alice") for _ in range(12)]
        for holder in alice[:4]:
            await holder.seated()
        bob = [Holder(pool, "bob", binding="bob") for _ in range(8)]
        await turn_over()
        clock.advance(PATIENCE_S)
        held: list[int] = []
        left = [*alice, *bob]
        while left:
            await until(lambda: any(holder.is_seated for holder in left))
            done = next(holder for holder in left if holder.is_seated)
            left.remove(done)
            await done.leave()
            waits = {holder.caller for holder in left if not holder.is_seated}
            if waits == {"alice", "bob"}:
                held.append(sum(1 for worker in starter.live if worker.binding == "bob"))
        assert max(held) in (2, 3)
        assert starter.most_live == 4


# --- the floor -------------------------------------------------------------------------------------------------------


async def test_a_pool_is_warm_before_the_first_turn(starter: Starter) -> None:
    async with opened(starter, floor=2) as pool:
        await until(lambda: pool.count(State.IDLE) == 2)


async def test_the_floor_is_filled_again_once_a_conversation_has_bound_its_worker(starter: Starter) -> None:
    async with opened(starter, floor=1) as pool:
        await until(lambda: pool.count(State.IDLE) == 1)
        holder = Holder(pool)
        await holder.seated()
        await until(lambda: pool.count(State.IDLE) == 1)
        assert starter.live[1].binding is None
        await holder.leave()
        assert starter.calls == 2


async def test_a_worker_of_a_conversation_does_not_count_for_the_floor(starter: Starter) -> None:
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        await until(lambda: pool.count(State.IDLE))
        hers = await take_turn(pool)
        await until(lambda: pool.count(State.IDLE) == 2)
        starter.workers[1].lives = False
        await until(lambda: starter.calls == 3 and pool.count(State.IDLE) == 2)
        assert hers in starter.live


async def test_a_replacement_for_the_floor_waits_until_the_turn_has_begun(starter: Starter, clock: Clock) -> None:
    """A start takes the processor from the very turn that took the warm worker (hub rule)."""
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        await until(lambda: pool.count(State.IDLE) == 1)
        holder = Holder(pool)
        await holder.seated()
        looks = starter.workers[0].looks
        await until(lambda: starter.workers[0].looks > looks + 2)
        assert starter.calls == 1
        clock.advance(REFILL_DELAY_S)
        await until(lambda: pool.count(State.IDLE) == 1)
        await holder.leave()


async def test_a_waiting_turn_does_not_wait_for_the_delay_of_the_floor(starter: Starter, clock: Clock) -> None:
    async with opened(starter, floor=1, ceiling=3) as pool:
        await until(lambda: pool.count(State.IDLE) == 1)
        started_at = clock.monotonic()
        alice, bob = Holder(pool), Holder(pool, "bob")
        await alice.seated()
        await bob.seated()
        assert clock.monotonic() - started_at < REFILL_DELAY_S
        await alice.leave()
        await bob.leave()


async def test_a_full_pool_makes_room_for_a_fresh_worker_when_it_is_quiet(starter: Starter, clock: Clock) -> None:
    """Otherwise the first turn of every new conversation would find none that is warm."""
    async with opened(starter, floor=1, ceiling=2, watch_s=0.005) as pool:
        holders = [Holder(pool, binding=n) for n in range(2)]
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()
        clock.advance(MAKE_ROOM_AFTER_S)
        await until(lambda: any(worker.binding is None for worker in starter.live) and pool.count(State.IDLE) == 2)
        assert starter.calls == 3


async def test_a_pool_of_one_keeps_its_conversations_worker(starter: Starter, clock: Clock) -> None:
    async with opened(starter, floor=1, ceiling=1, watch_s=0.005) as pool:
        worker = await take_turn(pool)
        clock.advance(MAKE_ROOM_AFTER_S)
        looks = worker.looks
        await until(lambda: worker.looks > looks + 2)
        assert starter.calls == 1


async def test_the_floor_does_not_break_the_ceiling(starter: Starter) -> None:
    async with opened(starter, floor=3, ceiling=2) as pool:
        await until(lambda: pool.count(State.IDLE) == 2)
        await take_turn(pool)
        assert starter.most_live == 2


# --- wear ------------------------------------------------------------------------------------------------------------


async def test_a_worker_is_replaced_after_so_many_turns(starter: Starter) -> None:
    async with opened(starter, turns=2) as pool:
        workers = [await take_turn(pool) for _ in range(3)]
        assert workers[0] is workers[1] is not workers[2]
        assert workers[0].is_stopped
        assert pool.counts["replaced"] == 1


async def test_a_worker_is_replaced_when_it_is_old(starter: Starter, clock: Clock) -> None:
    async with opened(starter, age_s=100) as pool:
        young = await take_turn(pool)
        clock.advance(101)
        assert await take_turn(pool) is young
        assert young.is_stopped
        assert await take_turn(pool) is not young


async def test_a_worker_that_has_grown_is_replaced_between_turns(starter: Starter) -> None:
    async with opened(starter, rss_bytes=100, hard_rss_bytes=1_000, watch_s=0.005) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.rss = 101
        await until(lambda: pool.roster.rss_bytes(worker) == 101)
        assert not worker.is_killed
        await holder.leave()
        assert worker.is_stopped
        assert await take_turn(pool) is not worker


async def test_an_idle_worker_that_is_worn_goes_without_waiting_for_a_turn(starter: Starter, clock: Clock) -> None:
    async with opened(starter, floor=1, age_s=100, watch_s=0.005) as pool:
        await until(lambda: pool.count(State.IDLE))
        clock.advance(101)
        await until(lambda: starter.workers[0].is_stopped and pool.count(State.IDLE))
        assert starter.workers[0] is not starter.live[0]


async def test_a_worker_without_limits_of_wear_stays(starter: Starter) -> None:
    async with opened(starter, rss_bytes=0, hard_rss_bytes=0, memory_bytes=1, watch_s=0.005) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.rss = 1 << 40
        await until(lambda: pool.roster.rss_bytes(worker))
        await holder.leave()
        assert await take_turn(pool) is worker


async def test_a_worker_that_grows_past_the_hard_mark_is_killed_within_its_turn(starter: Starter) -> None:
    async with opened(starter, rss_bytes=100, hard_rss_bytes=1_000, watch_s=0.005) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.rss = 1_001
        await until(lambda: worker.is_killed)
        await holder.leave()
        assert worker.is_stopped


async def test_a_worker_with_too_many_processes_is_replaced_between_turns(starter: Starter) -> None:
    async with opened(starter, watch_s=0.005) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.most_processes, worker.processes = 4, 8
        await until(lambda: pool.roster.usage(worker).processes == 8)
        assert not worker.is_killed
        await holder.leave()
        assert await take_turn(pool) is not worker


async def test_a_worker_with_far_too_many_processes_is_killed_within_its_turn(starter: Starter) -> None:
    async with opened(starter, watch_s=0.005) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.most_processes, worker.processes = 4, 9
        await until(lambda: worker.is_killed)
        await holder.leave()


async def test_a_worker_that_can_not_be_emptied_is_replaced(starter: Starter) -> None:
    async with opened(starter) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.resets_clean = False
        await holder.leave()
        assert worker.is_stopped
        assert await take_turn(pool) is not worker


async def test_a_worker_that_died_in_its_turn_is_replaced_without_being_emptied(starter: Starter) -> None:
    async with opened(starter) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.lives = False
        await holder.leave()
        assert worker.is_stopped
        assert worker.resets == 0
        await take_turn(pool)


async def test_an_adapter_that_fails_in_an_unforeseen_way_costs_its_worker_and_no_seat(
    starter: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.reset_error = KeyError("an adapter's mistake")
        await holder.leave()
        assert worker.is_stopped
        assert await take_turn(pool) is not worker
    assert "KeyError" in caplog.text


# --- idle workers ----------------------------------------------------------------------------------------------------


async def test_workers_nobody_needs_are_let_go_down_to_the_floor(starter: Starter, clock: Clock) -> None:
    async with opened(starter, floor=1, idle_s=100, watch_s=0.005) as pool:
        holders = [Holder(pool, binding=n) for n in range(3)]
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()
        await until(lambda: pool.count(State.IDLE) == 4)
        clock.advance(90)
        seen = starter.workers[0].looks
        await until(lambda: starter.workers[0].looks > seen + 2)
        assert pool.count(State.IDLE) == 4
        clock.advance(11)
        await until(lambda: pool.live == 1)
        assert starter.live[0].binding is None


async def test_more_fresh_workers_than_the_floor_are_let_go_when_idle(starter: Starter, clock: Clock) -> None:
    async with opened(starter, floor=1, idle_s=100, watch_s=0.005) as pool:
        starter.may_start.clear()
        holders = [Holder(pool) for _ in range(3)]
        await turn_over()
        for holder in holders:
            await holder.cancel()
        starter.may_start.set()
        await until(lambda: pool.count(State.IDLE) >= 3)
        clock.advance(101)
        await until(lambda: pool.live == 1)


async def test_a_dead_idle_worker_is_not_lent(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        dead = await take_turn(pool)
        dead.lives = False
        assert await take_turn(pool) is not dead
        assert dead.is_stopped


async def test_a_dead_idle_worker_is_replaced_without_a_turn(starter: Starter) -> None:
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        await until(lambda: pool.count(State.IDLE))
        starter.workers[0].lives = False
        await until(lambda: pool.count(State.IDLE) and starter.workers[0].is_stopped)
        assert starter.calls == 2


async def test_a_look_at_the_workers_that_fails_is_not_the_last(
    starter: Starter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        await until(lambda: pool.count(State.IDLE))
        with monkeypatch.context() as patch:
            patch.setattr(FakeWorker, "rss_bytes", property(lambda worker: 1 // 0))
            await until(lambda: "ZeroDivisionError" in caplog.text)
        starter.workers[0].lives = False
        await until(lambda: starter.workers[0].is_stopped and pool.count(State.IDLE))


# --- starts that fail ------------------------------------------------------------------------------------------------


async def test_a_start_that_fails_once_is_tried_again_and_the_caller_notices_nothing(starter: Starter) -> None:
    starter.error = WorkerCrashed("once")
    async with opened(starter) as pool:
        holder = Holder(pool)
        await until(lambda: pool.counts["start_failed"])
        starter.error = None
        await holder.seated()
        assert pool.breaker.failures == 0
        await holder.leave()


async def test_a_crash_loop_opens_refuses_at_once_tries_again_and_closes(starter: Starter, clock: Clock) -> None:
    starter.error = WorkerCrashed("always")
    async with opened(starter) as pool:
        first = await Holder(pool).refusal()
        assert isinstance(first, CrashLoop)
        assert first.retry_after_s
        assert starter.calls == FAILURES_TO_OPEN
        clock.advance(-FOREVER_S)  # the pause lasts
        second = await Holder(pool).refusal()
        assert isinstance(second, CrashLoop)
        assert starter.calls == FAILURES_TO_OPEN
        clock.advance(FOREVER_S + 60)
        assert isinstance(await Holder(pool).refusal(), CrashLoop)  # half open: one try, and it fails
        assert starter.calls == FAILURES_TO_OPEN + 1
        clock.advance(60)
        starter.error = None
        await take_turn(pool)
        assert pool.breaker.failures == 0


async def test_after_a_failure_one_start_at_a_time_is_tried(starter: Starter) -> None:
    async with opened(starter, ceiling=8) as pool:
        pool.breaker.failed(WorkerCrashed("before"))
        await until(lambda: not pool.breaker.pause_s)
        starter.may_start.clear()
        holders = [Holder(pool) for _ in range(4)]
        await turn_over()
        assert starter.calls == 1
        starter.may_start.set()
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()


async def test_starts_that_fail_together_count_as_one_failure(starter: Starter) -> None:
    """Else a burst of eight callers would close the provider for a minute over one hiccup."""
    starter.may_start.clear()
    starter.error = WorkerCrashed("a hiccup")
    async with opened(starter, ceiling=8) as pool:
        holders = [Holder(pool) for _ in range(8)]
        await turn_over()
        assert starter.calls == 8
        starter.may_start.set()
        await until(lambda: pool.counts["start_failed"] == 8)
        starter.error = None
        assert pool.breaker.failures == 1
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()


async def test_starts_that_wait_for_their_turn_are_given_up_when_one_before_them_fails(starter: Starter) -> None:
    """Else each of them would take its full deadline before anybody is told."""
    starter.may_start.clear()
    starter.error = NotInstalled("not there")
    async with opened(starter, starts=1, ceiling=4) as pool:
        holders = [Holder(pool) for _ in range(4)]
        await turn_over()
        assert (starter.calls, pool.live) == (1, 4)
        starter.may_start.set()
        assert [type(await holder.refusal()) for holder in holders] == [NotInstalled] * 4
        assert starter.calls == 1


async def test_workers_that_get_ready_and_die_idle_again_and_again_are_a_crash_loop(
    starter: Starter, clock: Clock
) -> None:
    """Else they are started anew at every look, for ever."""
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        for number in range(FAILURES_TO_OPEN):
            await until(lambda: pool.count(State.IDLE))
            clock.ahead_s -= FOREVER_S * (number == FAILURES_TO_OPEN - 1)  # the last pause lasts
            starter.workers[-1].started_at = clock.monotonic()
            starter.workers[-1].lives = False
            await until(lambda: pool.counts["died_early"] == number + 1)  # noqa: B023
        await until(lambda: not pool.live)
        assert isinstance(await Holder(pool).refusal(), CrashLoop)
        assert starter.calls == FAILURES_TO_OPEN
        clock.advance(FOREVER_S + 60)
        await take_turn(pool)
        assert pool.breaker.trouble is None


async def test_a_worker_that_dies_idle_after_a_turn_or_a_while_is_no_failed_start(
    starter: Starter, clock: Clock
) -> None:
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        (await take_turn(pool)).lives = False
        await until(lambda: starter.workers[0].is_stopped and pool.count(State.IDLE))
        clock.advance(LASTING_AFTER_S)
        starter.workers[-1].lives = False
        await until(lambda: starter.workers[1].is_stopped and pool.count(State.IDLE))
        assert (pool.breaker.failures, pool.counts["died_early"]) == (0, 0)


async def test_a_worker_that_lasts_ends_the_suspicion(starter: Starter, clock: Clock) -> None:
    async with opened(starter, floor=1, watch_s=0.005) as pool:
        await until(lambda: pool.count(State.IDLE))
        starter.workers[0].lives = False
        await until(lambda: pool.counts["died_early"] and pool.count(State.IDLE))
        assert pool.breaker.failures == 1
        clock.advance(LASTING_AFTER_S)
        await until(lambda: not pool.breaker.failures)


async def test_nothing_is_started_after_a_failure_that_nobody_needs(starter: Starter) -> None:
    starter.error = WorkerCrashed("once")
    async with opened(starter) as pool:
        holder = Holder(pool)
        await until(lambda: pool.counts["start_failed"])
        await holder.cancel()
        starter.error = None
        await until(lambda: len(pool._tasks) == 1)  # the retry is through, the watch remains
        assert starter.calls == 1


async def test_a_missing_program_is_told_to_all_who_wait_at_once(starter: Starter, clock: Clock) -> None:
    starter.may_start.clear()
    starter.error = NotInstalled("not there")
    async with opened(starter, ceiling=1) as pool:
        holders = [Holder(pool) for _ in range(3)]
        await turn_over()
        starter.may_start.set()
        assert [type(await holder.refusal()) for holder in holders] == [NotInstalled] * 3
        assert starter.calls == 1
        clock.advance(-FOREVER_S)
        assert isinstance(await Holder(pool).refusal(), NotInstalled)
        assert starter.calls == 1
        clock.advance(FOREVER_S)


async def test_those_who_wait_for_a_living_worker_are_not_dismissed_when_no_new_one_starts(starter: Starter) -> None:
    async with opened(starter, ceiling=2) as pool:
        first = Holder(pool)
        worker = await first.seated()
        starter.error = NotInstalled("removed meanwhile")
        second = Holder(pool)
        await until(lambda: pool.counts["start_failed"])
        third = Holder(pool)
        await turn_over()
        assert not second.task.done()
        await first.leave()
        for holder in (second, third):
            assert await holder.seated() is worker
            await holder.leave()


async def test_those_who_wait_for_a_worker_on_its_way_are_not_dismissed_when_another_fails(starter: Starter) -> None:
    starter.may_start.clear()
    starter.first_errors = [NotInstalled("an unlucky moment")]
    async with opened(starter, ceiling=2) as pool:
        holders = [Holder(pool), Holder(pool)]
        await turn_over()
        assert starter.calls == 2
        starter.may_start.set()
        for holder in holders:
            await holder.seated()
            await holder.leave()


async def test_an_unforeseen_failure_of_a_start_is_counted_and_told_like_any_other(
    starter: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    starter.error = KeyError("an adapter's mistake")
    async with opened(starter) as pool:
        refused = await Holder(pool).refusal()
        assert isinstance(refused, ProviderError)
        assert refused.retryable
        assert pool.live == 0
        starter.error = None
        await until(lambda: not pool.breaker.pause_s)
        await take_turn(pool)
    assert "KeyError" in caplog.text


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_closing_pool_lets_a_running_turn_finish_and_then_ends_everything(starter: Starter) -> None:
    async with opened(starter, floor=1, ceiling=3) as pool:
        await take_turn(pool)
        holder = Holder(pool)
        worker = await holder.seated()
        closing = asyncio.create_task(pool.close(grace_s=BOUND_S))
        await turn_over()
        assert not closing.done()
        assert not worker.is_stopped
        await holder.leave()
        await asyncio.wait_for(closing, 1)
        assert not starter.live
        assert pool.live == 0


async def test_a_turn_that_runs_beyond_the_grace_loses_its_worker(starter: Starter) -> None:
    async with opened(starter) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.on_stop = holder.leave  # as in life: losing its worker ends the turn while the pool is closing
        await pool.close(grace_s=0.01)
        assert worker.is_stopped
        await holder.leave()
        assert pool.live == 0
        assert not pool.counts["replaced"]


async def test_a_closing_pool_ends_each_worker_after_its_turn_and_starts_none(starter: Starter) -> None:
    async with opened(starter, floor=2, ceiling=3) as pool:
        early, late = Holder(pool), Holder(pool)
        await early.seated()
        await late.seated()
        await until(lambda: pool.count(State.IDLE) == 1)
        closing = asyncio.create_task(pool.close(grace_s=BOUND_S))
        await turn_over()
        await early.leave()
        assert early.worker.is_stopped
        assert early.worker.resets == 0
        assert not late.worker.is_stopped
        assert starter.calls == 3
        await late.leave()
        await closing


async def test_a_closing_pool_refuses_those_who_wait_and_those_who_come(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder, waiting = Holder(pool), Holder(pool)
        await holder.seated()
        closing = asyncio.create_task(pool.close(grace_s=BOUND_S))
        assert isinstance(await waiting.refusal(), ShuttingDown)
        assert isinstance(await Holder(pool).refusal(), ShuttingDown)
        await holder.leave()
        await closing


async def test_closing_ends_workers_that_are_starting_being_emptied_or_going(starter: Starter) -> None:
    """The `opened` helper and the `nothing_left` fixture see to the rest."""
    async with opened(starter, ceiling=3) as pool:
        tidying, retiring = Holder(pool, binding="a"), Holder(pool, binding="b")
        (await tidying.seated()).may_reset.clear()
        await retiring.seated()
        retiring.worker.lives = False
        retiring.worker.may_stop.clear()
        await tidying.leave()
        await retiring.leave()
        starter.may_start.clear()
        starting = Holder(pool, binding="c")
        await turn_over()
        assert repr(pool) == "<WorkerPool fake: 0 idle, 0 busy, 1 tidying, 1 retiring, 1 starting, 1 waiting>"
        closing = asyncio.create_task(pool.close(grace_s=BOUND_S))
        await turn_over()
        retiring.worker.may_stop.set()
        await asyncio.wait_for(closing, 1)
        assert isinstance(await starting.refusal(), ShuttingDown)
        assert starter.under_way == 0


async def test_closing_waits_until_a_worker_on_its_way_out_is_really_gone(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.lives = False
        worker.may_stop.clear()
        await holder.leave()
        closing = asyncio.create_task(pool.close(grace_s=BOUND_S))
        await turn_over()
        assert not closing.done()
        worker.may_stop.set()
        await asyncio.wait_for(closing, 1)


async def test_a_pool_that_is_closed_before_its_first_start_begins_counts_nothing(starter: Starter) -> None:
    async with opened(starter, floor=1) as pool:
        assert pool.live == 1
        await pool.close(grace_s=0)
        assert (pool.live, starter.workers) == (0, [])


async def test_a_pool_may_be_closed_twice_and_without_having_been_used(starter: Starter) -> None:
    async with opened(starter) as pool:
        await pool.close(grace_s=1)
        await pool.close(grace_s=1)


async def test_kill_ends_every_process_at_once_and_starts_no_other(starter: Starter) -> None:
    async with opened(starter, floor=1, ceiling=3) as pool:
        holder = Holder(pool)
        await holder.seated()
        await until(lambda: pool.count(State.IDLE) == 1)
        pool.kill()
        assert all(worker.is_killed for worker in starter.workers)
        assert isinstance(await Holder(pool).refusal(), ShuttingDown)
        await holder.leave()
        assert starter.calls == 2


async def test_kill_ends_the_wait_of_a_close_with_grace(starter: Starter) -> None:
    """The second Ctrl-C."""
    async with opened(starter) as pool:
        holder = Holder(pool)
        await holder.seated()
        closing = asyncio.create_task(pool.close(grace_s=FOREVER_S))
        await turn_over()
        pool.kill()
        await asyncio.wait_for(closing, BOUND_S)
        await holder.leave()


async def test_kill_tells_those_who_wait(starter: Starter) -> None:
    async with opened(starter, ceiling=1) as pool:
        holder, waiting = Holder(pool), Holder(pool)
        await holder.seated()
        pool.kill()
        assert isinstance(await waiting.refusal(), ShuttingDown)
        await holder.leave()


# --- everything at once ----------------------------------------------------------------------------------------------


HISTORIES = (None, b"of tea", b"of cake")


class Chaos:
    """Many callers who wait, run, give up and crash in an order drawn from a seed; the rules hold at every step."""

    def __init__(self, pool: WorkerPool, starter: Starter, seed: int) -> None:
        self.pool = pool
        self.starter = starter
        self.random = random.Random(seed)
        self.held: set[FakeWorker] = set()
        self.answered = 0

    async def pause(self) -> None:
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)
            self.check()

    def check(self) -> None:
        pool, limits = self.pool, self.pool.limits
        assert pool.live <= limits.ceiling
        assert len(self.starter.live) <= limits.ceiling
        assert pool.count(State.BUSY) >= len(self.held)
        assert pool.waiting <= limits.queue
        assert len(pool.roster.kept()) <= limits.kept
        assert pool.roster._usage.keys() <= set(pool.roster)

    async def call(self, number: int) -> None:
        binding, history = self.random.choice("abcd"), self.random.choice(HISTORIES)
        await self.pause()
        try:
            async with self.pool.lease(caller=f"caller {number % 5}", binding=binding, history=history) as lease:
                worker = lease.worker
                assert isinstance(worker, FakeWorker)
                assert worker not in self.held
                assert worker.binding == binding
                assert worker.holds == (history if lease.start == "kept" else None)
                worker.holds = None
                self.held.add(worker)
                try:
                    await self.pause()
                    worker.turns += 1
                    worker.lives = self.random.random() > 0.05
                    worker.resets_clean = self.random.random() > 0.1
                    worker.holds = self.random.choice(HISTORIES)
                    self.answered += 1
                finally:
                    self.held.discard(worker)
        except ProviderError:
            pass

    async def run(self, calls: int) -> None:
        tasks = set()
        for number in range(calls):
            task = asyncio.create_task(self.call(number))
            tasks.add(task)
            await self.pause()
            if self.random.random() < 0.2:
                self.random.choice([*tasks]).cancel()
            self.starter.error = WorkerFailed("now and then") if self.random.random() < 0.1 else None
            if self.random.random() < 0.1 and (idle := self.pool.roster.idle()):
                victim = self.random.choice(idle)
                assert isinstance(victim, FakeWorker)
                victim.lives = False
        self.starter.error = None
        done, late = await asyncio.wait(tasks, timeout=BOUND_S)
        assert not late
        assert [task.exception() for task in done if not task.cancelled() and task.exception()] == []


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_callers_and_workers_do_the_rules_hold_and_nothing_is_lost(
    starter: Starter, clock: Clock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.breaker.FIRST_PAUSE_S", 0.0001)
    monkeypatch.setattr("providers.planning.PATIENCE_S", 0.001)
    ceiling, floor, kept = 1 + seed % 4, seed % 2, seed % 3
    async with opened(
        starter, ceiling=ceiling, floor=floor, kept=kept, kept_s=0.01, turns=20, queue=30, watch_s=0.002
    ) as pool:
        chaos = Chaos(pool, starter, seed)
        await chaos.run(300)
        await until(lambda: pool.live == pool.count(State.IDLE))
        await until(lambda: not pool.roster.kept())
        assert pool.waiting == 0
        assert len(starter.live) == pool.live
        assert chaos.answered > 100
        for _ in range(ceiling):
            await take_turn(pool)
        await until(lambda: len(pool._tasks) == 1)  # the watch
