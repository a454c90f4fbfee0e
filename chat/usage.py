"""What a key has used by the calendar (UTC), as the database has it."""

from __future__ import annotations

import calendar
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from django.db.models import Sum

from chat.models import TurnRecord

MICRO = 1_000_000
MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Today:
    """The calendar's windows in UTC, by name and by what is left of them."""

    day: str
    month: str
    day_left_ms: int
    month_left_ms: int

    @classmethod
    def now(cls, now: datetime | None = None) -> Today:
        now = now or datetime.now(UTC)
        name, day_ends, month_ends = _windows(now.date())
        return cls(name, name[:7], math.ceil((day_ends - now) / MS), math.ceil((month_ends - now) / MS))

    def as_args(self) -> tuple[str, str, int, int]:
        return self.day, self.month, self.day_left_ms, self.month_left_ms


@lru_cache(maxsize=2)
def _windows(day: date) -> tuple[str, datetime, datetime]:
    """A day's name, when it ends and when its month does. Asked twice a turn, it changes once a day."""
    midnight = datetime.combine(day, time(), UTC)
    days = calendar.monthrange(day.year, day.month)[1]
    return day.isoformat(), midnight + timedelta(days=1), midnight.replace(day=1) + timedelta(days=days)


def used_since(key_id: int, today: Today) -> tuple[int, int, int]:
    """Tokens and micro-dollars of the day, micro-dollars of the month, as the database has them."""
    turns = TurnRecord.objects.filter(key_id=key_id)
    year, month, day = map(int, today.day.split("-"))
    of_day = turns.filter(started_at__gte=datetime(year, month, day, tzinfo=UTC)).aggregate(
        tokens_in=Sum("input_tokens"), tokens_out=Sum("output_tokens"), cost=Sum("cost_usd")
    )
    of_month = turns.filter(started_at__gte=datetime(year, month, 1, tzinfo=UTC)).aggregate(cost=Sum("cost_usd"))
    tokens = (of_day["tokens_in"] or 0) + (of_day["tokens_out"] or 0)
    return tokens, round(float(of_day["cost"] or 0) * MICRO), round(float(of_month["cost"] or 0) * MICRO)
