"""One decision carried out: its choices are tried in order until one says its first word.

What is known before that (that the vendor took the prompt, what that cost) is held back: a provider that fails then
has cost the caller nothing but time. From the first word on the answer is that provider's, to its end or its failure.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from providers.checking import checked
from providers.errors import (
    Busy,
    ContextTooLong,
    ModelUnknown,
    Overloaded,
    ParameterUnsupported,
    ProtocolBroken,
    ProviderChanged,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    TimedOut,
    WorkerFailed,
)
from providers.events import Event, LimitNotice, Turn, TurnFinished, TurnStarted, Usage
from providers.route import Attempt, Choice, Decision

logger = logging.getLogger(__name__)

# Everything else is the beginning of an answer.
HELD_BACK = (TurnStarted, Usage, LimitNotice)
# The provider's trouble, not the request's.
ANOTHER_MAY_SERVE = (ProviderUnavailable, Busy, Overloaded, RateLimited, WorkerFailed)
# Another provider has other models, which the caller is fine with only where it has not named one.
OF_THE_MODEL = (ModelUnknown, ParameterUnsupported)
# How soon what names no time is taken to be over, where errors are compared.
ASSUMED_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class FallbackLimits:
    """How many providers a request is given to at most, and times in seconds: no attempt begins later than `total_s`;
    one that another may follow has `first_token_s` for its first word."""

    tries: int = 3
    total_s: float = 60.0
    first_token_s: float = 30.0


async def run_decision(
    decision: Decision, turn: Turn, attempts: list[Attempt], *, limits: FallbackLimits
) -> AsyncGenerator[Event, None]:
    """The events of the first choice that answers. What became of each one tried is appended to `attempts`.

    Closing the generator ends the turn and its vendor call at once. Raises ProviderError, with the decision and the
    attempts: the only one's as it is, else that of `most_useful`.
    """
    chain = _Chain(decision, limits)
    while True:
        attempt = _Try(chain.next())
        try:
            async with aclosing(attempt.events(turn, attempts, chain.share_s())) as events:
                async for event in events:
                    yield event
            return
        except ProviderError as error:
            if attempt.is_finished:
                logger.warning("after the end of a turn: %s", error)
                return
            if not attempt.has_spoken and chain.goes_on_after(attempt.choice, error):
                logger.info("%s failed before its first word, another is asked: %s", attempt.name, error)
                continue
            failure = error if attempt.has_spoken else chain.verdict(error)
        failure.decision, failure.attempts = decision, tuple(attempts)
        raise failure


@dataclass(slots=True)
class _Chain:
    """The choices of one decision, and how those have failed that were tried."""

    decision: Decision
    limits: FallbackLimits
    failures: list[tuple[Choice, ProviderError]] = field(default_factory=list)
    _left: list[Choice] = field(default_factory=list)
    _began_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._left = list(self.decision.choices)

    def next(self) -> Choice:
        return self._left.pop(0)

    @property
    def _has_another(self) -> bool:
        return bool(self._left) and len(self.failures) + 1 < self.limits.tries

    def share_s(self) -> float | None:
        """How long the attempt that begins now may take to its first word; None if none would begin after it."""
        ends_s = time.monotonic() - self._began_at + self.limits.first_token_s
        return self.limits.first_token_s if self._has_another and ends_s < self.limits.total_s else None

    def goes_on_after(self, failed: Choice, error: ProviderError) -> bool:
        """Whether another choice is to be asked. Those that would fail likewise are passed over."""
        may_serve = self._may_serve(failed, error)
        self._left = [choice for choice in self._left if may_serve and not _fails_likewise(choice, failed, error)]
        is_in_time = time.monotonic() - self._began_at <= self.limits.total_s
        goes_on = self._has_another and is_in_time
        self.failures.append((failed, copy.copy(error)))  # without the frames of its turn
        return goes_on

    def _may_serve(self, failed: Choice, error: ProviderError) -> bool:
        if isinstance(error, ProviderChanged):
            return False  # it is to be decided anew, by what is there now
        if isinstance(error, OF_THE_MODEL):
            return failed.model is None or not self.decision.is_named
        return isinstance(error, (*ANOTHER_MAY_SERVE, ContextTooLong))

    def verdict(self, last: ProviderError) -> ProviderError:
        """What to raise: an error that nobody else could have helped is the last word, else the most useful one.

        That a later choice knows no such model tells of the chain, not of the request.
        """
        if len(self.failures) == 1 or not (isinstance(last, OF_THE_MODEL) or self._may_serve(*self.failures[-1])):
            return last
        error = most_useful([error for _, error in self.failures])
        tried = ", ".join(f"{choice.provider.name}: {it.code}" for choice, it in self.failures)
        error.message = f"{error.message} (tried {tried})"
        error.args = (error.message,)
        return error


def _fails_likewise(choice: Choice, failed: Choice, error: ProviderError) -> bool:
    if isinstance(error, ContextTooLong):
        return choice.provider.context_tokens <= failed.provider.context_tokens
    return isinstance(error, ProviderUnavailable) and choice.provider is failed.provider


def most_useful(errors: list[ProviderError]) -> ProviderError:
    """Of errors that were all met: the one whose trouble is over soonest, so that asking again helps soonest.

    Only what ends by itself counts, by the time it names, else ASSUMED_WAIT_S. Where nothing does, it is the first
    choice's; also of several that are over at the same time the first one's.
    """
    passing = [error for error in errors if error.retryable]
    return min(passing or errors[:1], key=_wait_s)


def _wait_s(error: ProviderError) -> float:
    return ASSUMED_WAIT_S if error.retry_after_s is None else error.retry_after_s


@dataclass(slots=True)
class _Try:
    """One choice while it is tried."""

    choice: Choice
    has_spoken: bool = False
    is_finished: bool = False
    _held: list[Event] = field(default_factory=list)
    _began_at: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.choice.provider.name

    async def events(self, turn: Turn, attempts: list[Attempt], share_s: float | None) -> AsyncGenerator[Event, None]:
        """All events, once the first word is there. Raises ProviderError; TimedOut if it is not within `share_s`."""
        try:
            model = self.choice.model
            asked = turn if turn.model == model else replace(turn, model=model)
            async with aclosing(checked(self.choice.provider.run, asked)) as events:
                await self._reach_first_word(events, share_s)
                attempts.append(self._as_attempt(""))
                for event in self._held:
                    self.is_finished = isinstance(event, TurnFinished)
                    yield event
                async for event in events:
                    self.is_finished = isinstance(event, TurnFinished)
                    yield event
        except BaseException as error:
            self._note_failure(attempts, error)
            raise

    async def _reach_first_word(self, events: AsyncGenerator[Event, None], share_s: float | None) -> None:
        if share_s is None:
            await self._hold_back(events)
            return
        try:
            async with asyncio.timeout(share_s) as bound:
                await self._hold_back(events)
        except TimeoutError as exc:
            if not bound.expired():
                raise
            # To the provider it looks like a caller who left.
            self.choice.provider.stats.note_failure()
            raise TimedOut(f"{self.name} said nothing within {share_s:g} s") from exc

    async def _hold_back(self, events: AsyncGenerator[Event, None]) -> None:
        """Keep what comes before the first word, and that."""
        async for event in events:
            self._held.append(event)
            if not isinstance(event, HELD_BACK):
                self.has_spoken = True
                return
        raise ProtocolBroken(f"{self.name} ended the turn before its first word")

    def _note_failure(self, attempts: list[Attempt], error: BaseException) -> None:
        """A turn that is cancelled after its first word was answered as far as it was wanted."""
        if not self.has_spoken:
            attempts.append(self._as_attempt(_code_of(error)))
        elif isinstance(error, Exception) and not self.is_finished:
            attempts[-1] = replace(attempts[-1], code=_code_of(error))

    def _as_attempt(self, code: str) -> Attempt:
        started = next((event for event in self._held if isinstance(event, TurnStarted)), None)
        usages = [event for event in self._held if isinstance(event, Usage)]
        return Attempt(
            provider=self.name,
            model=started.model if started else self.choice.model or self.choice.provider.default_model,
            code=code,
            ms=round((time.monotonic() - self._began_at) * 1_000),
            is_accepted=started is not None,
            usage=usages[-1] if usages else None,
        )


def _code_of(error: BaseException) -> str:
    match error:
        case ProviderError():
            return error.code
        case Exception():
            return "internal_error"
    return "cancelled"
