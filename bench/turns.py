"""One turn at a time: a raw process against a hub that starts one, has one ready, or uses one again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from bench.clis import MODELS, RawCli, hub_env, raw_clis
from bench.processes import tree_cpu_s, wait_until_quiet
from bench.raw import children_cpu_s, run_raw
from bench.report import Gate, Section, ms, progress, ratio, seconds
from bench.stats import Taken, median
from bench.through_hub import ask, client_of, fresh_hub, request_body
from tests.hub import HubProcess

TURN_TIMEOUT_S = 120.0
# How often a run that was not what it should have been is repeated before the benchmark gives up.
MOST_REPEATS = 5

PROMPT = "hi"

# A worker that is worn after one turn is replaced, and without a floor nothing starts until the next request.
COLD = {"FLOOR": "0", "TURNS": "1"}
# One worker waits; its first turn is warm, its second reused, then it is worn and leaves the next to the next round.
READY = {"FLOOR": "1", "TURNS": "2"}

# name of the section, best allowed ratio of first-token times
GATES = {"claude": {"warm": 0.45, "reused": 0.2}, "gemini": {"warm": 0.1}}

Run = Callable[[], Awaitable[tuple[Taken, float]]]


class WrongRun(RuntimeError):
    """A run failed, or was again and again not the kind it was meant to be."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to an answer, and what its runs took; `cpu_s` counts all processes it needed."""

    name: str
    run: Run
    start: str = ""
    taken: list[Taken] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        return median(taken.first_s for taken in self.taken)

    @property
    def total_s(self) -> float:
        return median(taken.total_s for taken in self.taken)


async def measure_turns(name: str, path: Path, vendor_url: str, folder: Path, *, runs: int, server: str) -> Section:
    """`runs` rounds over all ways, after one that is not counted. Raises WrongRun."""
    env = hub_env(name, path, vendor_url)
    with (
        fresh_hub(folder, {**env, **_settings(name, COLD)}, server=server) as cold,
        fresh_hub(folder, {**env, **_settings(name, READY)}, server=server) as ready,
    ):
        async with (
            client_of(cold, timeout_s=TURN_TIMEOUT_S) as to_cold,
            client_of(ready, timeout_s=TURN_TIMEOUT_S) as to_ready,
        ):
            prompts = _SystemPrompts()
            ways = [Way(cli.name, _raw_run(cli, folder)) for cli in raw_clis(name, path, vendor_url)]
            ways += [
                Way("hub cold", _hub_run(cold, to_cold, name, prompts.next), "cold"),
                Way("hub warm", _hub_run(ready, to_ready, name, prompts.next), "warm"),
                Way("hub reused", _hub_run(ready, to_ready, name, prompts.again), "reused"),
            ]
            await _rounds(name, ways, runs)
    return _section(name, ways)


def _settings(name: str, pool: dict[str, str]) -> dict[str, str]:
    return {f"HUB_{name.upper()}_FLOOR": pool["FLOOR"], "HUB_WORKER_TURNS": pool["TURNS"]}


class _SystemPrompts:
    """A new system prompt for a new worker, the last one again to get the same."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._last = ""

    def next(self) -> str:
        self._last = f"Answer briefly. Conversation {next(self._numbers)}."
        return self._last

    def again(self) -> str:
        return self._last


def _raw_run(cli: RawCli, folder: Path) -> Run:
    async def run() -> tuple[Taken, float]:
        before = children_cpu_s()
        taken = await run_raw(cli, PROMPT, folder, expect=PROMPT, timeout_s=TURN_TIMEOUT_S)
        return taken, children_cpu_s() - before

    return run


def _hub_run(hub: HubProcess, client: aiohttp.ClientSession, name: str, system: Callable[[], str]) -> Run:
    async def run() -> tuple[Taken, float]:
        await asyncio.to_thread(wait_until_quiet, hub.pid)
        before = tree_cpu_s(hub.pid)
        body = request_body(PROMPT, provider=name, model=MODELS[name], system=system())
        taken = await ask(client, body, expect=PROMPT)
        # What the turn sets off counts too: emptying or ending its worker, starting the next.
        await asyncio.to_thread(wait_until_quiet, hub.pid)
        return taken, tree_cpu_s(hub.pid) - before

    return run


async def _rounds(name: str, ways: list[Way], runs: int) -> None:
    """All ways in turns, so that the machine's moods hit them alike."""
    for number in range(runs + 1):
        progress(f"{name}: round {number} of {runs}" + (" (not counted)" if number == 0 else ""))
        for way in ways:
            taken, cpu_s = await _right_run(name, way, ways)
            if number:
                way.taken.append(taken)
                way.cpu_s.append(cpu_s)


async def _right_run(name: str, way: Way, ways: list[Way]) -> tuple[Taken, float]:
    for _ in range(MOST_REPEATS):
        taken, cpu_s = await way.run()
        if taken.error:
            raise WrongRun(f"{name}, {way.name}: {taken.error}")
        if taken.start == way.start:
            return taken, cpu_s
        progress(f"{name}: dropped a run that was {taken.start or 'raw'} and not {way.start}")
        if way.start == "reused":
            # Only after a warm turn is there a worker to use again.
            await next(other for other in ways if other.start == "warm").run()
    raise WrongRun(f"{name}, {way.name}: {MOST_REPEATS} runs were not {way.start}")


def _section(name: str, ways: list[Way]) -> Section:
    raw = ways[0]
    rows = [
        [
            way.name,
            ms(way.first_s),
            ms(way.total_s),
            seconds(median(way.cpu_s)),
            ratio(way.first_s / raw.first_s),
            ratio(way.total_s / raw.total_s),
        ]
        for way in ways
    ]
    by_start = {way.start: way for way in ways}
    gates = [
        Gate.at_most(f"{name} {start}, first token / raw", by_start[start].first_s / raw.first_s, most, "x")
        for start, most in GATES[name].items()
    ]
    return Section(
        title=f'{name}: "{PROMPT}", medians of {len(raw.taken)} interleaved runs',
        head=["", "first token ms", "to the end ms", "CPU s", "first / raw", "end / raw"],
        rows=rows,
        note="CPU of the hub's runs includes hub, worker and the start of the replacement, if one follows.",
        gates=gates,
        data={way.name: {"taken": [asdict(it) for it in way.taken], "cpu_s": way.cpu_s} for way in ways},
    )
