"""One request at a time: what the hub adds to the bare echo child, for a session's first request and a later one."""

from __future__ import annotations

import aiohttp

from bench.bare import BareChild
from bench.command import Setup, WrongRun
from bench.load import MARK, REQUEST_TIMEOUT_S, STREAMED, WHOLE, Shape, Target, echo_hub, hub_body, warm_up
from bench.report import Gate, Section, ms, progress
from bench.stats import median, percentile
from bench.through_hub import ask, client_of

MOST_ADDED_MS = 6.0
# Hub and bare child are asked in small alternating blocks, so that noise hits both.
BLOCKS = 10
SHAPES = (WHOLE, STREAMED)
# Turns of a session, of which the first and the last count.
TURNS = 3
NEW, NEXT = "new session", f"session of {2 * (TURNS - 1)} messages"

Times = dict[tuple[str, str], list[float]]


async def measure_one(setup: Setup) -> list[Section]:
    """Raises WrongRun if a request fails."""
    per_block = max(setup.sizes.requests // BLOCKS // 2, 5)
    bare: list[float] = []
    times: Times = {(which, shape.name): [] for which in (NEW, NEXT) for shape in SHAPES}
    with echo_hub(setup.folder) as hub, BareChild(setup.folder) as child:
        async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
            await warm_up([Target("hub", hub.pid, client)], SHAPES, concurrency=20)
            for block in range(BLOCKS):
                progress(f"one: block {block + 1} of {BLOCKS}")
                bare += [child.ask(MARK) for _ in range(per_block)]
                for shape in SHAPES:
                    await _block(client, shape, times, per_block)
            await _check_all_is_on(client)
    return [_section(bare, times)]


async def _block(client: aiohttp.ClientSession, shape: Shape, times: Times, count: int) -> None:
    for _ in range(count):
        taken_s, session = await _turn(client, shape)
        times[NEW, shape.name].append(taken_s)
        for _ in range(TURNS - 1):
            taken_s, _ = await _turn(client, shape, session)
        times[NEXT, shape.name].append(taken_s)


async def _turn(client: aiohttp.ClientSession, shape: Shape, session: str = "") -> tuple[float, str]:
    taken = await ask(client, hub_body(shape), expect=MARK, session=session)
    if taken.error or (session and taken.session != session):
        raise WrongRun(f"one, {shape.name}: {taken.error or 'answered in another session'}")
    return taken.total_s, taken.session


async def _check_all_is_on(client: aiohttp.ClientSession) -> None:
    """The figures are the gateway's only if it has kept, archived and counted. Raises WrongRun."""
    async with client.get("/v1/sessions", params={"limit": 1}) as response:
        response.raise_for_status()
        listed = (await response.json())["data"]
        is_limited = "X-RateLimit-Limit" in response.headers
    if not listed or not is_limited:
        raise WrongRun(f"one: {len(listed)} sessions in the archive, {is_limited=}")
    async with client.get(f"/v1/sessions/{listed[0]['session_id']}") as response:
        response.raise_for_status()
        messages = (await response.json())["messages"]
    if len(messages) != 2 * TURNS:
        raise WrongRun(f"one: the last session holds {len(messages)} messages and not {2 * TURNS}")


def _section(bare: list[float], times: Times) -> Section:
    base_s = median(bare)
    rows = [["bare child, by its pipe", ms(base_s), ms(percentile(bare, 99)), "", ""]]
    rows += [
        [
            f"hub, {which}, {shape}",
            *(ms(median(taken)), ms(percentile(taken, 99))),
            *(ms(median(taken) - base_s), ms(percentile(taken, 99) - base_s)),
        ]
        for (which, shape), taken in times.items()
    ]
    worst_ms = max(median(taken) - base_s for taken in times.values()) * 1_000
    return Section(
        title=f"gateway, one at a time: {len(bare)} requests each, one piece, alternating",
        head=["", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms"],
        rows=rows,
        note="Added: more than the bare child's p50. The client's own time, HTTP on loopback included, is in it.",
        gates=[Gate.at_most("gateway, one at a time: added p50, the worst", worst_ms, MOST_ADDED_MS, " ms")],
        data={"bare_s": bare, **{f"{which}, {shape}": taken for (which, shape), taken in times.items()}},
    )
