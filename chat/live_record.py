"""Writes down a turn's events for those who watch it, in the words of docs/websocket.md."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from chat.ask import Admitted, Answering, Note
from chat.decisions import route_text
from chat.errors import DatabaseUnavailable
from chat.live_feed import Feed
from chat.prices import PriceList, cost_by
from chat.wire.openai_answer import usage_body
from chat.wire.openai_errors import as_http
from providers.errors import ProtocolBroken
from providers.events import (
    Event,
    LimitNotice,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Events = AsyncGenerator[Note | Event, None]

# A finished turn does not wait for long for a database that is away.
PRICE_WAIT_S = 1.0


def error_fields(error: Exception) -> Json:
    """An error as the REST door would tell it; `retry_after` in seconds where it is known."""
    known = as_http(error)
    told, retry_after = known.body["error"], known.headers.get("Retry-After")
    return {
        "code": told["code"],
        "message": told["message"],
        "param": told["param"],
        "status": known.status,
        "retry_after": int(retry_after) if retry_after else None,
    }


class Recorder:
    """Takes one turn's events past its feed."""

    def __init__(self, feed: Feed, prices: PriceList) -> None:
        self._feed = feed
        self._prices = prices
        self._began_at = time.monotonic()
        self._first_ms: int | None = None
        self._answering: Answering | None = None
        self._started = TurnStarted("")
        self.stopped_by = "hub"

    async def record(self, events: Events) -> Events:
        """The events as they are. When the feed has its end, the turn is written down, however it ended."""
        try:
            async with aclosing(events):
                async for event in events:
                    await self._note(event)
                    yield event
            if not self._feed.is_over:
                raise ProtocolBroken("the turn ended before its answer did")
        except (asyncio.CancelledError, GeneratorExit):
            self._feed.add({"type": "stopped", "by": self.stopped_by, "timing": self._timing(None)})
            raise
        except Exception as error:
            self._feed.add({"type": "error", **error_fields(error), "timing": self._timing(None)})
            raise

    async def _note(self, event: Note | Event) -> None:
        match event:
            case Admitted(session_id, _, turn_id):
                self._feed.add({"type": "admitted", "session": session_id or None, "turn_id": turn_id})
            case Answering():
                self._answering = event
            case TurnStarted():
                self._started = event
                self._feed.add(self._start_body(event))
            case TextDelta(text):
                self._begin_output()
                self._feed.add_text("delta", text)
            case ReasoningDelta(text):
                self._begin_output()
                self._feed.add_text("reasoning", text)
            case ToolCall(call_id, name, arguments):
                self._begin_output()
                self._feed.add({"type": "tool_call", "id": call_id, "name": name, "arguments": arguments})
            case Working():
                self._begin_output()
            case TurnFinished(reason, usage):
                await self._finish(reason, usage)
            case Usage() | LimitNotice():
                pass

    def _start_body(self, started: TurnStarted) -> Json:
        answering = self._answering
        attempts = answering.attempts if answering else ()
        return {
            "type": "started",
            "provider": started.provider,
            "model": started.model,
            "start": started.start,
            "route": route_text(answering.decision, answered=answering.provider) if answering else "",
            "attempts": [{"provider": it.provider, "code": it.code or "ok", "ms": it.ms} for it in attempts],
        }

    def _begin_output(self) -> None:
        if self._first_ms is None:
            self._first_ms = self._elapsed_ms()

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began_at) * 1_000)

    async def _finish(self, reason: str, usage: Usage | None) -> None:
        timing = self._timing(usage)
        self._feed.add(
            {
                "type": "finished",
                "reason": reason,
                "session": self._feed.session_id or None,
                "usage": usage_body(usage) if usage else None,
                "cost_usd": await self._cost(usage),
                "timing": timing,
            }
        )

    def _timing(self, usage: Usage | None) -> Json:
        total_ms = self._elapsed_ms()
        spoke_ms = total_ms - self._first_ms if self._first_ms is not None else 0
        per_s = round(usage.output_tokens * 1_000 / spoke_ms, 1) if usage and spoke_ms > 0 else None
        return {"first_token_ms": self._first_ms, "total_ms": total_ms, "tokens_per_s": per_s}

    async def _cost(self, usage: Usage | None) -> float | None:
        """The CLI's own figure, else by the price list; None if neither tells."""
        if usage is None or usage.cost_usd is not None:
            return usage.cost_usd if usage else None
        try:
            price = await self._prices.find(self._started.provider, self._started.model, wait_s=PRICE_WAIT_S)
        except DatabaseUnavailable:
            logger.info("the price of a turn is not known to those who watch it")
            return None
        return cost_by(price, usage) if price else None
