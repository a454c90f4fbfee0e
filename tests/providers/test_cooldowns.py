"""What vendors said of their limits: who is set aside, until when, and who may try first."""

from __future__ import annotations

import pytest

from providers.cooldowns import (
    LEAST_S,
    MOST_S,
    MOST_UNKNOWN_S,
    PROBE_S,
    UNKNOWN_S,
    WINDOW_S,
    Board,
    Cooldown,
    Note,
    Window,
)
from providers.events import LimitNotice

NOW = 1_000_000.0
LIMITED = "vendor_rate_limited"


class Watch:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Elsewhere:
    """What another hub says to whoever wants to probe."""

    def __init__(self) -> None:
        self.is_free = True
        self.given_back: list[str] = []

    async def take(self, provider: str) -> bool:
        return self.is_free

    def give_back(self, provider: str) -> None:
        self.given_back.append(provider)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def told() -> list[tuple[Note, bool]]:
    return []


@pytest.fixture
def board(watch: Watch, told: list[tuple[Note, bool]]) -> Board:
    return Board(clock=watch, on_change=lambda note, is_over: told.append((note, is_over)))


def left(board: Board, model: str = "sonnet", provider: str = "claude") -> float | None:
    """Seconds until the provider may be asked; None if it may now."""
    cooldown = board.cooling(provider, model)
    return None if cooldown is None else cooldown.until - board.clock()


# --- until when ------------------------------------------------------------------------------------------------------


def test_a_vendor_that_names_its_time_is_not_asked_before_it(board: Board, watch: Watch) -> None:
    board.cool("claude", LIMITED, until=NOW + 90)
    assert left(board) == 90
    assert left(board, provider="gemini") is None
    watch.now += 89.5
    assert left(board) == 0.5
    watch.now += 0.5
    assert left(board) is None


@pytest.mark.parametrize(("named_s", "kept_s"), [(-5.0, LEAST_S), (0.1, LEAST_S), (3.0, 3.0), (400 * 86_400.0, MOST_S)])
def test_a_time_beyond_reason_is_not_believed(board: Board, named_s: float, kept_s: float) -> None:
    board.cool("claude", LIMITED, until=NOW + named_s)
    assert left(board) == kept_s


def test_without_a_time_each_refusal_in_a_row_doubles_the_wait(board: Board, watch: Watch) -> None:
    waits = []
    for _ in range(8):
        waits.append(board.cool("claude", LIMITED).until - watch.now)
        watch.now += waits[-1]
    assert waits[:3] == [UNKNOWN_S, 2 * UNKNOWN_S, 4 * UNKNOWN_S]
    assert waits[-1] == MOST_UNKNOWN_S


def test_turns_that_are_refused_together_count_once(board: Board, watch: Watch) -> None:
    for _ in range(5):
        board.cool("claude", LIMITED)
        watch.now += 0.1
    assert left(board) == pytest.approx(UNKNOWN_S - 0.1)


def test_an_answer_begins_the_count_anew(board: Board, watch: Watch) -> None:
    for _ in range(3):
        watch.now = board.cool("claude", LIMITED).until
    board.succeeded("claude", "sonnet")
    board.cool("claude", LIMITED)
    assert left(board) == UNKNOWN_S


def test_an_answer_to_a_turn_that_began_before_the_refusal_ends_nothing(board: Board) -> None:
    board.cool("claude", LIMITED, until=NOW + 90)
    board.succeeded("claude", "sonnet")
    assert left(board) == 90


def test_a_refusal_without_a_time_does_not_shorten_what_the_vendor_named(board: Board) -> None:
    board.cool("claude", LIMITED, until=NOW + 3_600, window="five_hour")
    board.cool("claude", LIMITED)
    assert left(board) == 3_600


def test_the_later_of_two_windows_counts_and_a_new_word_about_the_same_one(board: Board) -> None:
    board.cool("claude", LIMITED, until=NOW + 9_000, window="seven_day")
    board.cool("claude", LIMITED, until=NOW + 60, window="five_hour")
    assert left(board) == 9_000
    board.cool("claude", LIMITED, until=NOW + 30, window="seven_day")
    assert left(board) == 30


def test_a_limit_of_one_model_leaves_the_others_alone(board: Board, watch: Watch) -> None:
    board.cool("claude", LIMITED, until=NOW + 60, model="opus")
    assert left(board, "claude-opus-5-5") == 60
    assert left(board, "sonnet") is None
    board.cool("claude", LIMITED, until=NOW + 10)
    assert (left(board, "opus"), left(board, "sonnet")) == (60, 10)
    watch.now += 20
    board.succeeded("claude", "sonnet")
    assert left(board, "opus") == 40


@pytest.mark.parametrize(
    ("limited", "asked", "is_meant"),
    [
        ("opus", "opus", True),
        ("opus", "claude-opus-4-8", True),
        ("opus", "opus[1m]", True),
        ("opus", "sonnet", False),
        ("gemini-flash", "gemini-flash", True),
        ("gemini-flash", "gemini-flash-lite", False),
        ("", "sonnet", True),
    ],
)
def test_a_limit_is_of_a_family_or_of_one_model_not_of_every_longer_name(
    board: Board, limited: str, asked: str, is_meant: bool
) -> None:
    board.cool("p", LIMITED, until=NOW + 60, model=limited)
    assert (board.cooling("p", asked) is not None) is is_meant


def test_the_owner_can_clear_a_provider(board: Board, told: list[tuple[Note, bool]]) -> None:
    board.cool("claude", LIMITED, until=NOW + 60)
    board.cool("claude", LIMITED, until=NOW + 60, model="opus")
    board.cool("gemini", LIMITED, until=NOW + 60)
    board.clear("claude")
    assert (left(board), left(board, "opus"), left(board, provider="gemini")) == (None, None, 60)
    assert not board.needs_probe("claude", "opus")
    assert [is_over for _, is_over in told] == [False, False, False, True, True]


# --- the first one after it ------------------------------------------------------------------------------------------


async def test_after_a_cooldown_one_request_tries_and_the_others_wait_for_it(board: Board, watch: Watch) -> None:
    board.cool("claude", LIMITED, until=NOW + 60)
    assert not await board.may_probe("claude", "sonnet")
    watch.now += 60
    assert board.needs_probe("claude", "sonnet")
    assert await board.may_probe("claude", "sonnet")
    assert not await board.may_probe("claude", "sonnet")
    assert left(board) == PROBE_S
    board.succeeded("claude", "sonnet")
    assert (left(board), board.needs_probe("claude", "sonnet")) == (None, False)


async def test_a_try_that_is_refused_cools_again_and_longer(board: Board, watch: Watch) -> None:
    watch.now = board.cool("claude", LIMITED).until
    assert await board.may_probe("claude", "sonnet")
    board.cool("claude", LIMITED)
    board.end_probe("claude", "sonnet")
    assert left(board) == 2 * UNKNOWN_S


async def test_a_try_that_shows_nothing_leaves_the_next_one_to_another(board: Board, watch: Watch) -> None:
    watch.now = board.cool("claude", LIMITED).until
    assert await board.may_probe("claude", "sonnet")
    board.end_probe("claude", "sonnet")
    assert left(board) is None
    assert await board.may_probe("claude", "sonnet")


async def test_a_try_that_never_ends_keeps_others_waiting_only_so_long(board: Board, watch: Watch) -> None:
    watch.now = board.cool("claude", LIMITED).until
    assert await board.may_probe("claude", "sonnet")
    watch.now += PROBE_S
    assert await board.may_probe("claude", "sonnet")


async def test_one_request_of_all_hubs_tries(watch: Watch) -> None:
    elsewhere = Elsewhere()
    board = Board(clock=watch, probes=elsewhere)
    watch.now = board.cool("claude", LIMITED).until
    elsewhere.is_free = False
    assert not await board.may_probe("claude", "sonnet")
    assert left(board) is not None
    watch.now += 5
    elsewhere.is_free = True
    assert await board.may_probe("claude", "sonnet")
    board.succeeded("claude", "sonnet")
    board.end_probe("claude", "sonnet")
    assert elsewhere.given_back == ["claude"]


# --- windows ---------------------------------------------------------------------------------------------------------


def test_windows_are_kept_as_last_told(board: Board) -> None:
    board.note_limit("claude", LimitNotice("allowed", "seven_day", NOW + 9_000, 0.2))
    board.note_limit("claude", LimitNotice("allowed", "five_hour", NOW + 60, 0.4))
    board.note_limit("claude", LimitNotice("warning", "five_hour", NOW + 60, 0.91))
    board.note_limit("claude", LimitNotice("allowed", ""))
    shown = [(it.name, it.status, it.used) for it in board.windows("claude")]
    assert shown == [("five_hour", "warning", 0.91), ("seven_day", "allowed", 0.2)]
    assert left(board) is None
    assert board.windows("gemini") == ()


def test_only_a_used_up_window_sets_its_provider_aside(board: Board) -> None:
    board.note_limit("claude", LimitNotice("rejected", "seven_day_opus", NOW + 300, 1.0, model="opus"))
    assert (left(board, "opus"), left(board, "sonnet")) == (300, None)
    board.note_limit("claude", LimitNotice("rejected", "five_hour"))
    assert left(board, "sonnet") == UNKNOWN_S


def test_the_fullest_window_counts_until_it_is_reset(board: Board, watch: Watch) -> None:
    assert board.used_quota("claude") == 0
    board.note_limit("claude", LimitNotice("warning", "five_hour", NOW + 60, 0.91))
    board.note_limit("claude", LimitNotice("allowed", "seven_day", NOW + 9_000, 0.3))
    board.note_limit("claude", LimitNotice("allowed", "odd", None, 0.5))
    assert board.used_quota("claude") == 0.91
    watch.now += 60
    assert board.used_quota("claude") == 0.5
    watch.now += WINDOW_S
    assert board.used_quota("claude") == 0.3


# --- other hubs ------------------------------------------------------------------------------------------------------


def test_what_is_noted_here_is_told_and_what_is_taken_over_is_not(
    board: Board, told: list[tuple[Note, bool]], watch: Watch
) -> None:
    made = board.cool("claude", LIMITED, until=NOW + 60)
    assert told == [(made, False)]
    board.take_over(Cooldown("gemini", LIMITED, NOW, NOW + 30, is_exact=True))
    board.take_over(Window("gemini", "per_day", "allowed", 0.5, NOW + 60, NOW))
    assert told == [(made, False)]
    assert left(board, provider="gemini") == 30
    assert board.used_quota("gemini") == 0.5


async def test_the_newer_word_wins(board: Board, watch: Watch) -> None:
    old = Cooldown("claude", LIMITED, NOW - 10, NOW + 500)
    board.cool("claude", LIMITED, until=NOW + 60)
    board.take_over(old)
    assert left(board) == 60
    board.take_over(old, is_over=True)
    assert left(board) == 60
    newer = Cooldown("claude", LIMITED, NOW + 1, NOW + 90)
    board.take_over(newer)
    assert left(board) == 90
    board.take_over(newer, is_over=True)
    assert left(board) is None
    board.note_limit("claude", LimitNotice("allowed", "five_hour", NOW + 60, 0.4))
    board.take_over(Window("claude", "five_hour", "warning", 0.9, NOW + 60, NOW - 1))
    assert board.used_quota("claude") == 0.4


async def test_another_hubs_refusal_ends_the_try_here(board: Board, watch: Watch) -> None:
    watch.now = board.cool("claude", LIMITED, until=NOW + 60).until
    assert await board.may_probe("claude", "sonnet")
    board.take_over(Cooldown("claude", LIMITED, watch.now, watch.now + 90, is_exact=True))
    assert left(board) == 90
