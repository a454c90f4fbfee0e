"""The hub as a gateway: its own price, with sessions, key check, limits and archive on and nothing behind it.

The echo provider answers at once, so what is left is the hub's own time.
"""

from __future__ import annotations

from bench.all_at_once import measure_burst
from bench.command import Command, Part, Setup, Sizes
from bench.kept import measure_kept
from bench.litellm_beside import measure_litellm
from bench.load import MANY_PIECES, STREAMED, WHOLE, Load, echo_hubs, run_load, warm_up
from bench.one import measure_one
from bench.report import Gate, Section, ms, number, progress

CONCURRENCIES = (1, 10, 50, 100)
SHAPES = (WHOLE, STREAMED, MANY_PIECES)

HEAD = [
    *("", "shape", "at a time", "p50 ms", "p99 ms", "requests/s"),
    *("hub CPU ms", "echo CPU ms", "Redis CPU ms", "errors"),
]


async def measure_load(setup: Setup) -> list[Section]:
    """Every shape at every concurrency, by each server."""
    loads: dict[tuple[str, str, int], Load] = {}
    async with echo_hubs(setup.folder) as targets:
        await warm_up(targets, SHAPES, max(CONCURRENCIES))
        for concurrency in CONCURRENCIES:
            progress(f"load: {concurrency} at a time")
            for shape in SHAPES:
                for target in targets:
                    loads[target.name, shape.name, concurrency] = await run_load(
                        target, shape, concurrency=concurrency, requests=max(setup.sizes.requests, 2 * concurrency)
                    )
    return [_section(loads)]


def _section(loads: dict[tuple[str, str, int], Load]) -> Section:
    errors = sum(len(load.errors) for load in loads.values())
    return Section(
        title="gateway, load: each request begins a session, processor time per request",
        head=HEAD,
        rows=[_row(*key, load) for key, load in sorted(loads.items(), key=lambda item: item[0][:2])],
        note="The load comes from one more process on the same machine; latencies hold its own waiting too.",
        gates=[Gate.at_most("gateway, load: errors", errors, 0)],
        data={f"{name}, {shape}, {concurrency}": load.as_data() for (name, shape, concurrency), load in loads.items()},
    )


def _row(name: str, shape: str, concurrency: int, load: Load) -> list[str]:
    cpu = load.cpu
    return [
        name,
        shape,
        str(concurrency),
        ms(load.latency_s(50)),
        ms(load.latency_s(99)),
        number(load.per_s),
        *(number(load.each_ms(part_s)) for part_s in (cpu.own_s, cpu.children_s, cpu.redis_s)),
        str(len(load.errors)),
    ]


GATEWAY = Command(
    name="gateway",
    help="what the hub adds by itself: one request, many, a burst, beside LiteLLM, and a session's next turn",
    parts=(
        Part("one", measure_one),
        Part("load", measure_load),
        Part("burst", measure_burst),
        Part("litellm", measure_litellm),
        Part("kept", measure_kept, cli="claude"),
    ),
    full=Sizes(runs=9, rounds=5, count=100, requests=1_000),
    quick=Sizes(runs=2, rounds=1, count=100, requests=100),
    flags=("--litellm",),
)
