"""What the list of keys shows besides their rows: one query for all of a page's keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol, cast

from django.db.models import Count, OuterRef, QuerySet, Subquery, Sum
from django.utils import timezone

from chat.admin.paging import PageList
from chat.models import ApiKey, TurnRecord


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """Since midnight (UTC), as budgets count. `cost_usd` is None where no turn's cost is known."""

    turns: int = 0
    tokens: int = 0
    cost_usd: Decimal | None = None


class _Listed(Protocol):
    usage: KeyUsage
    last_used_at: datetime | None


class KeyList(PageList):
    def look_up(self, rows: Sequence[ApiKey]) -> None:
        look_up_usage(rows)


def with_last_use(keys: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
    newest = TurnRecord.objects.filter(key=OuterRef("pk")).order_by("-started_at").values("started_at")
    return keys.annotate(last_used_at=Subquery(newest[:1]))


def look_up_usage(keys: Sequence[ApiKey]) -> None:
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    turns = TurnRecord.objects.filter(key__in=[key.pk for key in keys], started_at__gte=midnight).order_by()
    sums = (Count("pk"), Sum("input_tokens"), Sum("output_tokens"), Sum("cost_usd"))
    found = {
        key: KeyUsage(count, tokens_in + tokens_out, cost)
        for key, count, tokens_in, tokens_out, cost in turns.values_list("key").annotate(*sums)
    }
    for key in keys:
        cast(_Listed, key).usage = found.get(key.pk, KeyUsage())


def usage_of(key: ApiKey) -> KeyUsage:
    return cast(_Listed, key).usage


def last_use_of(key: ApiKey) -> datetime | None:
    return cast(_Listed, key).last_used_at
