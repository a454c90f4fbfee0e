"""What a key has used by the calendar (UTC), as the database has it."""

from __future__ import annotations

import calendar
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Sum

from chat.models import TurnRecord

MICRO = 1_000_000


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
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        days = calendar.monthrange(now.year, now.month)[1]
        ends = (midnight + timedelta(days=1), midnight.replace(day=1) + timedelta(days=days))
        day = now.date().isoformat()
        return cls(day, day[:7], *(math.ceil((end - now) / timedelta(milliseconds=1)) for end in ends))

    def as_args(self) -> tuple[str, str, int, int]:
        return self.day, self.month, self.day_left_ms, self.month_left_ms


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
