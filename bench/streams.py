"""Many clients of the WebSocket, each receiving 40 tokens a second: what arrives, how late, and what it costs the hub.

A delay is counted from when the hub has a piece's first token until the client has the piece, which contains the 50 ms
in which tokens are gathered; hub and clients share a clock. How far the provider itself falls behind (its processes
share the processors with all others) is shown beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from bench.clis import hub_env
from bench.command import Command, Part, Setup, Sizes, WrongRun
from bench.processes import Cpu, split_cpu
from bench.report import Gate, Section, ms, number, progress
from bench.stats import percentile
from bench.through_hub import fresh_hub
from tests.hub import HubProcess

Json = dict[str, Any]

TOKEN_S = 0.025
TOKEN_CHARS = 8
SHARED_TURNS = 16  # as many as the demo provider has workers by default
MOST_FRAMES_PER_S = 20.0
MOST_DELAY_S = 0.150
# A run that hangs must end.
SLACK_S = 120.0
ENDS = ("finished", "error", "stopped")


def question(tokens: int) -> str:
    """A text that the demo provider says in so many numbered tokens of one length."""
    directive = f"[[chunks={tokens} delay={TOKEN_S}]] "
    chars = tokens * TOKEN_CHARS
    counted = "".join(f"{place:07d} " for place in range(tokens))
    return (directive + counted)[:chars]


@dataclass(slots=True)
class Client:
    """One connection that watches one turn, and what it has received."""

    socket: aiohttp.ClientWebSocketResponse
    turn: str = ""
    texts: list[str] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    gaps: int = 0
    error: str = ""
    _had: int = 0
    _joined: int = 0

    async def say(self, **message: Any) -> Json:
        await self.socket.send_str(orjson.dumps(message).decode())
        while True:
            heard = await self._hear()
            if heard.get("re") == message["id"]:
                if heard["type"] == "error":
                    raise WrongRun(f"streams: {heard['code']}: {heard['message']}")
                return heard

    async def ask(self, tokens: int) -> None:
        self.turn = (await self.say(id=2, type="ask", provider="echo", text=question(tokens)))["turn"]

    async def join(self, turn: str) -> None:
        """Watch a turn that runs; what it had said before is no delay of anybody's."""
        answer = await self.say(id=2, type="resume", turn=turn, after=0)
        self.turn, self._joined = turn, answer["last"]

    async def listen(self) -> None:
        while (await self._hear())["type"] not in ENDS:
            pass

    async def _hear(self) -> Json:
        message: Json = orjson.loads(await self.socket.receive_str())
        now_s = time.time()
        if "n" in message:
            self.gaps += message["first"] != self._had + 1
            self._had = message["n"]
        if message["type"] == "delta":
            self.texts.append(message["text"])
            self.times_s.append(now_s)
            if message["first"] > self._joined:
                self.delays_s.append(now_s - message["at"] / 1_000)
        elif message["type"] in ("error", "stopped"):
            self.error = str(message.get("code") or message["type"])
        return message

    @property
    def frames_per_s(self) -> float:
        """Over the whole of it: what had gathered before it joined came in one piece."""
        took_s = self.times_s[-1] - self.times_s[0]
        return (len(self.times_s) - 1) / took_s if took_s else 0.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of a run."""

    clients: list[Client]
    turns: int
    tokens: int
    wall_s: float
    cpu: Cpu

    @property
    def wrong(self) -> int:
        """Clients that did not get exactly the answer, in order, numbered without a gap."""
        whole = question(self.tokens)
        return sum("".join(it.texts) != whole or bool(it.gaps) or bool(it.error) for it in self.clients)

    @property
    def delays_s(self) -> list[float]:
        return [delay for it in self.clients for delay in it.delays_s]

    @property
    def late_s(self) -> float:
        """How much longer the answers took than they should."""
        return self.wall_s - self.tokens * TOKEN_S


async def _shared(setup: Setup) -> list[Section]:
    """All clients watch as many turns as the demo provider runs by default."""
    with fresh_hub(setup.folder, hub_env("echo", None, ""), server=setup.server) as hub:
        return [_section(f"{SHARED_TURNS} turns", await _run(hub, setup.sizes, SHARED_TURNS))]


async def _own(setup: Setup) -> list[Section]:
    """Every client has a turn of its own, and with it a worker."""
    count = str(setup.sizes.count)
    env = {
        **hub_env("echo", None, ""),
        "HUB_ECHO_CEILING": count,
        "HUB_ECHO_FLOOR": count,
        "HUB_MAX_WORKERS": "0",
        "HUB_WORKER_IDLE_S": "3600",
    }
    with fresh_hub(setup.folder, env, server=setup.server) as hub:
        await _until_warm(hub, setup.sizes.count)
        return [_section("a turn each", await _run(hub, setup.sizes, setup.sizes.count))]


async def _until_warm(hub: HubProcess, count: int) -> None:
    progress(f"streams: starting {count} workers")
    async with asyncio.timeout(SLACK_S):
        while len(hub.workers()) < count:  # noqa: ASYNC110 (nobody announces it)
            await asyncio.sleep(1)


async def _run(hub: HubProcess, sizes: Sizes, turns: int) -> Streamed:
    tokens = sizes.requests
    progress(f"streams: {sizes.count} clients, {turns} turns of {tokens} tokens")
    async with asyncio.timeout(tokens * TOKEN_S + SLACK_S), _clients(hub, sizes.count) as clients:
        before, began_s = split_cpu(hub.pid), time.monotonic()
        askers = clients[:turns]
        await asyncio.gather(*(it.ask(tokens) for it in askers))
        await asyncio.gather(*(it.join(askers[place % turns].turn) for place, it in enumerate(clients[turns:])))
        await asyncio.gather(*(it.listen() for it in clients))
        wall_s = time.monotonic() - began_s
        return Streamed(clients, turns, tokens, wall_s, split_cpu(hub.pid).since(before))


@asynccontextmanager
async def _clients(hub: HubProcess, count: int) -> AsyncIterator[list[Client]]:
    """So many that have said hello."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(hub.url, connector=connector) as session:
        clients = [Client(await session.ws_connect("/ws/chat/", max_msg_size=0)) for _ in range(count)]
        await asyncio.gather(*(it.say(id=1, type="hello", key=hub.key) for it in clients))
        yield clients
        await asyncio.gather(*(it.socket.close() for it in clients))


def _section(name: str, run: Streamed) -> Section:
    delays_s = run.delays_s
    frames = max(it.frames_per_s for it in run.clients)
    title = f"streams, {name}: {len(run.clients)} clients, {1 / TOKEN_S:g} tokens/s each for {run.tokens * TOKEN_S:g} s"
    what = f"streams, {name}"
    return Section(
        title=title,
        head=[
            *("turns", "p50 ms", "p95 ms", "p99 ms", "most ms", "frames/s", "provider late s"),
            *("hub CPU s", "of a core", "echo CPU s", "Redis CPU s", "wrong"),
        ],
        rows=[
            [
                str(run.turns),
                *(ms(percentile(delays_s, percent)) for percent in (50, 95, 99, 100)),
                number(frames),
                number(run.late_s),
                number(run.cpu.own_s),
                f"{run.cpu.own_s / run.wall_s:.0%}",
                number(run.cpu.children_s),
                number(run.cpu.redis_s),
                str(run.wrong),
            ]
        ],
        note="Delays are from the hub's reading of a token to the client's; 50 ms of gathering are part of them.",
        gates=[
            Gate.at_most(f"{what}: clients with lost, repeated or reordered tokens", run.wrong, 0),
            Gate.at_most(f"{what}: p95 delivery delay", percentile(delays_s, 95) * 1_000, MOST_DELAY_S * 1_000, " ms"),
            Gate.at_most(f"{what}: most frames per second of a client", round(frames, 1), MOST_FRAMES_PER_S),
        ],
        data={"delays_s": delays_s, "wall_s": run.wall_s, "hub_cpu_s": run.cpu.own_s, "wrong": run.wrong},
    )


STREAMS = Command(
    name="streams",
    help="many WebSocket clients that each receive 40 tokens a second",
    parts=(Part("shared", _shared), Part("own", _own)),
    full=Sizes(count=200, requests=800),
    quick=Sizes(count=50, requests=200),
    flags=("--server",),
)
