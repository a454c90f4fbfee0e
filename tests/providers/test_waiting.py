from __future__ import annotations

from providers.waiting import FairQueue, Waiter


def queue_of(*callers: str) -> tuple[FairQueue[str], list[Waiter[str]]]:
    queue: FairQueue[str] = FairQueue()
    waiters = [Waiter[str](caller, None) for caller in callers]
    for waiter in waiters:
        queue.add(waiter)
    return queue, waiters


def order(queue: FairQueue[str]) -> str:
    return "".join(waiter.caller for waiter in queue)


async def test_callers_are_due_in_turns_whatever_the_length_of_their_lines() -> None:
    queue, _ = queue_of(*"aaaabbc")
    assert order(queue) == "abcabaa"
    assert len(queue) == 7


async def test_turns_of_one_caller_are_served_in_the_order_they_came() -> None:
    queue, waiters = queue_of(*"aaa")
    assert list(queue) == waiters


async def test_a_served_caller_goes_behind_everybody_else() -> None:
    queue, _ = queue_of(*"aaabc")
    served = ""
    while waiter := next(iter(queue), None):
        queue.serve(waiter, "worker")
        served += waiter.caller
    assert served == "abcaa"
    assert len(queue) == 0


async def test_a_newcomer_is_served_before_the_second_turn_of_those_before_it() -> None:
    queue, waiters = queue_of(*"aa")
    queue.serve(waiters[0], "worker")
    queue.add(Waiter("b", None))
    queue.serve(waiters[1], "worker")
    queue.add(Waiter("a", None))
    assert order(queue) == "ba"


async def test_a_served_waiter_has_its_worker_and_has_left_the_queue() -> None:
    queue, (first, second) = queue_of(*"ab")
    queue.serve(second, "worker")
    assert second.seat.result() == "worker"
    assert list(queue) == [first]


async def test_removing_takes_one_out_and_removing_it_again_does_nothing() -> None:
    queue, (first, second, other) = queue_of(*"aab")
    for _ in range(2):
        queue.remove(first)
        assert list(queue) == [second, other]
        assert len(queue) == 2
    queue.remove(second)
    queue.remove(second)
    assert list(queue) == [other]
    queue.remove(other)
    assert not queue._lines  # callers come and go for months


async def test_one_who_gave_up_is_not_due_any_more() -> None:
    """Its task may not have had the time to leave the queue yet."""
    queue, (first, second) = queue_of(*"ab")
    first.seat.cancel()
    assert list(queue) == [second]


async def test_the_queue_may_be_changed_while_it_is_walked() -> None:
    queue, waiters = queue_of(*"aabb")
    for waiter in queue:
        queue.serve(waiter, "worker")
    assert all(waiter.seat.done() for waiter in waiters)
    assert len(queue) == 0
