"""LiteLLM's proxy and the hub, asked the same in alternating blocks."""

from __future__ import annotations

from bench.command import Setup
from bench.litellm_proxy import MODEL, find_litellm, running_litellm
from bench.load import MARK, REQUEST_TIMEOUT_S, WHOLE, Load, Shape, Target, echo_hubs, hub_body, run_load, warm_up
from bench.report import Gate, Section, ms, number, progress, ratio
from bench.stats import quotient
from bench.through_hub import Json, new_client

# What LiteLLM's mock streams: three characters a piece. The hub's echo is told to cut as often.
MOCK_PIECE_CHARS = 3
STREAMED = Shape("streamed", is_streamed=True, pieces=-(-len(MARK) // MOCK_PIECE_CHARS))
SHAPES = (WHOLE, STREAMED)
CONCURRENCIES = (1, 100)
# Of a block with a hundred clients, so that most of it has all of them waiting.
LEAST_REQUESTS_EACH = 3
# Of a block with one client, which LiteLLM answers slowly.
MOST_ALONE = 50

LEAST_TIMES = 6.0
JUDGED = "hub, daphne"

Loads = dict[tuple[str, str, int], Load]


async def measure_litellm(setup: Setup) -> list[Section]:
    """So many blocks of every shape at every concurrency. Raises Skipped if there is no LiteLLM."""
    program = find_litellm(setup.litellm)
    loads: Loads = {}
    progress("litellm: starting it")
    async with (
        running_litellm(program, setup.folder, MARK) as proxy,
        new_client(proxy.url, proxy.headers, timeout_s=REQUEST_TIMEOUT_S) as client,
        echo_hubs(setup.folder) as hubs,
    ):
        rival = Target(f"LiteLLM {proxy.version}", proxy.pid, client, _body)
        targets = [*hubs, rival]
        await warm_up(targets, SHAPES, max(CONCURRENCIES))
        for block in range(1, setup.sizes.rounds + 1):
            progress(f"litellm: block {block} of {setup.sizes.rounds}")
            await _block(targets, loads, setup.sizes.requests // setup.sizes.rounds)
    return [_section(loads, rival.name)]


def _body(shape: Shape) -> Json:
    body = {name: value for name, value in hub_body(shape).items() if name != "provider"}
    return {**body, "model": MODEL}


async def _block(targets: list[Target], loads: Loads, requests: int) -> None:
    for concurrency in CONCURRENCIES:
        count = max(LEAST_REQUESTS_EACH * concurrency, min(requests, MOST_ALONE))
        for shape in SHAPES:
            for target in targets:
                load = await run_load(target, shape, concurrency=concurrency, requests=count)
                key = (target.name, shape.name, concurrency)
                loads[key] = loads[key] + load if key in loads else load


def _section(loads: Loads, rival: str) -> Section:
    most = max(CONCURRENCIES)
    hub_errors = sum(len(load.errors) for (name, _, _), load in loads.items() if name != rival)
    what = f"beside LiteLLM, {most} at a time, requests/s"
    return Section(
        title="gateway, beside LiteLLM with an answer of its own (no database, one worker), alternating blocks",
        head=["", "shape", "at a time", "p50 ms", "p99 ms", "requests/s", "/ LiteLLM", "CPU ms", "errors"],
        rows=[
            _row(*key, load, loads[rival, key[1], key[2]])
            for key, load in sorted(loads.items(), key=lambda item: (item[0][1] != WHOLE.name, item[0][2]))
        ],
        note=f"CPU of the hub holds echo's children and its Redis server. LiteLLM's mock streams pieces of "
        f"{MOCK_PIECE_CHARS} characters, the hub as many.",
        gates=[
            Gate.at_most("beside LiteLLM, the hub's errors", hub_errors, 0),
            *(
                Gate.at_least(
                    f"{what}, {shape.name}", _times(loads, rival, shape, most), LEAST_TIMES, "x", is_judged=judged
                )
                for shape, judged in ((WHOLE, True), (STREAMED, False))
            ),
        ],
        data={f"{name}, {shape}, {concurrency}": load.as_data() for (name, shape, concurrency), load in loads.items()},
    )


def _times(loads: Loads, rival: str, shape: Shape, concurrency: int) -> float:
    return quotient(loads[JUDGED, shape.name, concurrency].per_s, loads[rival, shape.name, concurrency].per_s)


def _row(name: str, shape: str, concurrency: int, load: Load, rival: Load) -> list[str]:
    return [
        name,
        shape,
        str(concurrency),
        ms(load.latency_s(50)),
        ms(load.latency_s(99)),
        number(load.per_s),
        ratio(quotient(load.per_s, rival.per_s)),
        number(load.each_ms(load.cpu.all_s)),
        str(len(load.errors)),
    ]
