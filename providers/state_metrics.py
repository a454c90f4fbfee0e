"""How the engine is at this moment, as gauges: read from its pools and its board when somebody asks, kept nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric

from providers.roster import State
from providers.status import STATES

if TYPE_CHECKING:
    from providers.engine import Engine
    from providers.pool import WorkerPool


def collect(engine: Engine) -> Iterator[Metric]:
    """Belongs to the engine's event loop: what it reads changes there."""
    yield from _of_pools(engine.pools)
    yield from _of_providers(engine)


def _of_pools(pools: list[WorkerPool]) -> Iterator[Metric]:
    """Summed by name: a provider that was exchanged still ends its turns beside the new one."""
    workers = GaugeMetricFamily("hub_workers", "Worker processes by what they do.", labels=["provider", "state"])
    ceilings = GaugeMetricFamily("hub_workers_ceiling", "Workers there may be at most.", labels=["provider"])
    rss = GaugeMetricFamily("hub_workers_rss_bytes", "Resident memory, as last measured.", labels=["provider"])
    processes = GaugeMetricFamily(
        "hub_workers_processes", "Processes that the workers consist of, as last counted.", labels=["provider"]
    )
    waiting = GaugeMetricFamily("hub_queue_turns", "Turns that wait for a worker.", labels=["provider"])
    named: dict[str, list[WorkerPool]] = {}
    for pool in pools:
        named.setdefault(pool.name, []).append(pool)
    for name, same in named.items():
        for state, count in _states(same).items():
            workers.add_metric([name, state], count)
        ceilings.add_metric([name], same[0].limits.ceiling)
        rss.add_metric([name], sum(pool.roster.total_rss_bytes for pool in same))
        processes.add_metric([name], sum(pool.roster.total_processes for pool in same))
        waiting.add_metric([name], sum(pool.waiting for pool in same))
    yield from (workers, ceilings, rss, processes, waiting)


def _states(pools: list[WorkerPool]) -> Counter[str]:
    counts = Counter({**dict.fromkeys(map(str, State), 0), "starting": 0})
    for pool in pools:
        counts["starting"] += pool.roster.starting
        for worker in pool.roster:
            counts[str(pool.roster.state(worker))] += 1
    return counts


def _of_providers(engine: Engine) -> Iterator[Metric]:
    states = GaugeMetricFamily("hub_provider_state", "1 for the state it is in.", labels=["provider", "state"])
    up = GaugeMetricFamily("hub_provider_up", "Whether it takes turns.", labels=["provider"])
    cooldowns = GaugeMetricFamily(
        "hub_cooldown_seconds", "Until all its models may be asked again; 0 if they may.", labels=["provider"]
    )
    windows = GaugeMetricFamily(
        "hub_usage_window_ratio", "The used share of a vendor's window, as last told.", labels=["provider", "window"]
    )
    now = engine.board.clock()
    for provider in list(engine.providers.values()):
        status = provider.status
        for state in STATES:
            states.add_metric([provider.name, state], state == status.state)
        up.add_metric([provider.name], status.is_serving)
        cooldowns.add_metric([provider.name], engine.board.cooldown_s(provider.name))
        for window in provider.windows:
            if window.used is not None and not window.is_over(now):
                windows.add_metric([provider.name, window.name], window.used)
    yield from (states, up, cooldowns, windows)
