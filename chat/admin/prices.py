from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import DecimalField, Field
from django.http import HttpRequest

from chat.admin.base import BaseAdmin
from chat.models import Price
from providers.rows import provider_names

HELP = {
    "model": "As the provider names it. May end with *; of several prices that match, the longest name decides.",
    "input_usd": "US dollars per million tokens of the prompt that were not in the provider's cache.",
    "output_usd": "US dollars per million tokens of the answer.",
    "cached_input_usd": "US dollars per million tokens of the prompt that were in the provider's cache.",
}


@admin.register(Price)
class PriceAdmin(BaseAdmin[Price]):
    list_display = ("model", "provider", "input_usd", "output_usd", "cached_input_usd")
    list_filter = ("provider",)
    search_fields = ("^model",)
    fields = ("provider", "model", "input_usd", "output_usd", "cached_input_usd")

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        if db_field.name == "provider":
            return forms.ChoiceField(choices=[(name, name) for name in provider_names()])
        least = {"min_value": Decimal(0)} if isinstance(db_field, DecimalField) else {}
        made = super().formfield_for_dbfield(db_field, request, **kwargs, **least)
        if made is not None:
            made.help_text = HELP.get(db_field.name, made.help_text)
        return made
