"""A hundred clients that connect and ask at the same moment, after the hub was left alone."""

from __future__ import annotations

import asyncio

from bench.bare import BareChild
from bench.command import Setup
from bench.load import MARK, REQUEST_TIMEOUT_S, SERVERS, STREAMED, WHOLE, Shape, echo_hub, hub_body
from bench.report import Gate, Section, ms, progress
from bench.stats import Taken, median, percentile
from bench.through_hub import ask, new_client
from tests.hub import HubProcess

# Longer than the hub remembers a key, so that a burst meets a hub that has to look it up.
SILENCE_S = 1.5
MOST_ADDED_MS = 300.0
GOAL_MS = 100.0
JUDGED_SERVER = "daphne"
SHAPES = (WHOLE, STREAMED)
BARE_REQUESTS = 200

Bursts = dict[tuple[str, str], list[Taken]]


async def measure_burst(setup: Setup) -> list[Section]:
    """So many bursts of every shape, by each server."""
    count, rounds = setup.sizes.count, setup.sizes.rounds
    with BareChild(setup.folder) as child:
        bare_s = median(child.ask(MARK) for _ in range(BARE_REQUESTS))
    bursts: Bursts = {}
    for server in SERVERS:
        with echo_hub(setup.folder, server) as hub:
            await _burst(hub, WHOLE, count)  # the pool grows to its ceiling
            for number in range(1, rounds + 1):
                progress(f"burst: {count} at once, {server}, round {number} of {rounds}")
                for shape in SHAPES:
                    bursts.setdefault((server, shape.name), []).extend(await _burst(hub, shape, count))
    return [_section(bursts, bare_s, count, rounds)]


async def _burst(hub: HubProcess, shape: Shape, count: int) -> list[Taken]:
    body = hub_body(shape)
    await asyncio.sleep(SILENCE_S)
    async with new_client(hub.url, hub.headers, timeout_s=REQUEST_TIMEOUT_S) as client:
        return list(await asyncio.gather(*(ask(client, body, expect=MARK) for _ in range(count))))


def _section(bursts: Bursts, bare_s: float, count: int, rounds: int) -> Section:
    errors = [taken.error for burst in bursts.values() for taken in burst if taken.error]
    what = f"gateway, {count} at once"
    added_ms = max((_p99_s(burst) - bare_s) * 1_000 for (server, _), burst in bursts.items() if server == JUDGED_SERVER)
    return Section(
        title=f"{what}: new connections, after {SILENCE_S:g} s of silence, {rounds} rounds together",
        head=["", "shape", "first p50 ms", "p50 ms", "p99 ms", "last ms", "added p99 ms", "errors"],
        rows=[_row(*key, burst, bare_s) for key, burst in bursts.items()],
        note=f"Added: more than the bare child's p50, which is {ms(bare_s)} ms. Latencies hold the client's own time.",
        gates=[
            Gate.at_most(f"{what}: errors", len(errors), 0),
            Gate.at_most(f"{what}: added p99, {JUDGED_SERVER}, the worst", added_ms, MOST_ADDED_MS, " ms"),
            Gate.at_most(f"{what}: the same, the goal", added_ms, GOAL_MS, " ms", is_judged=False),
        ],
        data={
            "bare_p50_s": bare_s,
            "errors": errors,
            "total_s": {
                f"{server}, {shape}": [it.total_s for it in burst] for (server, shape), burst in bursts.items()
            },
        },
    )


def _p99_s(burst: list[Taken]) -> float:
    return percentile((it.total_s for it in burst if not it.error), 99)


def _row(server: str, shape: str, burst: list[Taken], bare_s: float) -> list[str]:
    answered = [it for it in burst if not it.error]
    return [
        f"hub, {server}",
        shape,
        ms(percentile((it.first_s for it in answered), 50)),
        ms(percentile((it.total_s for it in answered), 50)),
        ms(_p99_s(burst)),
        ms(percentile((it.total_s for it in answered), 100)),
        ms(_p99_s(burst) - bare_s),
        str(len(burst) - len(answered)),
    ]
