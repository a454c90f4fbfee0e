"""A decision carried out: who is asked after whom, for how long, and what is told when nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest

from providers import errors
from providers.attempts import FallbackLimits, most_useful, run_decision
from providers.events import (
    Event,
    LimitNotice,
    Message,
    ReasoningDelta,
    TextDelta,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
)
from providers.provider import Provider
from providers.route import Attempt, Choice, Decision
from providers.score import ProviderStats

BOUND_S = 5.0
TURN = Turn((Message("user", ("hello",)),), model="of the caller")
ANSWER: tuple[Event, ...] = (
    TurnStarted("m-1"),
    Usage(3, 0),
    TextDelta("well"),
    TextDelta("then"),
    TurnFinished("stop", Usage(3, 2)),
)
HANG = asyncio.Event  # in a script: wait forever


class FakeProvider:
    """Gives the events of its script; an exception in it is raised, HANG waits until it is cancelled or closed."""

    def __init__(self, name: str, *script: Event | Exception | type[asyncio.Event], context: int = 100) -> None:
        self.name = name
        self.default_model = f"{name}-default"
        self.context_tokens = context
        self.stats = ProviderStats()
        self.script = script
        self.asked: list[Turn] = []
        self.running = 0
        self.hangs = asyncio.Event()

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        self.asked.append(turn)
        self.running += 1
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, type):
                    self.hangs.set()
                    await asyncio.Event().wait()
                    continue
                yield step
        finally:
            self.running -= 1


def decided(*providers: FakeProvider, models: tuple[str | None, ...] = (), reason: str = "score") -> Decision:
    named = (*models, *[None] * len(providers))
    choices = (Choice(cast(Provider, it), model) for it, model in zip(providers, named, strict=False))
    return Decision(tuple(choices), reason)


async def outcome(
    decision: Decision, limits: FallbackLimits | None = None
) -> tuple[list[Event], list[Attempt], errors.ProviderError | None]:
    events: list[Event] = []
    attempts: list[Attempt] = []
    try:
        async with asyncio.timeout(BOUND_S):
            async with aclosing(run_decision(decision, TURN, attempts, limits=limits or FallbackLimits())) as found:
                async for event in found:
                    events.append(event)
    except errors.ProviderError as error:
        return events, attempts, error
    return events, attempts, None


def codes(attempts: list[Attempt]) -> list[tuple[str, str]]:
    return [(it.provider, it.code) for it in attempts]


def limited(retry_after_s: float | None = None) -> errors.RateLimited:
    return errors.RateLimited("no", retry_after_s=retry_after_s)


# --- an answer -------------------------------------------------------------------------------------------------------


async def test_first_choice_answers_with_its_own_model_and_nobody_else_is_asked() -> None:
    first, second = FakeProvider("claude", *ANSWER), FakeProvider("gemini", *ANSWER)
    events, attempts, error = await outcome(decided(first, second, models=("opus",)))
    assert (tuple(events), error) == (ANSWER, None)
    assert [turn.model for turn in first.asked] == ["opus"]
    assert second.asked == []
    assert codes(attempts) == [("claude", "")]
    assert (attempts[0].model, attempts[0].is_accepted, attempts[0].usage) == ("m-1", True, Usage(3, 0))


@pytest.mark.parametrize(
    "failure",
    [
        errors.ProviderUnavailable("no"),
        errors.NotInstalled("no"),
        errors.NeedsLogin("no"),
        errors.UnsupportedAccount("no"),
        errors.CrashLoop("no"),
        errors.Busy("no"),
        errors.Overloaded("no"),
        limited(),
        errors.WorkerFailed("no"),
        errors.WorkerCrashed("no"),
        errors.ProtocolBroken("no"),
        errors.StreamCut("no"),
        errors.TimedOut("no"),
    ],
    ids=lambda error: error.code,
)
async def test_failure_another_could_serve_moves_on(failure: errors.ProviderError) -> None:
    first, second = FakeProvider("claude", failure), FakeProvider("gemini", *ANSWER)
    events, attempts, error = await outcome(decided(first, second))
    assert (tuple(events), error) == (ANSWER, None)
    assert codes(attempts) == [("claude", failure.code), ("gemini", "")]


@pytest.mark.parametrize(
    "failure",
    [errors.TurnRefused("no"), errors.RequestTooLarge("no"), errors.ShuttingDown("no"), errors.ProviderChanged("no")],
    ids=lambda error: error.code,
)
async def test_failure_nobody_else_would_help_is_the_answer(failure: errors.ProviderError) -> None:
    first, second = FakeProvider("claude", failure), FakeProvider("gemini", *ANSWER)
    events, attempts, error = await outcome(decided(first, second))
    assert error is failure
    assert (events, second.asked) == ([], [])
    assert codes(attempts) == [("claude", failure.code)]


@pytest.mark.parametrize("first_word", [TextDelta("half"), ReasoningDelta("hm")])
async def test_nobody_else_is_asked_after_the_first_word(first_word: Event) -> None:
    failure = errors.StreamCut("no")
    first = FakeProvider("claude", TurnStarted("m-1"), first_word, failure)
    second = FakeProvider("gemini", *ANSWER)
    events, attempts, error = await outcome(decided(first, second))
    assert events == [TurnStarted("m-1"), first_word]
    assert error is failure
    assert second.asked == []
    assert codes(attempts) == [("claude", "vendor_stream_cut")]


async def test_what_comes_before_the_first_word_is_held_back_and_its_use_is_told() -> None:
    notice = LimitNotice("warning", "five_hour")
    first = FakeProvider("claude", TurnStarted("m-1"), Usage(7, 0), notice, errors.StreamCut("no"))
    events, attempts, _ = await outcome(decided(first, FakeProvider("gemini", *ANSWER)))
    assert tuple(events) == ANSWER
    assert (attempts[0].model, attempts[0].is_accepted, attempts[0].usage) == ("m-1", True, Usage(7, 0))


async def test_answer_without_a_word_is_one() -> None:
    empty = (TurnStarted("m-1"), TurnFinished("stop", None))
    events, attempts, _ = await outcome(decided(FakeProvider("claude", *empty), FakeProvider("gemini", *ANSWER)))
    assert (tuple(events), codes(attempts)) == (empty, [("claude", "")])


async def test_turn_that_ends_before_it_began_moves_on() -> None:
    first = FakeProvider("claude", TurnStarted("m-1"))
    events, attempts, _ = await outcome(decided(first, FakeProvider("gemini", *ANSWER)))
    assert tuple(events) == ANSWER
    assert codes(attempts) == [("claude", "worker_protocol_broken"), ("gemini", "")]


async def test_failure_after_the_end_is_not_the_callers() -> None:
    events, attempts, error = await outcome(decided(FakeProvider("claude", *ANSWER, errors.WorkerCrashed("late"))))
    assert (tuple(events), error, codes(attempts)) == (ANSWER, None, [("claude", "")])


async def test_unforeseen_failure_is_nobodys_to_serve() -> None:
    second = FakeProvider("gemini", *ANSWER)
    attempts: list[Attempt] = []
    with pytest.raises(ValueError, match="a bug"):
        async for _ in run_decision(
            decided(FakeProvider("claude", ValueError("a bug")), second), TURN, attempts, limits=FallbackLimits()
        ):
            pass
    assert second.asked == []
    assert codes(attempts) == [("claude", "internal_error")]


# --- who comes next --------------------------------------------------------------------------------------------------


async def test_too_long_a_prompt_goes_only_where_there_is_more_room() -> None:
    small, same = FakeProvider("small", errors.ContextTooLong("no")), FakeProvider("same", *ANSWER)
    large = FakeProvider("large", *ANSWER, context=101)
    _, attempts, error = await outcome(decided(small, same, large))
    assert (error, codes(attempts)) == (None, [("small", "context_length_exceeded"), ("large", "")])
    _, attempts, error = await outcome(decided(small, same))
    assert isinstance(error, errors.ContextTooLong)
    assert codes(attempts) == [("small", "context_length_exceeded")]


@pytest.mark.parametrize("failure", [errors.ModelUnknown("no"), errors.ParameterUnsupported("no")])
@pytest.mark.parametrize(
    ("reason", "model", "moves_on"),
    [
        ("named", "opus", False),
        ("model", "opus", False),
        ("named", None, True),
        ("rule=code", "opus", True),
        ("score", None, True),
    ],
)
async def test_model_that_was_named_is_not_exchanged(
    failure: errors.ProviderError, reason: str, model: str | None, moves_on: bool
) -> None:
    first, second = FakeProvider("claude", failure), FakeProvider("gemini", *ANSWER)
    _, _, error = await outcome(decided(first, second, models=(model,), reason=reason))
    assert (error is None) is moves_on
    assert bool(second.asked) is moves_on


async def test_other_models_of_a_provider_that_is_down_are_passed_over() -> None:
    down = FakeProvider("claude", errors.NeedsLogin("no"))
    decision = decided(down, down, FakeProvider("gemini", *ANSWER), models=("opus", "haiku"))
    _, attempts, _ = await outcome(decision)
    assert codes(attempts) == [("claude", "provider_needs_login"), ("gemini", "")]


async def test_other_model_of_a_provider_may_serve_what_one_has_no_quota_for() -> None:
    one = FakeProvider("claude", limited())
    _, _, error = await outcome(decided(one, one, models=("opus", "haiku")))
    assert [turn.model for turn in one.asked] == ["opus", "haiku"]
    assert isinstance(error, errors.RateLimited)


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_attempts_are_bounded_by_count() -> None:
    made = [FakeProvider(f"p{count}", errors.Overloaded("no")) for count in range(4)]
    _, attempts, _ = await outcome(decided(*made), FallbackLimits(tries=2))
    assert codes(attempts) == [("p0", "vendor_overloaded"), ("p1", "vendor_overloaded")]


async def test_no_attempt_begins_after_the_whole_time() -> None:
    first, second = FakeProvider("claude", errors.Overloaded("no")), FakeProvider("gemini", *ANSWER)
    _, attempts, error = await outcome(decided(first, second), FallbackLimits(total_s=-1.0))
    assert isinstance(error, errors.Overloaded)
    assert (len(attempts), second.asked) == (1, [])


@pytest.mark.parametrize("begins", [(), (TurnStarted("m-1"), Usage(3, 0))], ids=["silent", "accepted"])
async def test_provider_that_hangs_is_left_for_another(begins: tuple[Event, ...]) -> None:
    first, second = FakeProvider("claude", *begins, HANG), FakeProvider("gemini", *ANSWER)
    events, attempts, _ = await outcome(decided(first, second), FallbackLimits(first_token_s=0.01))
    assert tuple(events) == ANSWER
    assert codes(attempts) == [("claude", "timed_out"), ("gemini", "")]
    assert first.running == 0
    assert first.stats.error_rate > second.stats.error_rate  # it is told by whoever knows that nobody left


@pytest.mark.parametrize(
    ("others", "limits"),
    [
        (0, FallbackLimits(first_token_s=0.01)),
        (1, FallbackLimits(first_token_s=0.01, tries=1)),
        (1, FallbackLimits(first_token_s=0.01, total_s=0.005)),
    ],
    ids=["alone", "last try", "out of time"],
)
async def test_attempt_no_other_may_follow_has_all_the_time_of_its_provider(
    others: int, limits: FallbackLimits
) -> None:
    first = FakeProvider("claude", HANG)
    decision = decided(first, *[FakeProvider("gemini", *ANSWER)] * others)
    asked = asyncio.create_task(outcome(decision, limits))
    async with asyncio.timeout(BOUND_S):
        await first.hangs.wait()
    await asyncio.sleep(0.1)
    assert first.running == 1
    asked.cancel()
    await asyncio.wait({asked}, timeout=BOUND_S)
    assert first.running == 0


# --- leaving ---------------------------------------------------------------------------------------------------------


async def test_closing_after_the_first_word_ends_the_vendors_turn() -> None:
    provider = FakeProvider("claude", *ANSWER)
    attempts: list[Attempt] = []
    events = run_decision(decided(provider), TURN, attempts, limits=FallbackLimits())
    await anext(events)
    assert provider.running == 1
    await events.aclose()
    assert provider.running == 0
    assert codes(attempts) == [("claude", "")]


@pytest.mark.parametrize("begins", [(), (TurnStarted("m-1"), Usage(3, 0))], ids=["silent", "accepted"])
async def test_cancelling_before_the_first_word_ends_the_vendors_turn_and_asks_nobody_else(
    begins: tuple[Event, ...],
) -> None:
    first, second = FakeProvider("claude", *begins, HANG), FakeProvider("gemini", *ANSWER)
    attempts: list[Attempt] = []
    events = run_decision(decided(first, second), TURN, attempts, limits=FallbackLimits())
    asked = asyncio.ensure_future(anext(events))
    async with asyncio.timeout(BOUND_S):
        await first.hangs.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert first.running == 0
    assert second.asked == []
    assert codes(attempts) == [("claude", "cancelled")]
    assert (attempts[0].is_accepted, attempts[0].usage) == (bool(begins), Usage(3, 0) if begins else None)


# --- what is told when nobody answers --------------------------------------------------------------------------------


async def test_only_attempts_error_is_raised_as_it_is() -> None:
    failure = errors.NeedsLogin("log in", mend="claude /login")
    _, attempts, error = await outcome(decided(FakeProvider("claude", failure)))
    assert error is failure
    assert (error.message, error.mend) == ("log in", "claude /login")
    assert error.attempts == tuple(attempts)
    assert error.decision is not None


async def test_error_tells_who_was_tried() -> None:
    first, second = FakeProvider("claude", limited(7)), FakeProvider("gemini", errors.NeedsLogin("log in"))
    _, attempts, error = await outcome(decided(first, second))
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after_s == 7
    assert str(error) == error.message == "no (tried claude: vendor_rate_limited, gemini: provider_needs_login)"
    assert error.attempts == tuple(attempts)
    assert len(attempts) == 2


async def test_fault_of_the_request_is_the_last_word() -> None:
    first, second = FakeProvider("claude", limited(7)), FakeProvider("gemini", errors.TurnRefused("no such thing"))
    _, attempts, error = await outcome(decided(first, second))
    assert type(error) is errors.TurnRefused
    assert error.message == "no such thing"
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("met", "told"),
    [
        ([errors.NeedsLogin("a"), limited(3_600)], 1),
        ([limited(3_600), errors.NeedsLogin("a")], 0),
        ([limited(3_600), limited(5)], 1),
        ([limited(5), limited(3_600)], 0),
        ([limited(3_600), errors.WorkerCrashed("a")], 1),
        ([errors.WorkerCrashed("a"), limited(5)], 1),
        ([limited(), errors.Overloaded("a")], 0),
        ([errors.NotInstalled("a"), errors.NeedsLogin("b")], 0),
    ],
)
def test_most_useful_error_is_the_one_that_is_over_soonest(met: list[errors.ProviderError], told: int) -> None:
    assert most_useful(met) is met[told]
