"""One shape of request, over and over, by so many clients at a time; and what that cost the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.clis import hub_env
from bench.processes import Cpu, split_cpu, wait_until_quiet
from bench.stats import Taken, percentile, quotient
from bench.through_hub import Json, ask, client_of, fresh_hub, request_body
from tests.hub import HubProcess

SERVERS = ("daphne", "uvicorn")
REQUEST_TIMEOUT_S = 120.0
MARK = "hi there"


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    is_streamed: bool
    pieces: int = 1


WHOLE, STREAMED = Shape("whole", is_streamed=False), Shape("streamed", is_streamed=True)
MANY_PIECES = Shape("streamed, 20 pieces", is_streamed=True, pieces=20)


def hub_body(shape: Shape) -> Json:
    text = f"{MARK} [[chunks={shape.pieces} delay=0]]"
    return request_body(text, provider="echo", model="echo", stream=shape.is_streamed)


@dataclass(frozen=True, slots=True)
class Target:
    """A server to put under load; `body` makes its request of a shape."""

    name: str
    pid: int
    client: aiohttp.ClientSession
    body: Callable[[Shape], Json] = hub_body


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load, or of several put together."""

    taken: list[Taken]
    wall_s: float
    cpu: Cpu

    @property
    def errors(self) -> list[str]:
        return [taken.error for taken in self.taken if taken.error]

    @property
    def per_s(self) -> float:
        return quotient(len(self.taken) - len(self.errors), self.wall_s)

    def latency_s(self, percent: float) -> float:
        return percentile((it.total_s for it in self.taken if not it.error), percent)

    def each_ms(self, cpu_s: float) -> float:
        """Processor time as milliseconds per request."""
        return quotient(cpu_s * 1_000, len(self.taken))

    def __add__(self, other: Load) -> Load:
        return Load(self.taken + other.taken, self.wall_s + other.wall_s, self.cpu + other.cpu)

    def as_data(self) -> Json:
        return {
            "latency_s": [taken.total_s for taken in self.taken],
            "first_s": [taken.first_s for taken in self.taken],
            "wall_s": self.wall_s,
            "cpu_s": {"own": self.cpu.own_s, "children": self.cpu.children_s, "redis": self.cpu.redis_s},
            "errors": self.errors,
        }


async def run_load(target: Target, shape: Shape, *, concurrency: int, requests: int) -> Load:
    """`requests` in all, each client's next one as soon as its last one is answered."""
    body, taken, tickets = target.body(shape), list[Taken](), iter(range(requests))

    async def one_client() -> None:
        for _ in tickets:
            taken.append(await ask(target.client, body, expect=MARK))

    before, began = split_cpu(target.pid), time.monotonic()
    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    wall_s = time.monotonic() - began
    # What is written down after the answers counts too, and must not be the next load's.
    await asyncio.to_thread(wait_until_quiet, target.pid)
    return Load(taken, wall_s, split_cpu(target.pid).since(before))


async def warm_up(targets: list[Target], shapes: tuple[Shape, ...], concurrency: int) -> None:
    """The pool grows to its ceiling and every code path has run before anything counts."""
    for target in targets:
        for shape in shapes:
            await run_load(target, shape, concurrency=concurrency, requests=2 * concurrency)


@contextmanager
def echo_hub(folder: Path, server: str = "daphne") -> Iterator[HubProcess]:
    """A hub with the echo provider; sessions, key check, limits and archive are on."""
    with fresh_hub(folder, hub_env("echo", None, ""), server=server) as hub:
        yield hub


@asynccontextmanager
async def echo_hubs(folder: Path) -> AsyncIterator[list[Target]]:
    """One hub for each server, at the same time: asked by turns, the machine's moods hit them alike."""
    async with AsyncExitStack() as stack:
        targets = []
        for server in SERVERS:
            hub = stack.enter_context(echo_hub(folder, server))
            client = await stack.enter_async_context(client_of(hub, timeout_s=REQUEST_TIMEOUT_S))
            targets.append(Target(f"hub, {server}", hub.pid, client))
        yield targets
