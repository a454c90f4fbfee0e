"""Ways to an answer, taken in turns, one turn at a time: a raw process, or a hub in a certain state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from bench.clis import RawCli
from bench.command import WrongRun
from bench.processes import tree_cpu_s, wait_until_quiet
from bench.raw import children_cpu_s, run_raw
from bench.report import Gate, Section, ms, progress, ratio, seconds
from bench.stats import Taken, median
from bench.through_hub import Json, ask
from tests.hub import HubProcess

TURN_TIMEOUT_S = 120.0
# How often a run that was not what it should have been is repeated before the benchmark gives up.
MOST_REPEATS = 5

PROMPT = "hi"

Run = Callable[[], Awaitable[tuple[Taken, float]]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to an answer, and what its runs took; `cpu_s` counts all processes it needed.

    `start` is what the hub has to say of the worker. `before` is what to run first if it says something else.
    """

    name: str
    run: Run
    start: str = ""
    before: Run | None = None
    taken: list[Taken] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        return median(taken.first_s for taken in self.taken)

    @property
    def total_s(self) -> float:
        return median(taken.total_s for taken in self.taken)


def raw_run(cli: RawCli, folder: Path) -> Run:
    async def run() -> tuple[Taken, float]:
        before = children_cpu_s()
        taken = await run_raw(cli, PROMPT, folder, expect=PROMPT, timeout_s=TURN_TIMEOUT_S)
        return taken, children_cpu_s() - before

    return run


async def hub_turn(
    hub: HubProcess, client: aiohttp.ClientSession, body: Json, *, session: str = ""
) -> tuple[Taken, float]:
    """One turn on a hub at rest, a session's next if one is named."""
    await asyncio.to_thread(wait_until_quiet, hub.pid)
    before = tree_cpu_s(hub.pid)
    taken = await ask(client, body, expect=PROMPT, session=session)
    # What the turn sets off counts too: emptying or ending its worker, starting the next.
    await asyncio.to_thread(wait_until_quiet, hub.pid)
    return taken, tree_cpu_s(hub.pid) - before


async def run_rounds(name: str, ways: list[Way], runs: int) -> None:
    """All ways in turns, so that the machine's moods hit them alike; one round more, which is not counted.

    Raises WrongRun.
    """
    for number in range(runs + 1):
        progress(f"{name}: round {number} of {runs}" + (" (not counted)" if number == 0 else ""))
        for way in ways:
            taken, cpu_s = await _right_run(name, way)
            if number:
                way.taken.append(taken)
                way.cpu_s.append(cpu_s)


async def _right_run(name: str, way: Way) -> tuple[Taken, float]:
    for _ in range(MOST_REPEATS):
        taken, cpu_s = await way.run()
        if taken.error:
            raise WrongRun(f"{name}, {way.name}: {taken.error}")
        if taken.start == way.start:
            return taken, cpu_s
        progress(f"{name}: dropped a run that was {taken.start or 'raw'} and not {way.start}")
        if way.before is not None:
            await way.before()
    raise WrongRun(f"{name}, {way.name}: {MOST_REPEATS} runs were not {way.start}")


def section_of(name: str, ways: list[Way], most: dict[str, float]) -> Section:
    """The ways as a table beside the first one; `most` is the allowed ratio of first-token times by start."""
    raw = ways[0]
    by_start = {way.start: way for way in ways}
    gates = [
        Gate.at_most(f"{name} {start}, first token / raw", by_start[start].first_s / raw.first_s, bound, "x")
        for start, bound in most.items()
    ]
    return Section(
        title=f'{name}: "{PROMPT}", medians of {len(raw.taken)} interleaved runs',
        head=["", "first token ms", "to the end ms", "CPU s", "first / raw", "end / raw"],
        rows=[_row(way, raw) for way in ways],
        note="CPU of the hub's runs includes hub, worker and the start of the replacement, if one follows.",
        gates=gates,
        data={way.name: {"taken": [asdict(it) for it in way.taken], "cpu_s": way.cpu_s} for way in ways},
    )


def _row(way: Way, raw: Way) -> list[str]:
    return [
        way.name,
        ms(way.first_s),
        ms(way.total_s),
        seconds(median(way.cpu_s)),
        ratio(way.first_s / raw.first_s),
        ratio(way.total_s / raw.total_s),
    ]
