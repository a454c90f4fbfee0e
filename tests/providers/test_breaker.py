from __future__ import annotations

import pytest

from providers.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, StartBreaker
from providers.errors import CrashLoop, NeedsLogin, NotInstalled, WorkerCrashed
from tests.providers.fakes import Clock


@pytest.fixture
def breaker(clock: Clock) -> StartBreaker:
    return StartBreaker()


def test_a_new_breaker_lets_everybody_start(breaker: StartBreaker) -> None:
    assert breaker.pause_s == 0
    assert breaker.verdict is None


def test_each_failure_doubles_the_pause_up_to_a_bound(breaker: StartBreaker) -> None:
    pauses = []
    for _ in range(10):
        breaker.failed(WorkerCrashed("no"))
        pauses.append(breaker.pause_s)
    expected = [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(10)]
    assert pauses == pytest.approx(expected, abs=0.1)


def test_a_crash_or_two_are_no_reason_to_refuse_anybody(breaker: StartBreaker) -> None:
    for _ in range(FAILURES_TO_OPEN - 1):
        assert breaker.verdict is None
        breaker.failed(WorkerCrashed("no"))
    assert breaker.verdict is None


def test_a_crash_loop_is_told_with_its_last_reason_and_when_to_ask_again(breaker: StartBreaker) -> None:
    for n in range(FAILURES_TO_OPEN):
        breaker.failed(WorkerCrashed(f"reason {n}", mend="mend it"))
    verdict = breaker.verdict
    assert isinstance(verdict, CrashLoop)
    assert f"reason {FAILURES_TO_OPEN - 1}" in verdict.message
    assert verdict.mend == "mend it"
    assert verdict.retry_after_s == pytest.approx(breaker.pause_s, abs=0.1)


@pytest.mark.parametrize("error", [NotInstalled("gone"), NeedsLogin("who?")])
def test_what_only_the_owner_can_mend_is_told_at_the_first_failure(
    breaker: StartBreaker, error: NotInstalled | NeedsLogin
) -> None:
    breaker.failed(error)
    verdict = breaker.verdict
    assert type(verdict) is type(error)
    assert str(verdict) == str(error)


def test_after_the_pause_another_start_may_be_tried(breaker: StartBreaker, clock: Clock) -> None:
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(WorkerCrashed("no"))
    clock.advance(breaker.pause_s + 0.01)
    assert breaker.pause_s == 0
    assert breaker.verdict is None
    breaker.failed(WorkerCrashed("again"))
    assert isinstance(breaker.verdict, CrashLoop)


def test_a_start_that_works_forgives_everything(breaker: StartBreaker) -> None:
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(WorkerCrashed("no"))
    breaker.succeeded()
    assert (breaker.failures, breaker.pause_s, breaker.verdict) == (0, 0, None)


def test_a_worker_that_dies_at_once_is_not_forgotten_when_the_next_one_starts(clock: Clock) -> None:
    breaker = StartBreaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.died(WorkerCrashed("gone"))
        clock.advance(60)
        breaker.succeeded()
    assert isinstance(breaker.trouble, CrashLoop)
    breaker.proved()
    assert breaker.failures == 0


def test_workers_that_die_together_count_once(clock: Clock) -> None:
    breaker = StartBreaker()
    for _ in range(8):
        breaker.died(WorkerCrashed("gone"))
    assert breaker.failures == 1


def test_a_worker_from_before_the_last_death_does_not_prove_that_new_ones_last(clock: Clock) -> None:
    breaker = StartBreaker()
    before = clock.monotonic()
    breaker.died(WorkerCrashed("gone"))
    breaker.lasted(before)
    assert breaker.failures == 1
    breaker.lasted(clock.monotonic())
    assert breaker.failures == 0
