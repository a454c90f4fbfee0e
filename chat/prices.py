"""The owner's price list, for models whose CLI does not tell what a turn cost."""

from __future__ import annotations

import time

from chat.database import ask_database
from chat.errors import DatabaseUnavailable
from chat.keys import matches
from chat.models import Price
from providers.events import Usage

CACHE_S = 10.0
PER_TOKENS = 1_000_000


class PriceList:
    """Reads the table in admin; a change counts within CACHE_S seconds."""

    def __init__(self) -> None:
        self._prices: list[Price] | None = None
        self._until = 0.0

    async def find(self, provider: str, model: str, *, wait_s: float) -> Price | None:
        """Of several prices that match, the one with the longest name decides.

        Raises DatabaseUnavailable if the list was never read; later the last one known holds.
        """
        if self._prices is None or time.monotonic() >= self._until:
            await self._read(wait_s)
        found = [it for it in self._prices or () if it.provider == provider and matches(model, it.model)]
        return max(found, key=lambda it: len(it.model), default=None)

    async def _read(self, wait_s: float) -> None:
        try:
            self._prices = await ask_database(lambda: list(Price.objects.all()), "the price list", wait_s=wait_s)
        except DatabaseUnavailable:
            if self._prices is None:
                raise
        self._until = time.monotonic() + CACHE_S


def cost_by(price: Price, usage: Usage) -> float:
    """US dollars."""
    fresh = usage.input_tokens - usage.cached_tokens
    dollars = fresh * price.input_usd + usage.cached_tokens * price.cached_input_usd
    return float(dollars + usage.output_tokens * price.output_usd) / PER_TOKENS
