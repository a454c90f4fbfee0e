"""What a key may ask: requests and tokens per minute, tokens per day, concurrent turns, a budget in US dollars.

Counted in Redis, in one step, so the limits are exact across all hubs that share it. While Redis is away each hub
counts for itself. A turn's tokens and cost are booked when it is over: a budget stops the next turn, never one that
runs.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from chat.database import ask_database
from chat.errors import BudgetSpent, LimitReached, StoreUnavailable
from chat.hot import HotState, Script, Value
from chat.local_limits import LocalLimits
from chat.standing import Standing
from chat.store_metrics import note_limit
from chat.usage import MICRO, Today, used_since

# For keys without a limit by the calendar, who need not know what day it is.
ANY_DAY = Today("", "", 0, 0)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of one key; None for no limit. Budgets in US dollars."""

    requests_per_minute: int | None = None
    concurrent_turns: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    budget_day_usd: float | None = None
    budget_month_usd: float | None = None

    @property
    def by_day(self) -> bool:
        """Whether a limit reaches beyond the minute, so that its count must survive Redis."""
        return any(it is not None for it in (self.tokens_per_day, self.budget_day_usd, self.budget_month_usd))

    @property
    def has_bookings(self) -> bool:
        """Whether a limit wants to hear of a turn's end."""
        return self.by_day or self.tokens_per_minute is not None or self.concurrent_turns is not None

    @property
    def has_budget(self) -> bool:
        return self.budget_day_usd is not None or self.budget_month_usd is not None

    def as_numbers(self) -> list[int]:
        """In the scripts' order; money in micro-dollars, -1 for none."""
        money = [None if it is None else round(it * MICRO) for it in (self.budget_day_usd, self.budget_month_usd)]
        counts = (self.requests_per_minute, self.concurrent_turns, self.tokens_per_minute, self.tokens_per_day)
        return [-1 if it is None else it for it in (*counts, *money)]


class Limits:
    """Admits requests and books turns, under a key's id or a label that no key has.

    `lease_s`: a place of a turn whose hub was killed comes free after that.
    `settle` has the turns of this hub written to the database, before it is asked what a key has used.
    """

    admit_script = Script("limits_admit")
    book_script = Script("limits_book")
    fill_script = Script("limits_fill")
    renew_script = Script("limits_renew")

    def __init__(self, hot: HotState, *, lease_s: float, settle: Callable[[], Awaitable[None]]) -> None:
        self._hot = hot
        self._settle = settle
        self._lease_ms = int(lease_s * 1_000)
        self._here = LocalLimits()
        self._unbooked: set[int | str] = set()  # keys of which Redis knows less than the database

    async def admit(self, key_id: int | str, limits: KeyLimits, *, request: str, is_turn: bool) -> Standing:
        """Count one request, of a turn or of something lighter. Raises LimitReached, DatabaseUnavailable."""
        try:
            answer = await self._ask(key_id, limits, request, is_turn)
        except StoreUnavailable:
            answer = await self._decide_alone(key_id, limits, request, is_turn)
        verdict, name, limit, remaining, reset_ms = answer
        standing = Standing(_text(name), limit, remaining, reset_ms / 1_000)
        if verdict:
            return standing
        note_limit(standing.name)
        raise _refusal(standing)

    async def _ask(self, key_id: int | str, limits: KeyLimits, request: str, is_turn: bool) -> Any:
        today = Today.now() if limits.by_day else ANY_DAY
        keys = (f"hub:limit:{key_id}:requests", turns_key(key_id), prefix(key_id))
        args: tuple[Value, ...] = (request, int(is_turn), self._lease_ms, *today.as_args(), *limits.as_numbers())
        if is_turn and limits.by_day and key_id in self._unbooked:
            await self._fill(key_id, today)
        answer = await self._hot.run(self.admit_script, keys, args)
        if answer[0] == 2:
            await self._fill(key_id, today)
            answer = await self._hot.run(self.admit_script, keys, args)
        return answer

    async def _decide_alone(self, key_id: int | str, limits: KeyLimits, request: str, is_turn: bool) -> Any:
        today = Today.now()
        used = await self._used(key_id, today) if is_turn and limits.by_day else (0, 0, 0)
        return self._here.admit(key_id, limits.as_numbers(), request, is_turn=is_turn, used=used, today=today)

    async def _fill(self, key_id: int | str, today: Today) -> None:
        used = await self._used(key_id, today)
        is_behind = int(key_id in self._unbooked)
        await self._hot.run(self.fill_script, (prefix(key_id),), (today.day, today.month, *used, is_behind))
        self._unbooked.discard(key_id)

    async def renew(self, key_id: int | str, limits: KeyLimits, turn_id: str) -> None:
        """Hold on to the place of a running turn."""
        if limits.concurrent_turns is not None:
            await self._hot.run(self.renew_script, (turns_key(key_id),), (turn_id, self._lease_ms))

    async def book(self, key_id: int | str, limits: KeyLimits, turn_id: str, *, tokens: int, cost_usd: float) -> None:
        """Count what a turn has used; its place is free again. Never raises."""
        self._here.book(key_id, turn_id, tokens)
        if not limits.has_bookings:
            return
        today = Today.now()
        args = (turn_id, tokens, round(cost_usd * MICRO), today.day, today.month, int(limits.by_day))
        try:
            await self._hot.run(self.book_script, (turns_key(key_id), prefix(key_id)), args)
        except StoreUnavailable:
            if limits.by_day:
                self._unbooked.add(key_id)

    async def _used(self, key_id: int | str, today: Today) -> tuple[int, int, int]:
        if isinstance(key_id, str):  # no key's: nothing of it is in the database
            return 0, 0, 0
        await self._settle()
        return await ask_database(partial(used_since, key_id, today), "what this key has used")


def turns_key(key_id: int | str) -> str:
    return f"hub:limit:{key_id}:turns"


def prefix(key_id: int | str) -> str:
    return f"hub:limit:{key_id}:"


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _refusal(standing: Standing) -> LimitReached:
    kind = BudgetSpent if standing.name.startswith("budget") else LimitReached
    shown = f"${standing.limit / MICRO:g}" if kind is BudgetSpent else f"{standing.limit:g}"
    message = f"this key's limit is reached: {standing.name} ({shown}); it ends in {math.ceil(standing.reset_s)} s"
    return kind(message, retry_after_s=standing.reset_s, standing=standing)
