"""Many new conversations at the same moment: a raw claude for each, or a hub with its bounded pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.clis import MODELS, RawCli, hub_env, raw_clis
from bench.processes import PeakMemory, tree_cpu_s, wait_until_quiet, worker_pids
from bench.raw import children_cpu_s, run_raw
from bench.report import progress
from bench.stats import Taken, percentile
from bench.through_hub import ask, client_of, fresh_hub, request_body

TIMEOUT_S = 400.0
# The hub's defaults on a machine with memory enough, set aloud so that there is a bound to hold the memory to.
CEILING = 8
MEMORY_MB = CEILING * 256

RAW, SAME, MIXED = "raw", "hub, one system prompt", "hub, all different"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the stand-in is asked to say."""

    name: str
    directive: str


ANSWERS = (Answer("hi", ""), Answer("20 x 25 ms", " [[chunks=20 delay=0.025]]"))


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst. Memory in bytes at its peak: of all processes for raw, of the workers for a hub (itself apart)."""

    way: str
    answer: str
    taken: list[Taken]
    wall_s: float
    cpu_s: float
    rss_bytes: int
    pss_bytes: int
    processes: int
    hub_rss_bytes: int = 0

    @property
    def errors(self) -> list[str]:
        return [taken.error for taken in self.taken if taken.error]

    @property
    def per_s(self) -> float:
        return (len(self.taken) - len(self.errors)) / self.wall_s

    def first_s(self, percent: float) -> float:
        return percentile((it.first_s for it in self.taken if not it.error), percent)

    def end_s(self, percent: float) -> float:
        return percentile((it.total_s for it in self.taken if not it.error), percent)


@dataclass(frozen=True, slots=True)
class Bursts:
    """Runs bursts of `count` conversations, each with a text of its own that its answer has to hold."""

    path: Path
    vendor_url: str
    folder: Path
    count: int
    server: str

    async def run(self, rounds: int) -> list[Burst]:
        """Every way with every answer, `rounds` times over."""
        done: list[Burst] = []
        for number in range(1, rounds + 1):
            for answer in ANSWERS:
                for cli in raw_clis("claude", self.path, self.vendor_url):
                    progress(f"burst of {self.count}, round {number} of {rounds}: {answer.name}, {cli.name}")
                    done.append(await self._raw(cli, answer))
                for way in (SAME, MIXED):
                    progress(f"burst of {self.count}, round {number} of {rounds}: {answer.name}, {way}")
                    done.append(await self._hub(way, answer))
        return done

    def _prompts(self, answer: Answer) -> list[tuple[str, str]]:
        """What to say, and what has to come back."""
        marks = [f"question {number} of {self.count}" for number in range(1, self.count + 1)]
        return [(f"hi, {mark}{answer.directive}", mark) for mark in marks]

    async def _raw(self, cli: RawCli, answer: Answer) -> Burst:
        pids: list[int] = []
        cpu_before, began = children_cpu_s(), time.monotonic()
        with PeakMemory(lambda: list(pids)) as memory:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._raw_one(cli, *prompt, pids.append)) for prompt in self._prompts(answer)
                ]
        wall_s, cpu_s = time.monotonic() - began, children_cpu_s() - cpu_before
        taken = [task.result() for task in tasks]
        return _burst(cli.name, answer, taken, wall_s, cpu_s, memory)

    async def _raw_one(self, cli: RawCli, prompt: str, expect: str, on_start: Callable[[int], None]) -> Taken:
        return await run_raw(cli, prompt, self.folder, expect=expect, timeout_s=TIMEOUT_S, on_start=on_start)

    async def _hub(self, way: str, answer: Answer) -> Burst:
        env = {
            **hub_env("claude", self.path, self.vendor_url),
            "HUB_CLAUDE_CEILING": str(CEILING),
            "HUB_CLAUDE_MEMORY_MB": str(MEMORY_MB),
        }
        with fresh_hub(self.folder, env, server=self.server) as hub:
            async with client_of(hub, timeout_s=TIMEOUT_S) as client:
                await asyncio.to_thread(wait_until_quiet, hub.pid)
                bodies = [
                    (request_body(prompt, provider="claude", model=MODELS["claude"], system=_system(way, number)), mark)
                    for number, (prompt, mark) in enumerate(self._prompts(answer))
                ]
                cpu_before, began = tree_cpu_s(hub.pid), time.monotonic()
                process = psutil.Process(hub.pid)
                with PeakMemory(lambda: worker_pids(hub.pid)) as memory:
                    taken = list(await asyncio.gather(*(ask(client, body, expect=mark) for body, mark in bodies)))
                    wall_s = time.monotonic() - began
                cpu_s = tree_cpu_s(hub.pid) - cpu_before
                return _burst(way, answer, taken, wall_s, cpu_s, memory, process.memory_info().rss)


def _system(way: str, number: int) -> str:
    return "Answer briefly." if way == SAME else f"Answer briefly. You are assistant number {number}."


def _burst(
    way: str,
    answer: Answer,
    taken: list[Taken],
    wall_s: float,
    cpu_s: float,
    memory: PeakMemory,
    hub_rss_bytes: int = 0,
) -> Burst:
    return Burst(
        way,
        answer.name,
        taken,
        wall_s,
        cpu_s / len(taken),
        memory.rss_bytes,
        memory.pss_bytes,
        memory.count,
        hub_rss_bytes,
    )
