"""The page of /metrics: all that the rooms have counted, and how the hub is at this moment.

What is read from the engine and the doors is read on their event loop; the text is made in a thread, so that no stream
waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from django.conf import settings
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from chat.errors import StoreUnavailable
from chat.runtime import Chat, chat
from hubsite import readiness
from mcpbridge import runtime as mcp_runtime
from providers import runtime as engine_runtime
from providers import state_metrics
from providers.errors import ShuttingDown

# A Redis that hangs is to be seen in the figures, not to keep them back.
COUNT_WAIT_S = 0.5


class _Page(Collector):
    """What one look has found, with what is counted all the time."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        return chain(self._found, REGISTRY.collect())


async def page(accept: str) -> tuple[bytes, str]:
    """The figures in the format that is asked for, and its content type."""
    encode, content_type = choose_encoder(accept)
    found = [*_of_hub(), *_of_engine(), *await _of_chat(), *_of_mcp()]
    return await asyncio.to_thread(encode, _Page(found)), content_type


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)


def _of_hub() -> Iterator[Metric]:
    info = GaugeMetricFamily("hub_info", "The hub's version.", labels=["version"])
    info.add_metric([settings.VERSION], 1)
    yield info
    yield _gauge("hub_ready", "Whether it takes new requests.", not readiness.obstacles())


def _of_engine() -> list[Metric]:
    with suppress(ShuttingDown):
        return list(state_metrics.collect(engine_runtime.engine()))
    return []


async def _of_chat() -> list[Metric]:
    with suppress(ShuttingDown):
        here = chat()
        return [*_of_stores(here), *_of_turns(here), *await _of_sessions(here)]
    return []


def _of_stores(here: Chat) -> Iterator[Metric]:
    yield _gauge("hub_redis_up", "Whether Redis answers.", not here.hot.is_away)
    yield _gauge("hub_database_up", "Whether the database takes turns.", not here.archive.is_behind)
    yield _gauge("hub_archive_waiting_turns", "Turns that wait to be written to the database.", here.archive.waiting)


def _of_turns(here: Chat) -> Iterator[Metric]:
    yield _gauge("hub_turns_running", "Turns under way in this hub.", len(here.leases))


async def _of_sessions(here: Chat) -> list[Metric]:
    with suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(COUNT_WAIT_S):
            count = await here.sessions.count_live()
        return [_gauge("hub_sessions", "Sessions alive in Redis, of all hubs that share it.", count)]
    return []


def _of_mcp() -> list[Metric]:
    with suppress(ShuttingDown):
        door = mcp_runtime.door()
        return [
            _gauge("hub_mcp_sessions", "Sessions of Streamable HTTP.", door.session_count),
            _gauge("hub_mcp_streams", "Streams of MCP clients that listen, SSE included.", door.stream_count),
            _gauge("hub_mcp_calls", "MCP requests under way.", door.call_count),
        ]
    return []
