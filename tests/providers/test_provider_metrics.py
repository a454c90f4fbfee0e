"""What the engine counts and tells of its workers, and its state as gauges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from time import process_time
from typing import cast

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from providers.adapters.echo import EchoAdapter
from providers.cooldowns import Board, Window
from providers.engine import Engine
from providers.errors import Busy, NeedsLogin, WorkerFailed
from providers.metrics import ENDS
from providers.pool import WorkerPool
from providers.pool_limits import PoolLimits
from providers.provider_config import ProviderConfig
from providers.roster import State
from providers.state_metrics import collect
from providers.status import STATES
from providers.worker import Worker
from tests.providers.fakes import Clock, FakeWorker, Holder, Starter, opened, take_turn, turn_over, until

MB = 1024 * 1024
request_of = ContextVar("request_of", default="")


def counted(series: str, **labels: str) -> float:
    """What a counter has come to; nothing if nobody has counted."""
    return REGISTRY.get_sample_value(series, labels) or 0.0


def ends(provider: str) -> dict[str, float]:
    """The reasons for which a provider's workers have ended."""
    found = {reason: counted("hub_worker_ends_total", provider=provider, reason=reason) for reason in ENDS}
    return {reason: count for reason, count in found.items() if count}


async def test_a_worker_that_has_served_its_turns_ends_for_that(starter: Starter) -> None:
    async with opened(starter, name="m-turns", turns=1) as pool:
        await take_turn(pool)
        await until(lambda: starter.workers[0].is_stopped)
        assert ends("m-turns") == {"turns": 1}


async def test_a_worker_that_dies_within_a_turn_has_crashed(starter: Starter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with opened(starter, name="m-crash") as pool:
        holder = Holder(pool)
        (await holder.seated()).lives = False
        await holder.leave()
        await until(lambda: starter.workers[0].is_stopped)
    assert ends("m-crash") == {"crashed": 1}
    told = {record.__dict__["event"]: record.__dict__ for record in caplog.records if "event" in record.__dict__}
    assert told["worker_started"]["provider"] == "m-crash"
    assert told["worker_crashed"]["reason"] == "crashed"
    assert told["worker_crashed"]["pid"] == starter.workers[0].pid
    assert told["worker_crashed"]["turns"] == 1
    assert told["worker_crashed"]["levelname"] == "WARNING"


async def test_a_worker_killed_for_its_memory_has_not_crashed(starter: Starter) -> None:
    async with opened(starter, name="m-memory", hard_rss_bytes=MB, watch_s=0.01) as pool:
        holder = Holder(pool)
        worker = await holder.seated()
        worker.rss = 2 * MB
        await until(lambda: worker.is_killed)
        await holder.leave()
        await until(lambda: worker.is_stopped)
    assert ends("m-memory") == {"out_of_bounds": 1}


async def test_a_worker_nobody_needs_ends_as_idle_and_the_last_ones_with_the_hub(
    starter: Starter, clock: Clock
) -> None:
    async with opened(starter, name="m-idle", idle_s=60.0, watch_s=0.01) as pool:
        worker = await take_turn(pool)
        clock.advance(61)
        await until(lambda: worker.is_stopped)
        await take_turn(pool)
    assert ends("m-idle") == {"idle": 1, "shutdown": 1}


async def test_a_worker_that_can_not_be_emptied_is_unclean(starter: Starter) -> None:
    async with opened(starter, name="m-unclean") as pool:
        holder = Holder(pool)
        (await holder.seated()).resets_clean = False
        await holder.leave()
        await until(lambda: starter.workers[0].is_stopped)
    assert ends("m-unclean") == {"unclean": 1}


async def test_a_worker_that_dies_soon_and_unused_has_died_early(starter: Starter) -> None:
    async with opened(starter, name="m-early", floor=1, ceiling=1, watch_s=0.01):
        await until(lambda: starter.workers)
        starter.workers[0].lives = False
        await until(lambda: starter.workers[0].is_stopped)
    assert ends("m-early")["died_early"] == 1
    assert "crashed" not in ends("m-early")


async def test_starts_are_counted_by_what_came_of_them(starter: Starter) -> None:
    starter.first_errors = [WorkerFailed("no"), NeedsLogin("log in")]
    async with opened(starter, name="m-starts", floor=1):
        await until(lambda: counted("hub_worker_starts_total", provider="m-starts", outcome="ok"))
    assert counted("hub_worker_starts_total", provider="m-starts", outcome="worker_failed") == 1
    assert counted("hub_worker_starts_total", provider="m-starts", outcome="provider_needs_login") == 1
    assert counted("hub_worker_start_seconds_count", provider="m-starts") == 1


async def test_the_wait_for_a_worker_is_measured_and_a_refusal_is_not_a_wait(starter: Starter, clock: Clock) -> None:
    async with opened(starter, name="m-wait", ceiling=1, queue=1) as pool:
        first = Holder(pool)
        await first.seated()
        second = Holder(pool, "bob")
        await turn_over()
        assert isinstance(await Holder(pool, "carol").refusal(), Busy)
        clock.advance(7)
        await first.leave()
        await second.seated()
        await second.leave()
    assert counted("hub_queue_wait_seconds_count", provider="m-wait") == 2
    assert 7 <= counted("hub_queue_wait_seconds_sum", provider="m-wait") < 12
    assert counted("hub_queue_refusals_total", provider="m-wait", code="provider_busy") == 1


async def test_what_a_pool_does_in_the_background_belongs_to_no_request(starter: Starter) -> None:
    """A worker lives on after the request that happened to start it, and so do the lines told of it."""
    seen: list[str] = []

    async def start() -> Worker:
        seen.append(request_of.get())
        return await starter()

    pool = WorkerPool("m-apart", start, PoolLimits(floor=0), asyncio.Semaphore(1))
    request_of.set("req_1")
    pool.open()
    holder = Holder(pool)
    await holder.seated()
    await holder.leave()
    await pool.close(grace_s=0)
    assert seen == [""]


def test_only_a_refusal_that_is_news_counts_as_a_cooldown() -> None:
    now = [1_000.0]
    board = Board(clock=lambda: now[0])
    for _ in range(3):  # turns that ran side by side are refused together
        board.cool("m-cool", "vendor_rate_limited", until=1_060.0)
    assert counted("hub_cooldowns_total", provider="m-cool") == 1
    assert board.cooldown_s("m-cool") == 60
    now[0] = 1_061.0
    assert board.cooldown_s("m-cool") == 0
    board.cool("m-cool", "vendor_rate_limited", until=1_090.0)
    assert counted("hub_cooldowns_total", provider="m-cool") == 2


# --- the state of an engine ------------------------------------------------------------------------------------------


def samples(metrics: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Values by the name and the labels' values, in their order."""
    return {(it.name, *it.labels.values()): it.value for metric in metrics for it in metric.samples}


def staffed(folder: Path, names: list[str], workers: int) -> Engine:
    """An engine whose pools have so many workers each, in all states, of 10 MB; nothing of it runs."""
    config = ProviderConfig(adapter=EchoAdapter, pool=PoolLimits(ceiling=8))
    engine = Engine([replace(config, name=name) for name in names], data_folder=folder, environ={}, max_starts=1)
    for provider in engine.providers.values():
        provider.pool = WorkerPool(provider.name, Starter(), PoolLimits(ceiling=8), asyncio.Semaphore(1))
        states = cycle(State)
        for pid in range(workers):
            worker = FakeWorker(pid, 0.0)
            worker.rss, worker.processes = 10 * MB, 3
            provider.pool.roster.set(worker, next(states))
            provider.pool.roster.measure(worker, engine._shared.host.processes)
    return engine


async def test_gauges_tell_what_the_pools_are_doing(tmp_path: Path) -> None:
    engine = staffed(tmp_path, ["a", "b"], workers=5)
    engine.board.cool("a", "vendor_rate_limited", until=engine.board.clock() + 100)
    window = Window("a", "five_hour", "allowed", 0.25, engine.board.clock() + 100, engine.board.clock())
    engine.board.take_over(window)
    told = samples(collect(engine))
    by_state = {state: told["hub_workers", "a", state] for state in (*State, "starting")}
    assert by_state == {"idle": 2, "busy": 1, "tidying": 1, "retiring": 1, "starting": 0}
    assert told["hub_workers_rss_bytes", "b"] == 50 * MB
    assert told["hub_workers_processes", "b"] == 15
    assert told["hub_workers_ceiling", "a"] == 8
    assert [told["hub_provider_state", "a", state] for state in STATES].count(1) == 1
    assert told["hub_provider_state", "a", "cooling_down"] == 1
    assert (told["hub_provider_up", "a"], told["hub_provider_up", "b"]) == (0, 1)
    assert 99 < told["hub_cooldown_seconds", "a"] <= 100
    assert told["hub_usage_window_ratio", "a", "five_hour"] == 0.25


async def test_workers_of_a_provider_that_was_exchanged_count_beside_the_new_ones(tmp_path: Path) -> None:
    engine, old = staffed(tmp_path, ["a"], workers=2), staffed(tmp_path, ["a"], workers=3)
    engine._leaving = list(old.providers.values())
    told = samples(collect(engine))
    assert sum(told["hub_workers", "a", state] for state in State) == 5
    assert told["hub_workers_rss_bytes", "a"] == 50 * MB


async def test_a_scrape_of_twenty_providers_and_a_hundred_workers_is_cheap(tmp_path: Path) -> None:
    """Processor time, the best of some: it is the code that is judged, not the machine."""
    engine = staffed(tmp_path, [f"p{number}" for number in range(20)], workers=5)

    class Gauges:
        def collect(self) -> Iterable[Metric]:
            return collect(engine)

    def seconds() -> float:
        began_at = process_time()
        text = generate_latest(cast(Collector, Gauges()))
        assert text.count(b"\nhub_workers{") == 100
        return process_time() - began_at

    assert min(seconds() for _ in range(5)) < 0.05
