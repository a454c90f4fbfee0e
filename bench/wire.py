"""What translating costs: requests and answers of the dialects in this process, and a tool's round trip in a hub."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from bench.clis import MODELS, hub_env
from bench.command import Command, Part, Setup, Sizes, WrongRun
from bench.report import Gate, Section, ms, progress, ratio
from bench.stats import median
from bench.through_hub import client_of, fresh_hub
from bench.ways import TURN_TIMEOUT_S

REQUEST_MS, CHUNK_US = 0.3, 30.0
ROUND_TRIP = 1.3

SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where."},
        "unit": {"type": ["string", "null"], "enum": ["C", "F", None]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
ARGUMENTS = '{"city": "Bern", "unit": null}'


def _tools(count: int) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": f"get_weather_{n}", "description": "Tells it.", "parameters": SCHEMA}}
        for n in range(count)
    ]


def _agent_messages(rounds: int) -> list[dict[str, Any]]:
    """What an agent sends after so many calls: everything, again."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather? " * 10}]
    for n in range(rounds):
        call = {"id": f"call_{n}", "type": "function", "function": {"name": "get_weather_0", "arguments": ARGUMENTS}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{n}", "content": "21 degrees"},
        ]
    return messages


# --- in this process -------------------------------------------------------------------------------------------------


async def measure_translation(setup: Setup) -> list[Section]:
    # Django's settings are read where these are imported, and only this part needs them.
    from bench.translation import STREAMS, requests_of

    rows, gates, data = [], [], {}
    for name, (work, is_judged) in requests_of(_tools, _agent_messages).items():
        spent_ms = _cpu_of(work, setup.sizes.requests) * 1_000
        rows.append([name, f"{spent_ms:.3f} ms"])
        data[name] = spent_ms
        gates.append(Gate.at_most(name, spent_ms, REQUEST_MS, " ms", is_judged=is_judged))
    for name, make in STREAMS.items():
        work, chunks = make()
        spent_us = _cpu_of(work, max(1, setup.sizes.requests // 20)) * 1_000_000 / chunks
        rows.append([name, f"{spent_us:.1f} us"])
        data[name] = spent_us
        gates.append(Gate.at_most(name, spent_us, CHUNK_US, " us"))
    title = "translation, CPU of this process: a request read and its answer written, a chunk written"
    return [Section(title=title, head=["", "each"], rows=rows, gates=gates, data=dict(data))]


def _cpu_of(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one, the least of five series: the others had company."""
    work()
    series = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            work()
        series.append((time.process_time() - began) / count)
    return min(series)


# --- through a hub ---------------------------------------------------------------------------------------------------


async def measure_round_trip(setup: Setup) -> list[Section]:
    """Two plain turns and a tool's round trip in turns, with the whole history as agents send it. Raises WrongRun."""
    env = hub_env("claude", setup.clis["claude"], setup.vendor_url)
    plain: list[float] = []
    tool: list[float] = []
    # A hub for each: a caller's tools stay what they are, and a process need not be told of them with every turn.
    with (
        fresh_hub(setup.folder, env, server=setup.server) as hub,
        fresh_hub(setup.folder, env, server=setup.server) as tools_hub,
    ):
        async with (
            client_of(hub, timeout_s=TURN_TIMEOUT_S) as client,
            client_of(tools_hub, timeout_s=TURN_TIMEOUT_S) as tools_client,
        ):
            for number in range(setup.sizes.runs + 3):
                progress(f"round trips: {number} of {setup.sizes.runs + 2}")
                taken = [await _two_turns(client, number, has_tool=False)]
                taken.append(await _two_turns(tools_client, number, has_tool=True))
                if number >= 3:  # until then processes start
                    plain.append(taken[0])
                    tool.append(taken[1])
    found = median(tool) / median(plain)
    return [
        Section(
            title=f"a tool's round trip and two plain turns, warm claude, medians of {len(tool)} interleaved runs",
            head=["", "both turns ms", "/ plain"],
            rows=[["two plain turns", ms(median(plain)), ""], ["a tool's round trip", ms(median(tool)), ratio(found)]],
            gates=[Gate.at_most("a tool's round trip / two plain turns", found, ROUND_TRIP, "x")],
            data={"plain": plain, "tool": tool},
        )
    ]


async def _two_turns(client: aiohttp.ClientSession, number: int, *, has_tool: bool) -> float:
    """Seconds for a question and what follows: an answer and a question to it, or a call and its result."""
    wish = {"calls": [{"name": "get_weather_0", "input": json.loads(ARGUMENTS)}], "text": "warm", "chunks": 1}
    question = f"{number} [[{json.dumps(wish)}]]" if has_tool else f"{number} [[text=warm chunks=1]]"
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    began = time.monotonic()
    said = await _ask(client, messages, has_tool=has_tool)
    messages.append(said)
    if has_tool:
        messages.append({"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "21 degrees"})
    else:
        messages.append({"role": "user", "content": f"{number} and now? [[text=warm chunks=1]]"})
    last = await _ask(client, messages, has_tool=has_tool)
    if last["content"] != "warm":
        raise WrongRun(f"not the right answer: {last}")
    return time.monotonic() - began


async def _ask(client: aiohttp.ClientSession, messages: list[dict[str, Any]], *, has_tool: bool) -> dict[str, Any]:
    body = {"provider": "claude", "model": MODELS["claude"], "messages": messages}
    if has_tool:
        body["tools"] = _tools(1)
    async with client.post("/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise WrongRun(f"{response.status}: {(await response.text())[:200]}")
        answer = await response.json()
    message: dict[str, Any] = answer["choices"][0]["message"]
    return message


WIRE = Command(
    name="wire",
    help="what translating requests and answers costs, and a tool's round trip",
    parts=(Part("translation", measure_translation), Part("round trip", measure_round_trip, cli="claude")),
    full=Sizes(runs=30, requests=2_000),
    quick=Sizes(runs=3, requests=100),
    flags=("--server",),
)
