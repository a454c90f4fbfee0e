"""The owner's price list, for models whose CLI does not tell what a turn cost."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

from asgiref.sync import sync_to_async

from chat.models import Price
from providers.events import Usage

CACHE_S = 10.0
PER_TOKENS = 1_000_000


class PriceList:
    """Reads the table in admin; a change counts within CACHE_S seconds."""

    def __init__(self) -> None:
        self._prices: list[Price] = []
        self._until = 0.0

    async def find(self, provider: str, model: str) -> Price | None:
        """Of several prices that match, the one with the longest name decides."""
        if time.monotonic() >= self._until:
            self._prices = await sync_to_async(lambda: list(Price.objects.all()))()
            self._until = time.monotonic() + CACHE_S
        found = [it for it in self._prices if it.provider == provider and fnmatchcase(model, it.model)]
        return max(found, key=lambda it: len(it.model), default=None)


def cost_by(price: Price, usage: Usage) -> float:
    fresh = usage.input_tokens - usage.cached_tokens
    dollars = fresh * price.input_usd + usage.cached_tokens * price.cached_input_usd
    return float(dollars + usage.output_tokens * price.output_usd) / PER_TOKENS
