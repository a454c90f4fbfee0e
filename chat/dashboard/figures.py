"""What the turns of hours and days came to, out of the figures by the hour: for the dashboard's plots."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import F, Model, QuerySet, Sum
from django.utils import timezone

from chat.models import ApiKey, HourlyFirstToken, HourlyUse
from chat.rollups import NANO, NO_ERROR, SUMS, hour_of, quantile

HOUR_S = 3_600
HOURS_A_DAY = 24
BUSIEST = 10
# Codes of errors that are shown apart; there are more than a plot has colours for.
MOST_CODES = 6
OTHER_CODES = "others"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of some hours each, the last one with the present hour in it. Steps begin at multiples of their width in
    UTC, so that those of a day are calendar days."""

    hours: int
    steps: int

    def first_hour(self, now: datetime) -> int:
        present = hour_of(now) // self.hours * self.hours
        return present - (self.steps - 1) * self.hours


SPANS = {"day": Span(1, 24), "week": Span(6, 28), "month": Span(24, 30)}


def look(name: str, *, now: datetime | None = None) -> dict[str, Any]:
    """The figures of a span, in steps; each list has an entry for each step. Times to the first token are in ms."""
    span, now = SPANS[name], now or timezone.now()
    first = span.first_hour(now)
    use, tokens = _use(span, first, "provider"), _first_tokens(span, first)
    providers = {name: _provider(span, use[name], tokens[name]) for name in sorted(use)}
    return {
        "span": name,
        "times": [(first + step * span.hours) * HOUR_S for step in range(span.steps)],
        "providers": providers,
        "errors": _errors(span, first),
        "totals": _totals(use, tokens),
    }


def busiest_keys(*, now: datetime | None = None) -> list[Row]:
    """The keys with most turns since midnight (UTC), as budgets count."""
    today = hour_of(now or timezone.now()) // HOURS_A_DAY * HOURS_A_DAY
    found = _sums(HourlyUse.objects.filter(facet="key", hour__gte=today), "name")
    rows = sorted((_row(key, sums) for key, *sums in found), key=lambda it: (-it["turns"], it["id"]))[:BUSIEST]
    keys = ApiKey.objects.in_bulk([int(it["id"]) for it in rows])
    for row in rows:
        key = keys.get(int(row["id"]))
        row |= {"name": key.name if key else "no key, or one that is gone", "owner": key.owner if key else ""}
    return rows


def _row(key: str, sums: Sequence[int]) -> Row:
    used = dict(zip(SUMS, sums, strict=True))
    return {
        "id": key,
        "turns": used["turns"],
        "errors": used["errors"],
        "tokens": used["input_tokens"] + used["output_tokens"],
        "cost_usd": used["cost_nano_usd"] / NANO if used["priced"] else None,
    }


# --- from the database -----------------------------------------------------------------------------------------------

Use = dict[int, dict[str, int]]
Buckets = dict[int, Counter[int]]


def _use(span: Span, first: int, facet: str) -> defaultdict[str, Use]:
    """By name and step."""
    rows = _stepped(HourlyUse.objects.filter(facet=facet), span, first)
    found: defaultdict[str, Use] = defaultdict(dict)
    for name, step, *sums in _sums(rows, "name", "step"):
        found[name][step] = dict(zip(SUMS, sums, strict=True))
    return found


def _first_tokens(span: Span, first: int) -> defaultdict[str, Buckets]:
    """By provider and step."""
    rows = _stepped(HourlyFirstToken.objects.all(), span, first)
    found: defaultdict[str, Buckets] = defaultdict(lambda: defaultdict(Counter))
    counted = rows.order_by().values_list("provider", "step", "bucket").annotate(Sum("turns"))
    for provider, step, bucket, turns in counted:
        found[provider][step][bucket] = turns
    return found


def _stepped(rows: QuerySet[Any], span: Span, first: int) -> QuerySet[Any]:
    end = first + span.steps * span.hours
    stepped: QuerySet[Any] = rows.filter(hour__gte=first, hour__lt=end).annotate(step=(F("hour") - first) / span.hours)
    return stepped


def _sums(rows: QuerySet[Any, Model], *by: str) -> Iterator[tuple[Any, ...]]:
    return iter(rows.order_by().values_list(*by).annotate(*map(Sum, SUMS)))


# --- in steps --------------------------------------------------------------------------------------------------------


def _provider(span: Span, use: Use, tokens: Buckets) -> dict[str, list[Any]]:
    steps = range(span.steps)
    sums = {column: [use[it][column] if it in use else 0 for it in steps] for column in SUMS}
    sums["cost_usd"] = [it / NANO for it in sums.pop("cost_nano_usd")]  # type: ignore[misc]
    times = {f"p{share:.0f}": [_ms(tokens.get(it, {}), share / 100) for it in steps] for share in (50.0, 95.0)}
    return {**sums, **times}


def _ms(counts: dict[int, int], share: float) -> int | None:
    found = quantile(counts, share)
    return None if found is None else round(found)


def _errors(span: Span, first: int) -> dict[str, list[int]]:
    """By code, the most frequent first, the rarest together."""
    use = {code: it for code, it in _use(span, first, "outcome").items() if code not in NO_ERROR}
    order = sorted(use, key=lambda code: (-sum(it["turns"] for it in use[code].values()), code))
    shown: defaultdict[str, list[int]] = defaultdict(lambda: [0] * span.steps)
    for place, code in enumerate(order):
        for step, sums in use[code].items():
            shown[code if place < MOST_CODES else OTHER_CODES][step] += sums["turns"]
    return dict(shown)


def _totals(use: dict[str, Use], tokens: dict[str, Buckets]) -> Row:
    every = [sums for steps in use.values() for sums in steps.values()]
    totals: Row = {column: sum(sums[column] for sums in every) for column in SUMS}
    totals["cost_usd"] = totals.pop("cost_nano_usd") / NANO
    counts = sum((it for steps in tokens.values() for it in steps.values()), Counter[int]())
    return {**totals, "p50": _ms(counts, 0.5), "p95": _ms(counts, 0.95)}
