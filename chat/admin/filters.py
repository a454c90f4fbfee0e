"""Filters whose choices come from small tables, not from a search through the large one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from chat.models import ApiKey
from providers.rows import provider_names

# More are not listed; the search finds the others.
MOST_CHOICES = 100
ALL_ERRORS = "errors"
OUTCOMES = (("ok", "ok"), ("cancelled", "cancelled"), (ALL_ERRORS, "any error"))


class ColumnFilter(admin.SimpleListFilter):
    """Rows with one value in the column called as the filter's parameter."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset if value is None else queryset.filter((str(self.parameter_name), value))

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Iterable[tuple[str, str]]:
        words = list(self.words())
        value = self.value()
        if value is not None and value not in words:
            words.append(value)
        return [(word, word) for word in words]

    def words(self) -> Iterable[str]:
        raise NotImplementedError


class OwnerFilter(ColumnFilter):
    title = "owner"
    parameter_name = "owner"

    def words(self) -> Iterable[str]:
        # Whoever has sessions or turns has, or had, a key.
        return ApiKey.objects.order_by("owner").values_list("owner", flat=True).distinct()[:MOST_CHOICES]


class ProviderFilter(ColumnFilter):
    title = "provider"
    parameter_name = "provider"

    def words(self) -> Iterable[str]:
        return provider_names()


class KeyFilter(ColumnFilter):
    title = "key"
    parameter_name = "key"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value() or ""
        return queryset.filter(key=int(value)) if value.isdecimal() else queryset

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Iterable[tuple[str, str]]:
        return [(str(key.pk), str(key)) for key in ApiKey.objects.order_by("name")[:MOST_CHOICES]]


class OutcomeFilter(ColumnFilter):
    title = "outcome"
    parameter_name = "outcome"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == ALL_ERRORS:
            return queryset.exclude(outcome__in=("ok", "cancelled"))
        return super().queryset(request, queryset)

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Iterable[tuple[str, str]]:
        value = self.value()
        known = [word for word, _ in OUTCOMES]
        return [*OUTCOMES, *([(value, value)] if value and value not in known else [])]
