"""The MCP door beside the REST door, the stdio bridge beside the door, and the memory of sessions nobody closes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
import orjson
import psutil

from bench.command import Command, Part, Setup, Sizes, WrongRun
from bench.load import MARK, REQUEST_TIMEOUT_S, WHOLE, Load, Target, echo_hub, hub_body, warm_up
from bench.processes import MB, split_cpu, wait_until_quiet
from bench.report import Gate, Section, ms, number, progress, ratio
from bench.stats import Taken, median, percentile, quotient
from bench.through_hub import Json, ask, client_of
from tests.hub import ROOT, HubProcess

MOST_TIMES = 1.5
MOST_BRIDGE_MS = 5.0
MOST_FIRST_S = 0.6
MOST_GROWTH_MB = 2.0

CONCURRENCIES = (1, 20)
MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"
ACCEPT = {"Accept": "application/json, text/event-stream"}
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
WHO = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}

SESSIONS = 1_000
# Until as many sessions are held as may be, and what they leave is collected as fast as it comes.
SETTLE_BLOCKS = 4
REST = "REST, whole"
numbers = count(1)


def message(method: str, **params: object) -> Json:
    return {"jsonrpc": "2.0", "id": next(numbers), "method": method, "params": params}


def chat_message(meta: Json | None = None) -> Json:
    arguments = {"message": hub_body(WHOLE)["messages"][0]["content"], "provider": "echo", "model": "echo"}
    extra: dict[str, object] = {"_meta": meta} if meta else {}
    return message("tools/call", name="chat", arguments=arguments, **extra)


# --- processor time --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask the same: `ask` with the number of the client that asks."""

    name: str
    ask: Callable[[int], Any]


async def measure_cpu(setup: Setup) -> list[Section]:
    """chat by MCP in both eras and the same request by REST, in alternating blocks."""
    loads: dict[tuple[str, int], Load] = {}
    with echo_hub(setup.folder, setup.server) as hub:
        async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
            await warm_up([Target("hub", hub.pid, client)], (WHOLE,), max(CONCURRENCIES))
            ways = await _ways(client)
            for concurrency in CONCURRENCIES:
                for way in ways:
                    await _load(hub, way, concurrency, 5 * concurrency)
                for block in range(setup.sizes.rounds):
                    progress(f"cpu: {concurrency} at a time, block {block + 1} of {setup.sizes.rounds}")
                    for way in ways:
                        load = await _load(hub, way, concurrency, setup.sizes.requests)
                        key = (way.name, concurrency)
                        loads[key] = loads[key] + load if key in loads else load
    return [_cpu_section(loads)]


async def _ways(client: aiohttp.ClientSession) -> list[Way]:
    sessions = [await open_session(client) for _ in range(max(CONCURRENCIES))]
    body = hub_body(WHOLE)
    modern = {**ACCEPT, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "chat"}
    return [
        Way(REST, lambda _: ask(client, body, expect=MARK)),
        Way("MCP, 2026-07-28", lambda _: _call(client, chat_message(META), modern)),
        Way("MCP, 2025-11-25", lambda number: _call(client, chat_message(), sessions[number])),
    ]


async def open_session(client: aiohttp.ClientSession) -> dict[str, str]:
    """A new session of the handshake era, as the headers of its requests."""
    async with client.post("/mcp", json=message("initialize", **WHO), headers=ACCEPT) as answer:
        await answer.read()
        if answer.status != 200:
            raise WrongRun(f"no MCP session: {answer.status}")
        return {**ACCEPT, "Mcp-Session-Id": answer.headers["Mcp-Session-Id"], "MCP-Protocol-Version": HANDSHAKE}


async def _call(client: aiohttp.ClientSession, body: Json, headers: dict[str, str]) -> Taken:
    began = time.monotonic()
    try:
        async with client.post("/mcp", json=body, headers=headers) as answer:
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError) as exc:
        return Taken(0, 0, error=f"{type(exc).__name__}: {exc}")
    took_s = time.monotonic() - began
    is_right = answer.status == 200 and MARK in text and '"isError":true' not in text
    return Taken(took_s, took_s, error="" if is_right else f"{answer.status}: {text[:200]}")


async def _load(hub: HubProcess, way: Way, concurrency: int, requests: int) -> Load:
    taken, tickets = list[Taken](), iter(range(requests))

    async def one_client(number: int) -> None:
        for _ in tickets:
            taken.append(await way.ask(number))

    before, began = split_cpu(hub.pid), time.monotonic()
    await asyncio.gather(*(one_client(number) for number in range(concurrency)))
    wall_s = time.monotonic() - began
    await asyncio.to_thread(wait_until_quiet, hub.pid)
    return Load(taken, wall_s, split_cpu(hub.pid).since(before))


def _cpu_section(loads: dict[tuple[str, int], Load]) -> Section:
    def times(name: str, concurrency: int) -> float:
        return quotient(*(loads[it, concurrency].each_ms(loads[it, concurrency].cpu.own_s) for it in (name, REST)))

    names = [name for name, concurrency in loads if concurrency == CONCURRENCIES[0]]
    errors = sum(len(load.errors) for load in loads.values())
    return Section(
        title="mcp, cpu: chat with the demo provider, each request begins a session, the hub's own processor time",
        head=["", "at a time", "p50 ms", "p99 ms", "requests/s", "CPU ms", "/ REST", "errors"],
        rows=[
            [
                name,
                str(concurrency),
                ms(load.latency_s(50)),
                ms(load.latency_s(99)),
                number(load.per_s),
                number(load.each_ms(load.cpu.own_s)),
                ratio(times(name, concurrency)),
                str(len(load.errors)),
            ]
            for (name, concurrency), load in loads.items()
        ],
        gates=[
            Gate.at_most("mcp, cpu: errors", errors, 0),
            *(
                Gate.at_most(f"{name}, {it} at a time, CPU / REST", times(name, it), MOST_TIMES, "x")
                for it in CONCURRENCIES
                for name in names
                if name != REST
            ),
        ],
        data={f"{name}, {concurrency}": load.as_data() for (name, concurrency), load in loads.items()},
    )


# --- the bridge ------------------------------------------------------------------------------------------------------


class Pipe:
    """A client on the pipes of `run_mcp`, one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def ask(self, body: Json) -> Json:
        """The answer to a request; what comes before it, such as progress, is passed over."""
        self._in.write(orjson.dumps(body) + b"\n")
        await self._in.drain()
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            while True:
                line: Json = orjson.loads(await self._out.readline())
                if line.get("id") == body["id"]:
                    return line


@asynccontextmanager
async def bridged(hub: HubProcess) -> AsyncIterator[Pipe]:
    """`run_mcp` on the hub's data folder, ended with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        "run_mcp",
        "--mode",
        "bridge",
        cwd=ROOT,
        env=hub.environ | {"HUB_API_KEY": hub.key},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MB,
    )
    try:
        yield Pipe(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def measure_bridge(setup: Setup) -> list[Section]:
    """A call over the bridge and one straight to the door by turns; and how soon a fresh bridge answers."""
    modern = {**ACCEPT, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "chat"}
    over, straight, first = list[float](), list[float](), list[float]()
    with echo_hub(setup.folder, setup.server) as hub:
        async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
            await warm_up([Target("hub", hub.pid, client)], (WHOLE,), 20)
            for run in range(setup.sizes.runs):
                progress(f"bridge: start {run + 1} of {setup.sizes.runs}")
                first.append(await _first_answer_s(hub))
            async with bridged(hub) as pipe:
                for _ in range(setup.sizes.requests):
                    straight.append((await _call(client, chat_message(META), modern)).total_s)
                    over.append(await _over_bridge_s(pipe))
    return [_bridge_section(over, straight, first)]


async def _first_answer_s(hub: HubProcess) -> float:
    began = time.monotonic()
    async with bridged(hub) as pipe:
        answer = await pipe.ask(message("initialize", **WHO))
        took_s = time.monotonic() - began
    if "result" not in answer:
        raise WrongRun(f"the bridge does not answer: {answer}")
    return took_s


async def _over_bridge_s(pipe: Pipe) -> float:
    began = time.monotonic()
    answer = await pipe.ask(chat_message(META))
    if MARK not in str(answer.get("result")):
        raise WrongRun(f"not the right answer: {answer}")
    return time.monotonic() - began


def _bridge_section(over: list[float], straight: list[float], first: list[float]) -> Section:
    added_s = median(over) - median(straight)
    return Section(
        title="mcp, bridge: chat over run_mcp and straight to the door, by turns; from its start to its first answer",
        head=["", "p50 ms", "p99 ms"],
        rows=[
            ["straight", ms(median(straight)), ms(percentile(straight, 99))],
            ["over the bridge", ms(median(over)), ms(percentile(over, 99))],
            ["start to first answer", ms(median(first)), ms(percentile(first, 99))],
        ],
        gates=[
            Gate.at_most("bridge adds, p50", added_s * 1_000, MOST_BRIDGE_MS, " ms"),
            Gate.at_most("bridge, start to first answer, p50", median(first), MOST_FIRST_S, " s"),
        ],
        data={"over_s": over, "straight_s": straight, "first_s": first},
    )


# --- sessions nobody closes ------------------------------------------------------------------------------------------


async def measure_sessions(setup: Setup) -> list[Section]:
    """A thousand sessions that are opened, asked once and left, again and again: what the hub holds after each."""
    held: list[float] = []
    with echo_hub(setup.folder, setup.server) as hub:
        async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
            blocks = SETTLE_BLOCKS + setup.sizes.rounds + 1
            for block in range(blocks):
                progress(f"sessions: {SESSIONS}, block {block + 1} of {blocks}")
                for _ in range(SESSIONS):
                    session = await open_session(client)
                    async with client.post("/mcp", json=message("tools/list"), headers=session) as answer:
                        await answer.read()
                held.append(psutil.Process(hub.pid).memory_info().rss / MB)
    growth = (held[-1] - held[SETTLE_BLOCKS]) / setup.sizes.rounds
    return [
        Section(
            title=f"mcp, sessions: memory of the hub after {SESSIONS} sessions each that nobody closed",
            head=["block", "RSS MB"],
            rows=[[str(place), number(mb)] for place, mb in enumerate(held, 1)],
            gates=[Gate.at_most(f"growth over {SESSIONS} sessions, once settled", growth, MOST_GROWTH_MB, " MB")],
            data={"rss_mb": held},
        )
    ]


MCP = Command(
    name="mcp",
    help="the MCP door beside REST, what the stdio bridge adds, and memory over many sessions",
    parts=(Part("cpu", measure_cpu), Part("bridge", measure_bridge), Part("sessions", measure_sessions)),
    full=Sizes(runs=9, rounds=4, requests=600),
    quick=Sizes(runs=3, rounds=1, requests=200),
    flags=("--server",),
)
