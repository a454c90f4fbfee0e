"""The hub beside the raw CLIs: one turn at a time (cold, warm, a used worker again), and a hundred at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import aiohttp

from bench.burst import Bursts
from bench.burst_table import FULL_COUNT
from bench.burst_table import section_of as bursts_section
from bench.clis import MODELS, hub_env, raw_clis
from bench.command import Command, Part, Setup, Sizes
from bench.report import Section
from bench.stats import Taken
from bench.through_hub import client_of, fresh_hub, request_body
from bench.ways import PROMPT, TURN_TIMEOUT_S, Run, Way, hub_turn, raw_run, run_rounds, section_of
from tests.hub import HubProcess

# A worker that is worn after one turn is replaced, and without a floor nothing starts until the next request.
COLD = {"FLOOR": "0", "TURNS": "1"}
# One worker waits; its first turn is warm, its second reused, then it is worn and leaves the next to the next round.
READY = {"FLOOR": "1", "TURNS": "2"}

# name of the section, best allowed ratio of first-token times
GATES = {"claude": {"warm": 0.45, "reused": 0.2}, "gemini": {"warm": 0.1}}


async def measure_turns(name: str, setup: Setup) -> list[Section]:
    """Rounds over all ways. Raises WrongRun."""
    path, folder = setup.clis[name], setup.folder
    env = hub_env(name, path, setup.vendor_url)
    with (
        fresh_hub(folder, {**env, **_settings(name, COLD)}, server=setup.server) as cold,
        fresh_hub(folder, {**env, **_settings(name, READY)}, server=setup.server) as ready,
    ):
        async with (
            client_of(cold, timeout_s=TURN_TIMEOUT_S) as to_cold,
            client_of(ready, timeout_s=TURN_TIMEOUT_S) as to_ready,
        ):
            prompts = _SystemPrompts()
            warm = _hub_run(ready, to_ready, name, prompts.next)
            ways = [Way(cli.name, raw_run(cli, folder)) for cli in raw_clis(name, path, setup.vendor_url)]
            ways += [
                Way("hub cold", _hub_run(cold, to_cold, name, prompts.next), "cold"),
                Way("hub warm", warm, "warm"),
                # Only after a warm turn is there a worker to use again.
                Way("hub reused", _hub_run(ready, to_ready, name, prompts.again), "reused", before=warm),
            ]
            await run_rounds(name, ways, setup.sizes.runs)
    return [section_of(name, ways, GATES[name])]


def _settings(name: str, pool: dict[str, str]) -> dict[str, str]:
    # Left with its conversation, the process of the first turn would not be the one to use again.
    return {f"HUB_{name.upper()}_FLOOR": pool["FLOOR"], "HUB_WORKER_TURNS": pool["TURNS"], "HUB_KEPT_S": "0"}


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


def _hub_run(hub: HubProcess, client: aiohttp.ClientSession, name: str, system: Callable[[], str]) -> Run:
    async def run() -> tuple[Taken, float]:
        body = request_body(PROMPT, provider=name, model=MODELS[name], system=system())
        return await hub_turn(hub, client, body)

    return run


async def measure_bursts(setup: Setup) -> list[Section]:
    sizes = setup.sizes
    bursts = await Bursts(setup.clis["claude"], setup.vendor_url, setup.folder, sizes.count, setup.server).run(
        sizes.rounds
    )
    return [bursts_section(bursts, count=sizes.count, rounds=sizes.rounds)]


TURNS = Command(
    name="turns",
    help="raw CLIs, the hub cold, warm and reused, bursts",
    parts=(
        Part("claude", partial(measure_turns, "claude"), cli="claude"),
        Part("gemini", partial(measure_turns, "gemini"), cli="gemini"),
        Part("burst", measure_bursts, cli="claude"),
    ),
    full=Sizes(runs=9, rounds=1, count=FULL_COUNT),
    quick=Sizes(runs=2, rounds=1, count=10),
    flags=("--server",),
)
