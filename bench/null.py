"""The hub alone: the echo provider answers at once, so what is left is the hub's own time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.bare import BareChild
from bench.clis import hub_env
from bench.processes import own_cpu_s, tree_cpu_s
from bench.report import Gate, Section, ms, number, progress
from bench.stats import Taken, median, percentile
from bench.through_hub import Json, ask, client_of, fresh_hub, request_body
from tests.hub import HubProcess

REQUEST_TIMEOUT_S = 60.0
CONCURRENCIES = (1, 10, 50, 100)
MOST_ADDED_MS = 5.0
# Longer than the hub remembers a key, so that a burst meets a hub that was idle.
SILENCE_S = 1.5
# Hub and bare child are asked in small alternating blocks, so that noise hits both.
BLOCKS = 10
# (what, streamed, pieces of the answer)
SHAPES = (("whole", False, 1), ("streamed", True, 1), ("streamed, 20 pieces", True, 20))
MARK = "hi there"


@dataclass(frozen=True, slots=True)
class Load:
    """One shape at one concurrency. `hub_ms` and `child_ms` are processor time per request."""

    shape: str
    concurrency: int
    taken: list[Taken]
    wall_s: float
    hub_ms: float
    child_ms: float

    @property
    def errors(self) -> list[str]:
        return [taken.error for taken in self.taken if taken.error]

    def latency_ms(self, percent: float) -> float:
        return percentile((it.total_s for it in self.taken if not it.error), percent) * 1_000

    def row(self) -> list[str]:
        figures = (self.latency_ms(50), self.latency_ms(99), len(self.taken) / self.wall_s, self.hub_ms, self.child_ms)
        return [self.shape, str(self.concurrency), *map(number, figures), str(len(self.errors))]


async def measure_null(folder: Path, *, requests: int, rounds: int, server: str) -> list[Section]:
    """`requests` per cell of the table, `rounds` bursts of a hundred."""
    with fresh_hub(folder, hub_env("echo", None, ""), server=server) as hub:
        async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
            # The pool grows to its ceiling and every code path has run before anything counts.
            for shape in SHAPES:
                await _load(hub, client, shape, max(CONCURRENCIES), max(CONCURRENCIES))
            added = await _added(hub, client, folder, max(requests // BLOCKS // 2, 5))
            loads = []
            for concurrency in CONCURRENCIES:
                progress(f"echo: {concurrency} concurrent")
                for shape in SHAPES:
                    loads.append(await _load(hub, client, shape, concurrency, max(requests, concurrency)))
        bursts = [await _burst(hub, number) for number in range(rounds)]
    return [added, _loads_section(loads), _burst_section(bursts)]


def _body(streamed: bool, pieces: int) -> Json:
    return request_body(f"{MARK} [[chunks={pieces} delay=0]]", provider="echo", model="echo", stream=streamed)


# --- one at a time ---------------------------------------------------------------------------------------------------


async def _added(hub: HubProcess, client: aiohttp.ClientSession, folder: Path, per_block: int) -> Section:
    progress("echo: one at a time, beside the bare child")
    bare: list[float] = []
    through: dict[str, list[float]] = {shape[0]: [] for shape in SHAPES[:2]}
    with BareChild(folder) as child:
        for _ in range(BLOCKS):
            bare += [child.ask(MARK) for _ in range(per_block)]
            for name, streamed, pieces in SHAPES[:2]:
                for _ in range(per_block):
                    taken = await ask(client, _body(streamed, pieces), expect=MARK)
                    through[name].append(taken.total_s if not taken.error else float("nan"))
    rows = [["bare child, by its pipe", ms(median(bare)), ms(percentile(bare, 99)), ""]]
    rows += [
        [f"hub, {name}", ms(median(times)), ms(percentile(times, 99)), ms(median(times) - median(bare))]
        for name, times in through.items()
    ]
    worst_ms = max(median(times) - median(bare) for times in through.values()) * 1_000
    return Section(
        title=f"echo, one at a time: {len(bare)} requests each, one piece, alternating",
        head=["", "p50 ms", "p99 ms", "added p50 ms"],
        rows=rows,
        gates=[Gate.at_most("the hub's own added p50 at concurrency 1", worst_ms, MOST_ADDED_MS, " ms")],
        data={"bare_s": bare, **{f"hub {name} s": times for name, times in through.items()}},
    )


# --- many at a time --------------------------------------------------------------------------------------------------


async def _load(
    hub: HubProcess, client: aiohttp.ClientSession, shape: tuple[str, bool, int], concurrency: int, requests: int
) -> Load:
    name, streamed, pieces = shape
    body = _body(streamed, pieces)
    taken: list[Taken] = []

    tickets = iter(range(requests))

    async def one_client() -> None:
        for _ in tickets:
            taken.append(await ask(client, body, expect=MARK))

    hub_before, tree_before, began = own_cpu_s(hub.pid), tree_cpu_s(hub.pid), time.monotonic()
    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    wall_s = time.monotonic() - began
    hub_s = own_cpu_s(hub.pid) - hub_before
    child_s = tree_cpu_s(hub.pid) - tree_before - hub_s
    return Load(name, concurrency, taken, wall_s, hub_s / len(taken) * 1_000, child_s / len(taken) * 1_000)


def _loads_section(loads: list[Load]) -> Section:
    return Section(
        title=f"echo under load: {len(loads[0].taken)} requests a line",
        head=["", "at a time", "p50 ms", "p99 ms", "requests/s", "hub CPU ms", "children CPU ms", "errors"],
        rows=[load.row() for load in loads],
        note="The load comes from one more process on the same machine; latencies hold its own waiting too.",
        gates=[Gate.at_most("echo under load, errors", sum(len(load.errors) for load in loads), 0)],
        data={
            f"{load.shape}, {load.concurrency}": {
                "latency_s": [taken.total_s for taken in load.taken],
                "wall_s": load.wall_s,
                "hub_cpu_ms": load.hub_ms,
                "children_cpu_ms": load.child_ms,
                "errors": load.errors,
            }
            for load in loads
        },
    )


# --- all at once -----------------------------------------------------------------------------------------------------


async def _burst(hub: HubProcess, number: int) -> list[Taken]:
    """A hundred clients that connect and ask at the same moment."""
    progress(f"echo: 100 at once, round {number + 1}")
    body = _body(streamed=True, pieces=1)
    async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
        await asyncio.sleep(SILENCE_S)
        return list(await asyncio.gather(*(ask(client, body, expect=MARK) for _ in range(100))))


def _burst_section(bursts: list[list[Taken]]) -> Section:
    errors = [taken.error for burst in bursts for taken in burst if taken.error]
    rows = [
        [
            f"round {number}",
            ms(percentile((it.first_s for it in burst), 50)),
            ms(percentile((it.total_s for it in burst), 50)),
            ms(max(it.total_s for it in burst)),
            str(sum(1 for it in burst if it.error)),
        ]
        for number, burst in enumerate(bursts, 1)
    ]
    return Section(
        title="echo: 100 simultaneous requests, streamed, a new connection each",
        head=["", "first p50 ms", "end p50 ms", "last ms", "errors"],
        rows=rows,
        gates=[Gate.at_most("100 simultaneous echo requests, errors", len(errors), 0)],
        data={"total_s": [[it.total_s for it in burst] for burst in bursts], "errors": errors},
    )
