"""A session's next turn, in the process that was left with the conversation, beside a raw claude for each request."""

from __future__ import annotations

import aiohttp

from bench.clis import MODELS, hub_env, raw_clis
from bench.command import Setup
from bench.report import Section
from bench.stats import Taken
from bench.through_hub import client_of, fresh_hub, request_body
from bench.ways import PROMPT, TURN_TIMEOUT_S, Run, Way, hub_turn, raw_run, run_rounds, section_of
from tests.hub import HubProcess

GATES = {"kept": 0.2}


async def measure_kept(setup: Setup) -> list[Section]:
    """Rounds of a raw turn and a session's second one. Raises WrongRun, also if that is not answered as kept."""
    path = setup.clis["claude"]
    with fresh_hub(setup.folder, hub_env("claude", path, setup.vendor_url)) as hub:
        async with client_of(hub, timeout_s=TURN_TIMEOUT_S) as client:
            ways = [Way(cli.name, raw_run(cli, setup.folder)) for cli in raw_clis("claude", path, setup.vendor_url)]
            ways.append(Way("hub, a session's next turn", _second_turn(hub, client), "kept"))
            await run_rounds("kept", ways, setup.sizes.runs)
    return [section_of("claude, a session's next turn", ways, GATES)]


def _second_turn(hub: HubProcess, client: aiohttp.ClientSession) -> Run:
    async def run() -> tuple[Taken, float]:
        body = request_body(PROMPT, provider="claude", model=MODELS["claude"])
        first, cpu_s = await hub_turn(hub, client, body)
        if first.error:
            return first, cpu_s
        return await hub_turn(hub, client, body, session=first.session)

    return run
