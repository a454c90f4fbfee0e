"""How providers are compared: by what they did lately, how full they are, and what they have left."""

from __future__ import annotations

import pytest

from providers.score import HALF_LIFE_S, USUAL_FIRST_TOKEN_S, ProviderStats, score


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock: Clock) -> ProviderStats:
    return ProviderStats(clock=clock)


def points(stats: ProviderStats, *, load: float = 0.0, used_quota: float = 0.0, state: str = "ready") -> float:
    return score(stats, load=load, used_quota=used_quota, state=state)


def test_provider_nobody_has_asked_is_an_ordinary_one(stats: ProviderStats) -> None:
    assert stats.first_token_s == USUAL_FIRST_TOKEN_S
    assert stats.error_rate == 0


def test_first_token_time_comes_near_what_is_seen(stats: ProviderStats) -> None:
    for _ in range(50):
        stats.note_answer(0.2)
    assert 0.2 < stats.first_token_s < 0.3


def test_one_failure_is_no_certainty_and_many_nearly_are(stats: ProviderStats) -> None:
    stats.note_failure()
    assert stats.error_rate == pytest.approx(0.5)
    for _ in range(50):
        stats.note_failure()
    assert 0.95 < stats.error_rate < 1


def test_answers_and_failures_are_weighed_against_each_other(stats: ProviderStats) -> None:
    for _ in range(30):
        stats.note_answer(1.0)
    for _ in range(10):
        stats.note_failure()
    assert stats.error_rate == pytest.approx(10 / 41)


def test_what_was_long_ago_is_forgotten(stats: ProviderStats, clock: Clock) -> None:
    for _ in range(20):
        stats.note_failure()
        stats.note_answer(30.0)
    before = stats.error_rate
    clock.now += 20 * HALF_LIFE_S
    assert stats.error_rate < 0.01 < before
    assert stats.first_token_s == pytest.approx(USUAL_FIRST_TOKEN_S, rel=0.01)


def test_what_is_new_outweighs_what_is_old(stats: ProviderStats, clock: Clock) -> None:
    for _ in range(10):
        stats.note_answer(10.0)
    clock.now += 5 * HALF_LIFE_S
    for _ in range(10):
        stats.note_answer(1.0)
    assert stats.first_token_s < 2.0


def test_clock_that_goes_back_harms_nothing(stats: ProviderStats, clock: Clock) -> None:
    stats.note_failure()
    clock.now -= 10_000
    assert stats.error_rate == pytest.approx(0.5)


def test_each_trouble_makes_a_provider_worse(stats: ProviderStats) -> None:
    best = points(stats)
    assert best < points(stats, load=0.5) < points(stats, load=3.0)
    assert best == points(stats, used_quota=0.4)
    assert best < points(stats, used_quota=0.8) < points(stats, used_quota=1.0)
    assert best < points(stats, state="starting")
    stats.note_failure()
    assert best < points(stats)


def test_who_does_not_serve_comes_after_whoever_does(clock: Clock) -> None:
    """However fast it was, and however slow and full the other is."""
    fast, slow = ProviderStats(clock=clock), ProviderStats(clock=clock)
    for _ in range(50):
        fast.note_answer(0.01)
        slow.note_answer(60.0)
        slow.note_failure()
    for state in ("needs_login", "crash_loop", "cooling_down", "not_installed", "unsupported_account", "disabled"):
        assert points(fast, state=state) > points(slow, load=5.0, used_quota=1.0)
    assert points(fast, state="busy") < points(slow)
