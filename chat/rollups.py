"""The figures of turns by the hour, added up where the turns are written down.

Whoever looks at weeks of a million turns reads a few thousand rows. Each turn is counted once: the archive's writer
adds what it has inserted, within the same transaction, and no other transaction inserts turns meanwhile.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.apps import apps as current_apps
from django.db import connection, transaction
from django.db.models import Max, Min, Model

HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANO = 1_000_000_000
NO_ERROR = ("ok", "cancelled")
# Buckets of times to the first token: each is a fifth wider than the one before.
BUCKETS_PER_DOUBLING = 4
# Any number that nobody else locks in the hub's database.
LOCK = 0x_4C4C_4D52
READ_AT_ONCE = 5_000
FACETS = ("provider", "key", "outcome")
# What is read of a turn to count it.
COLUMNS = (
    *("started_at", "provider", "key_id", "outcome", "input_tokens", "output_tokens", "cached_tokens"),
    *("cost_usd", "first_token_ms"),
)


@dataclass(slots=True)
class Sum:
    """The columns of an HourlyUse that are added up."""

    turns: int = 0
    errors: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    priced: int = 0
    cost_nano_usd: int = 0


SUMS = tuple(it.name for it in fields(Sum))


class Tally:
    """What some turns come to."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[int, str, str], Sum] = defaultdict(Sum)
        self._first_tokens: Counter[tuple[int, str, int]] = Counter()

    def add(
        self,
        started_at: datetime,
        provider: str,
        key_id: int | None,
        outcome: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int,
        cost_usd: Decimal | None,
        first_token_ms: int | None,
    ) -> None:
        """Count one turn."""
        hour = hour_of(started_at)
        for facet, name in zip(FACETS, (provider, str(key_id or 0), outcome), strict=True):
            sums = self._sums[hour, facet, name]
            sums.turns += 1
            sums.errors += outcome not in NO_ERROR
            sums.cancelled += outcome == "cancelled"
            sums.input_tokens += input_tokens
            sums.output_tokens += output_tokens
            sums.cached_tokens += cached_tokens
            if cost_usd is not None:
                sums.priced += 1
                sums.cost_nano_usd += round(cost_usd * NANO)
        if first_token_ms is not None:
            self._first_tokens[hour, provider, bucket_of(first_token_ms)] += 1

    def write(self) -> None:
        """Add it to what the database has. Within a transaction that holds the lock."""
        sums = [(*place, *astuple(it)) for place, it in sorted(self._sums.items())]
        _add("chat_hourlyuse", ("hour", "facet", "name"), SUMS, sums)
        first_tokens = [(*place, count) for place, count in sorted(self._first_tokens.items())]
        _add("chat_hourlyfirsttoken", ("hour", "provider", "bucket"), ("turns",), first_tokens)


def lock() -> None:
    """Let no other transaction count turns until this one ends: those it finds unwritten stay so.

    Those of two hubs would wait for each other anyway, at the rows of the hour. SQLite's stand in line of themselves.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


def count(records: Iterable[Any]) -> None:
    """Add turns that were just inserted. Within a transaction that holds the lock since it looked for them."""
    tally = Tally()
    for it in records:
        tally.add(*(getattr(it, column) for column in COLUMNS))
    tally.write()


def rebuild(told: Callable[[str], None] = lambda _: None, *, apps: Any = current_apps) -> int:
    """Count all turns anew, a day at a time, while the hub goes on. Returns how many there are."""
    turns = apps.get_model("chat", "TurnRecord").objects.order_by()
    ends = turns.aggregate(first=Min("started_at"), last=Max("started_at"))
    if ends["first"] is None:
        return 0
    total, day, last = 0, _midnight(ends["first"]), ends["last"]
    _forget(apps, before=hour_of(day))
    while day <= last:
        count_of_day = _rebuild_day(apps, day)
        total += count_of_day
        if count_of_day:
            told(f"{day:%Y-%m-%d}: {count_of_day:,} turns")
        day += timedelta(days=1)
    return total


def _rebuild_day(apps: Any, day: datetime) -> int:
    next_day, tally, number = day + timedelta(days=1), Tally(), 0
    with transaction.atomic():
        lock()
        _forget(apps, since=hour_of(day), before=hour_of(next_day))
        turns = apps.get_model("chat", "TurnRecord").objects.order_by()
        of_day = turns.filter(started_at__gte=day, started_at__lt=next_day).values_list(*COLUMNS)
        for number, turn in enumerate(of_day.iterator(READ_AT_ONCE), 1):  # noqa: B007 (it is returned)
            tally.add(*turn)
        tally.write()
    return number


def _forget(apps: Any, *, since: int = 0, before: int) -> None:
    for name in ("HourlyUse", "HourlyFirstToken"):
        model: type[Model] = apps.get_model("chat", name)
        model._default_manager.filter(hour__gte=since, hour__lt=before).delete()


def _add(table: str, place: Sequence[str], sums: Sequence[str], rows: Sequence[tuple[int | str, ...]]) -> None:
    """Insert rows, or add them to those that are there."""
    if not rows:
        return
    columns = ", ".join((*place, *sums))
    values = ", ".join(["%s"] * (len(place) + len(sums)))
    added = ", ".join(f"{it} = {table}.{it} + EXCLUDED.{it}" for it in sums)
    sql = f"INSERT INTO {table} ({columns}) VALUES ({values}) "  # noqa: S608 (only names)
    with connection.cursor() as cursor:
        cursor.executemany(f"{sql}ON CONFLICT ({', '.join(place)}) DO UPDATE SET {added}", rows)


# --- hours and buckets -----------------------------------------------------------------------------------------------


def hour_of(moment: datetime) -> int:
    return (moment - EPOCH) // HOUR


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def bucket_of(ms: int) -> int:
    return int(BUCKETS_PER_DOUBLING * math.log2(ms)) if ms > 1 else 0


def quantile(counts: dict[int, int], share: float) -> float | None:
    """The time below which a share of 0 to 1 of the turns had their first token, in ms; None without any.

    Known to within a bucket, a fifth of the time; within one the turns are taken to be spread evenly.
    """
    rank = share * sum(counts.values())
    if not rank:
        return None
    for bucket, turns in sorted(counts.items()):
        if turns >= rank:
            low, high = (2 ** (it / BUCKETS_PER_DOUBLING) for it in (bucket, bucket + 1))
            return low + (high - low) * rank / turns
        rank -= turns
    return None
