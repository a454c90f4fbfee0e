"""Workers that hold a conversation for its next turn: who may have them, and when they forget."""

from __future__ import annotations

import asyncio

import pytest

from providers.errors import ShuttingDown
from providers.planning import MAKE_ROOM_AFTER_S, PATIENCE_S
from providers.pool import WorkerPool
from providers.roster import State
from tests.providers.fakes import BOUND_S, Clock, FakeWorker, Holder, Starter, opened, take_turn, turn_over, until

pytestmark = pytest.mark.usefixtures("nothing_left")

TEA, CAKE = b"what was said of tea", b"what was said of cake"


async def begin(pool: WorkerPool, learns: bytes, *, binding: str = "alice") -> FakeWorker:
    """The first turn of a conversation, after which its worker holds it."""
    return await take_turn(pool, binding, binding=binding, learns=learns)


async def looked(worker: FakeWorker) -> None:
    """Wait until the pool's watch has been at it twice."""
    seen = worker.looks
    await until(lambda: worker.looks > seen + 2)


# --- who gets it -----------------------------------------------------------------------------------------------------


async def test_the_next_turn_of_a_conversation_gets_the_worker_that_holds_it(starter: Starter) -> None:
    async with opened(starter, kept=1) as pool:
        worker = await begin(pool, TEA)
        follower = Holder(pool, history=TEA, learns=b"more of tea")
        assert await follower.seated() is worker
        assert follower.start == "kept"
        await follower.leave()
        assert await take_turn(pool, history=b"more of tea") is worker
        assert worker.resets == 1  # after the turn that left nothing to go on with


@pytest.mark.parametrize("history", [CAKE, None], ids=["another conversation", "a new one"])
async def test_it_serves_no_other_conversation_before_it_is_emptied(starter: Starter, history: bytes | None) -> None:
    async with opened(starter, kept=1) as pool:
        worker = await begin(pool, TEA)
        worker.may_reset.clear()
        other = Holder(pool, history=history)
        await turn_over()
        assert not other.is_seated
        assert pool.count(State.TIDYING) == 1
        worker.may_reset.set()
        assert await other.seated() is worker
        assert (other.start, worker.resets) == ("reused", 1)
        assert starter.calls == 1  # a start takes longer than to be emptied
        await other.leave()


async def test_the_same_words_of_another_binding_do_not_count(starter: Starter) -> None:
    """Another owner, or another system prompt."""
    async with opened(starter, kept=1, ceiling=2) as pool:
        hers = await begin(pool, TEA)
        assert await take_turn(pool, "bob", binding="bob", history=TEA) is not hers
        assert hers.memory == TEA
        assert await take_turn(pool, history=TEA) is hers


async def test_an_empty_worker_is_taken_before_a_kept_one_is_emptied(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=2) as pool:
        keeper, plain = Holder(pool, learns=TEA), Holder(pool)
        await keeper.seated()
        await plain.seated()
        await plain.leave()
        await keeper.leave()
        other = Holder(pool)
        assert await other.seated() is plain.worker
        assert other.start == "reused"
        await other.leave()
        assert keeper.worker.memory == TEA


async def test_a_fresh_worker_is_taken_before_a_kept_one_is_emptied(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=2, floor=1) as pool:
        await until(lambda: pool.count(State.IDLE))
        worker = await begin(pool, TEA)
        await until(lambda: pool.count(State.IDLE) == 2)
        other = Holder(pool, history=CAKE)
        assert await other.seated() is not worker
        assert other.start == "warm"
        await other.leave()
        assert worker.memory == TEA


async def test_a_conversation_asked_twice_at_a_time_has_its_worker_once(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=2) as pool:
        worker = await begin(pool, TEA)
        twice = [Holder(pool, history=TEA) for _ in range(2)]
        for holder in twice:
            await holder.seated()
        assert [holder.start for holder in twice] == ["kept", "cold"]
        assert twice[0].worker is worker is not twice[1].worker
        for holder in twice:
            await holder.leave()


async def test_the_owner_of_a_kept_worker_goes_before_one_who_has_waited_for_any(starter: Starter) -> None:
    """The one who waits costs the conversation its process only if that has nothing better to do."""
    async with opened(starter, kept=2, ceiling=2) as pool:
        keepers = [Holder(pool, learns=learns) for learns in (TEA, CAKE)]
        workers = [await holder.seated() for holder in keepers]
        waiting = [Holder(pool, "bob"), Holder(pool, history=TEA)]
        await turn_over()
        workers[0].may_reset.clear()
        await keepers[0].leave()
        assert await waiting[1].seated() is workers[0]
        assert not waiting[0].is_seated
        await keepers[1].leave()
        assert await waiting[0].seated() is workers[1]
        workers[0].may_reset.set()
        for holder in waiting:
            await holder.leave()


async def test_one_who_waits_has_a_worker_emptied_as_soon_as_its_turn_is_over(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        keeper, other = Holder(pool, learns=TEA), Holder(pool, history=CAKE)
        await keeper.seated()
        await keeper.leave()
        assert await other.seated() is keeper.worker
        assert keeper.worker.resets == 1
        await other.leave()


async def test_for_one_who_waits_one_worker_is_emptied_and_no_process_started(starter: Starter) -> None:
    async with opened(starter, kept=2, ceiling=4) as pool:
        keepers = [Holder(pool, learns=learns) for learns in (TEA, CAKE)]
        workers = [await holder.seated() for holder in keepers]
        for holder, worker in zip(keepers, workers, strict=True):
            await holder.leave()
            worker.may_reset.clear()
        other = Holder(pool)
        await turn_over()
        pool._settle()
        assert (pool.count(State.TIDYING), pool.live) == (1, 2)
        assert workers[1].memory == CAKE  # the one idle for longest is emptied
        for worker in workers:
            worker.may_reset.set()
        assert await other.seated() is workers[0]
        await other.leave()


async def test_more_who_wait_than_kept_workers_get_new_ones(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=3) as pool:
        worker = await begin(pool, TEA)
        worker.may_reset.clear()
        others = [Holder(pool) for _ in range(3)]
        await turn_over()
        assert starter.calls == 3
        worker.may_reset.set()
        for holder in others:
            await holder.seated()
        assert starter.calls == 3
        for holder in others:
            await holder.leave()


async def test_a_kept_worker_that_can_not_be_emptied_is_replaced_for_the_one_who_waits(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        worker = await begin(pool, TEA)
        worker.resets_clean = False
        other = Holder(pool)
        assert await other.seated() is not worker
        assert other.start == "cold"
        assert worker.is_stopped
        await other.leave()


async def test_a_kept_worker_that_has_died_is_not_lent(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        worker = await begin(pool, TEA)
        worker.lives = False
        assert await take_turn(pool, history=TEA) is not worker
        assert worker.is_stopped


async def test_one_who_leaves_before_the_turn_has_begun_costs_the_conversation_nothing(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        worker = await begin(pool, TEA)
        async with pool.lease(caller="alice", binding="alice", history=TEA) as lease:
            assert lease.worker is worker
        assert worker.memory == TEA
        assert await take_turn(pool, history=TEA) is worker
        assert worker.resets == 1


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_a_turn_that_fails_or_is_given_up_leaves_nothing_to_keep(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        worker = await begin(pool, TEA)
        given_up = Holder(pool, history=TEA, learns=CAKE)
        await given_up.seated()
        await given_up.cancel()
        assert worker.memory is None
        assert worker.resets == 1
        follower = Holder(pool, history=TEA)
        assert await follower.seated() is worker
        assert follower.start == "reused"
        await follower.leave()


async def test_without_room_for_kept_workers_every_turn_ends_empty(starter: Starter) -> None:
    async with opened(starter, kept=0) as pool:
        worker = await begin(pool, TEA)
        assert worker.memory is None
        assert worker.resets == 1
        assert await take_turn(pool, history=TEA) is worker


async def test_a_worn_worker_is_not_kept(starter: Starter) -> None:
    async with opened(starter, kept=1, turns=1) as pool:
        worker = await begin(pool, TEA)
        assert worker.is_stopped
        assert await take_turn(pool, history=TEA) is not worker


async def test_a_worker_that_died_at_the_end_of_its_turn_is_not_kept(starter: Starter) -> None:
    async with opened(starter, kept=1) as pool:
        holder = Holder(pool, learns=TEA)
        (await holder.seated()).lives = False
        await holder.leave()
        assert holder.worker.is_stopped


async def test_beyond_the_number_to_be_kept_the_one_idle_for_longest_forgets(starter: Starter) -> None:
    async with opened(starter, kept=2, ceiling=4) as pool:
        holders = [Holder(pool, learns=bytes([number])) for number in range(3)]
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()
        assert [holder.worker.memory for holder in holders] == [None, b"\x01", b"\x02"]
        assert not holders[0].worker.is_stopped
        assert await take_turn(pool, history=b"\x00") is holders[0].worker


async def test_after_its_time_a_worker_forgets_and_stays(starter: Starter, clock: Clock) -> None:
    async with opened(starter, kept=1, kept_s=100, watch_s=0.005) as pool:
        worker = await begin(pool, TEA)
        clock.advance(90)
        await looked(worker)
        assert worker.memory == TEA
        clock.advance(11)
        await until(lambda: worker.memory is None and pool.count(State.IDLE) == 1)
        assert worker.resets == 1
        assert await take_turn(pool, history=TEA) is worker


# --- who goes first --------------------------------------------------------------------------------------------------


async def test_a_kept_worker_is_the_first_to_go_when_another_binding_needs_room(starter: Starter) -> None:
    async with opened(starter, kept=2, ceiling=3) as pool:
        plain = await take_turn(pool, "carol", binding="carol")
        older, newer = await begin(pool, TEA, binding="dave"), await begin(pool, CAKE, binding="erin")
        await take_turn(pool, "bob", binding="bob")
        assert [worker.is_stopped for worker in (plain, older, newer)] == [False, True, False]
        await take_turn(pool, "frank", binding="frank")
        assert [worker.is_stopped for worker in (plain, newer)] == [False, True]


async def test_a_kept_worker_goes_for_another_binding_the_moment_its_turn_is_over(starter: Starter) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        keeper, bob = Holder(pool, learns=TEA), Holder(pool, "bob", binding="bob")
        await keeper.seated()
        await keeper.leave()
        assert await bob.seated() is not keeper.worker
        assert keeper.worker.resets == 0
        await bob.leave()


async def test_conversations_that_go_on_and_on_do_not_starve_another_binding(starter: Starter, clock: Clock) -> None:
    async with opened(starter, kept=1, ceiling=1) as pool:
        worker = await begin(pool, TEA)
        first = Holder(pool, history=TEA, learns=CAKE)
        await first.seated()
        bob, second = Holder(pool, "bob", binding="bob"), Holder(pool, history=CAKE, learns=TEA)
        await turn_over()
        clock.advance(PATIENCE_S)
        await first.leave()
        await bob.seated()
        assert worker.is_stopped
        assert not second.is_seated
        await bob.leave()
        await second.seated()
        assert second.start == "cold"
        await second.leave()


async def test_a_kept_worker_is_the_first_to_go_when_memory_is_short(starter: Starter) -> None:
    async with opened(starter, kept=1, memory_bytes=1_000, rss_bytes=900, hard_rss_bytes=0, watch_s=0.005) as pool:
        holders = [Holder(pool, binding="alice", learns=TEA), Holder(pool, "bob", binding="bob")]
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()
        keeper, plain = (holder.worker for holder in holders)
        keeper.rss, plain.rss = 400, 700
        await until(lambda: keeper.is_stopped)
        await looked(plain)
        assert not plain.is_stopped


async def test_a_full_pool_makes_room_for_a_fresh_worker_at_the_cost_of_an_empty_one(
    starter: Starter, clock: Clock
) -> None:
    async with opened(starter, kept=1, floor=1, ceiling=2, watch_s=0.005) as pool:
        holders = [Holder(pool, learns=TEA), Holder(pool, "bob", binding="bob")]
        for holder in holders:
            await holder.seated()
        for holder in holders:
            await holder.leave()
        clock.advance(MAKE_ROOM_AFTER_S)
        await until(lambda: any(worker.binding is None for worker in starter.live) and pool.count(State.IDLE) == 2)
        assert holders[0].worker.memory == TEA
        assert holders[1].worker.is_stopped


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_closing_pool_keeps_nothing(starter: Starter) -> None:
    async with opened(starter, kept=2) as pool:
        kept = await begin(pool, TEA)
        early, late = Holder(pool, learns=CAKE), Holder(pool, learns=CAKE)
        await early.seated()
        await late.seated()
        closing = asyncio.create_task(pool.close(grace_s=BOUND_S))
        await turn_over()
        await early.leave()
        assert early.worker.is_stopped
        await late.leave()
        await asyncio.wait_for(closing, BOUND_S)
        assert kept.is_stopped
        assert isinstance(await Holder(pool, history=TEA).refusal(), ShuttingDown)
