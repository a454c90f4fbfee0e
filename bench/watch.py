"""What it costs the hub to watch its workers: fifty idle ones in several pools, each with a process below it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from bench.command import Command, Part, Setup, Sizes, WrongRun
from bench.report import Gate, Section, ms, number, progress
from bench.stats import median, percentile
from providers.adapters.base import Launch, Program, WorkerFolder
from providers.adapters.echo import EchoAdapter
from providers.host import Host
from providers.memory import ProcessTable
from providers.pool import WorkerPool
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.roster import State
from providers.worker import Deadlines, Worker

POOLS = 5
MOST_PERCENT = 1.0
STARTS = 4
START_TIMEOUT_S = 120.0
# The shell becomes the echo process, which then has the sleeping one below it.
WITH_CHILD = ("/bin/sh", "-c", 'sleep 3600 & exec "$@"', "sh")


class TreeAdapter(EchoAdapter):
    """Echo's process with another one below it."""

    def launch(self, folder: WorkerFolder) -> Launch:
        launch = super().launch(folder)
        return replace(launch, argv=(*WITH_CHILD, *launch.argv))


async def measure_watch(setup: Setup) -> list[Section]:
    """Raises WrongRun if the watch does not see what there is."""
    count, limits = setup.sizes.count, PoolLimits(floor=setup.sizes.count // POOLS, ceiling=setup.sizes.count)
    progress(f"watch: starting {count} workers")
    async with _pools(setup.folder, limits) as pools:
        async with asyncio.timeout(START_TIMEOUT_S):
            while sum(pool.count(State.IDLE) for pool in pools) < count:  # noqa: ASYNC110 (pools offer no event)
                await asyncio.sleep(0.1)
        await asyncio.sleep(limits.watch_s)
        progress(f"watch: {setup.sizes.rounds} rounds of {limits.watch_s:g} s")
        percent = await _watched(setup.sizes.rounds * limits.watch_s)
        workers = [worker for pool in pools for worker in pool.roster]
        if (seen := sum(pool.roster.usage(worker).processes for pool in pools for worker in pool.roster)) != 2 * count:
            raise WrongRun(f"watch: {seen} processes seen and not {2 * count}")
        looks = [_look(ProcessTable(fresh_s=math.inf), workers) for _ in range(setup.sizes.runs)]
        table = ProcessTable(fresh_s=math.inf)
        next_looks = [_look(table, workers) for _ in range(setup.sizes.runs)]
    return [_section(count, percent, looks, next_looks)]


@asynccontextmanager
async def _pools(folder: Path, limits: PoolLimits) -> AsyncIterator[list[WorkerPool]]:
    host, starts = Host(), asyncio.Semaphore(STARTS)

    async def start() -> Worker:
        return await Worker.start(TreeAdapter(Program(Path(), {})), folder / "workers", ProcessLimits(), Deadlines())

    pools = [WorkerPool(f"pool {number}", start, limits, starts, host) for number in range(POOLS)]
    async with AsyncExitStack() as stack:
        for pool in pools:
            stack.push_async_callback(pool.close, grace_s=0)
            pool.open()
        yield pools


async def _watched(for_s: float) -> float:
    """Percent of one processor that this process used while it did nothing but watch."""
    began_s, used_s = time.monotonic(), time.process_time()
    await asyncio.sleep(for_s)
    return (time.process_time() - used_s) / (time.monotonic() - began_s) * 100


def _look(table: ProcessTable, workers: list[Worker]) -> float:
    """Seconds of one round over all workers."""
    began_s = time.perf_counter()
    table.refresh()
    for worker in workers:
        worker.usage(table)
    return time.perf_counter() - began_s


def _section(count: int, percent: float, looks: list[float], next_looks: list[float]) -> Section:
    processes = len(psutil.pids())
    return Section(
        title=f"watch: {count} workers of two processes each in {POOLS} pools, {processes} processes on the machine",
        head=["", "p50 ms", "p99 ms", "% of a processor"],
        rows=[
            ["the first look at all", ms(median(looks)), ms(percentile(looks, 99)), ""],
            ["a later one", ms(median(next_looks)), ms(percentile(next_looks, 99)), ""],
            ["watching, one look every 2 s", "", "", number(percent)],
        ],
        note="A later look passes over the other programs' processes, but every 15th takes in all again.",
        gates=[Gate.at_most(f"watch, {count} workers: % of a processor", percent, MOST_PERCENT, " %")],
        data={"looks_s": looks, "next_looks_s": next_looks, "percent": percent},
    )


WATCH = Command(
    name="watch",
    help="what it costs to watch fifty workers",
    parts=(Part("watch", measure_watch),),
    full=Sizes(runs=100, rounds=30, count=50),
    quick=Sizes(runs=20, rounds=5, count=50),
)
