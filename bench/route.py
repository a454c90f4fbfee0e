"""Routing: what a decision costs, and what a provider that fails at once adds to the first token of the next one."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp

from bench.command import Command, Part, Setup, Sizes, WrongRun
from bench.load import MARK, REQUEST_TIMEOUT_S, STREAMED, hub_body
from bench.report import Gate, Section, ms, number, progress
from bench.stats import Taken, median, percentile
from bench.through_hub import Json, ask, client_of, fresh_hub
from providers.adapters.echo import EchoAdapter
from providers.engine import Engine
from providers.events import Message, Turn
from providers.nature import nature_of
from providers.pool_limits import PoolLimits
from providers.provider_config import ProviderConfig
from providers.route import Wish
from providers.router import decide
from providers.rules import Rule, Target
from providers.telling import describe

MOST_DECISION_MS = 1.0
MOST_ADDED_S = 0.5
RULES = 50
PROVIDERS = 10

PROSE = "The old harbour lay quiet in the morning, and nobody had yet opened the market halls. "
CODE = (
    "def total(items):\n    result = 0\n    for item in items:\n        result += item.price()\n    return result\n\n"
)
PROMPTS: dict[str, tuple[str, int]] = {
    "one line": (PROSE, 1),
    "prose, 100 kB": (PROSE * 1_200, 1),
    "code, 100 kB": (CODE * 1_000, 1),
    "Chinese, 1 MB": ("请用两句话总结这封邮件。" * 28_000, 1),
    "brackets, 1 MB": ("if (" * 250_000, 1),
    "conversation of 1,001 messages": (PROSE, 1_001),
}


# --- the decision ----------------------------------------------------------------------------------------------------


async def measure_decision(setup: Setup) -> list[Section]:
    """Every prompt in turn, among rules of which each fails by its last condition alone."""
    engine = Engine(_providers(), rules=_rules(), data_folder=setup.folder, environ={}, max_starts=1)
    await engine.start()
    try:
        turns = {name: _turn(text, messages) for name, (text, messages) in PROMPTS.items()}
        taken: dict[str, list[float]] = {name: [] for name in turns}
        for name, turn in turns.items():
            progress(f"decision: {name}")
            _decision_s(engine, turn)  # the first one loads the languages
            taken[name] += [_decision_s(engine, turn) for _ in range(setup.sizes.requests)]
    finally:
        await engine.close(grace_s=0)
    return [_decision_section(taken)]


def _providers() -> list[ProviderConfig]:
    """Such as `auto` may choose, without a process of their own."""
    infos = [
        replace(EchoAdapter.info, name=f"provider-{at}", by_name_only=False, context_tokens=2_000_000)
        for at in range(PROVIDERS)
    ]
    adapters = [type("Adapter", (EchoAdapter,), {"info": info}) for info in infos]
    return [ProviderConfig(adapter, pool=PoolLimits(floor=0)) for adapter in adapters]


def _rules() -> tuple[Rule, ...]:
    now = datetime.now(UTC)
    rule = Rule(
        name="",
        targets=tuple(Target(f"provider-{at}") for at in range(PROVIDERS)),
        least_tokens=1,
        most_tokens=10_000_000,
        languages=("ar", "en", "zh", "nl", "fi"),
        has_images=False,
        has_tools=False,
        wants_json=False,
        models=("gpt-*", "auto"),
        keys=("n8n", "bench"),
        session_providers=("provider-1", "provider-2"),
        hours=f"{now:%H:%M}-{now + timedelta(hours=8):%H:%M}",
        time_zone="Europe/Berlin",
        # Yesterday's.
        days=((now - timedelta(days=1)).weekday(),),
    )
    return tuple(replace(rule, name=f"rule {at}") for at in range(RULES))


def _turn(text: str, messages: int) -> Turn:
    roles = ("user", "assistant")
    return Turn(tuple(Message(roles[at % 2], (text,)) for at in range(messages)))  # type: ignore[arg-type]


def _decision_s(engine: Engine, turn: Turn) -> float:
    """Processor seconds from the messages to the header's line."""
    wish = Wish(stays_with="provider-2", key="bench")
    began_s = time.thread_time()
    decision = decide(engine, wish, nature_of(turn, with_languages=True))
    describe(decision)
    taken_s = time.thread_time() - began_s
    if decision.reason != "session" or len(decision.choices) != PROVIDERS:
        raise WrongRun(f"decision: {describe(decision)}, {len(decision.choices)} choices")
    return taken_s


def _decision_section(taken: dict[str, list[float]]) -> Section:
    worst_ms = max(percentile(each, 99) for each in taken.values()) * 1_000
    return Section(
        title=f"route, decision: {RULES} rules that nearly match, {PROVIDERS} providers, languages told",
        head=["", "p50 CPU ms", "p99 CPU ms", "decisions"],
        rows=[[name, ms(median(each)), ms(percentile(each, 99)), str(len(each))] for name, each in taken.items()],
        gates=[Gate.at_most("route, decision: p99 CPU, the worst prompt", worst_ms, MOST_DECISION_MS, " ms")],
        data=dict(taken),
    )


# --- failover --------------------------------------------------------------------------------------------------------

# Says its version, and ends when it is to work.
DYING = '#!/bin/sh\ncase "$*" in *--version*) echo 0.1 ;; *) exit 1 ;; esac\n'
WARM_UP = 8
BLOCKS = 10


@dataclass(frozen=True, slots=True)
class Way:
    """How the warm provider is reached: named itself, or after `first` has failed."""

    name: str
    first: str

    @property
    def body(self) -> Json:
        body = hub_body(STREAMED)
        return body if self.first == "echo" else body | {"provider": self.first, "model": "", "fallback": ["echo"]}


DIRECT = Way("echo, warm", "echo")
WAYS = (DIRECT, Way("after one that is not installed", "claude"), Way("after one whose processes die", "gemini"))


async def measure_failover(setup: Setup) -> list[Section]:
    """Raises WrongRun if a request fails or is not answered by the warm provider."""
    per_block = max(setup.sizes.requests // BLOCKS // 10, 2)
    taken: dict[str, list[Taken]] = {way.name: [] for way in WAYS}
    with fresh_hub(setup.folder, _failing_env(setup.folder)) as hub:
        async with client_of(hub, timeout_s=REQUEST_TIMEOUT_S) as client:
            for way in WAYS:
                for _ in range(WARM_UP):
                    await _first_token(client, way)
            for block in range(BLOCKS):
                progress(f"failover: block {block + 1} of {BLOCKS}")
                for way in WAYS:
                    taken[way.name] += [await _first_token(client, way) for _ in range(per_block)]
    return [_failover_section(taken)]


def _failing_env(folder: Path) -> dict[str, str]:
    dying = folder / "dying"
    dying.write_text(DYING)
    dying.chmod(0o700)
    return {
        "HUB_PROVIDERS": "claude,gemini,echo",
        "HUB_CLAUDE_BIN": "/nowhere/claude",
        "HUB_GEMINI_BIN": str(dying),
        "GEMINI_API_KEY": "dummy-key-of-the-benchmark",
    }


async def _first_token(client: aiohttp.ClientSession, way: Way) -> Taken:
    taken = await ask(client, way.body, expect=MARK)
    if taken.error:
        raise WrongRun(f"failover, {way.name}: {taken.error}")
    return taken


def _failover_section(taken: dict[str, list[Taken]]) -> Section:
    firsts = {name: [it.first_s for it in each] for name, each in taken.items()}
    base_s = median(firsts[DIRECT.name])
    rows = [
        [
            name,
            *(ms(median(each)), ms(percentile(each, 99))),
            *(ms(median(each) - base_s), ms(max(each) - base_s)),
            number(len(each)),
        ]
        for name, each in firsts.items()
    ]
    worst_s = max(max(each) - base_s for each in firsts.values())
    return Section(
        title="route, failover: to the first token, as a client sees it",
        head=["", "p50 ms", "p99 ms", "added p50 ms", "added at most ms", "requests"],
        rows=rows,
        note="Added: more than the warm provider's p50 when it is named itself.",
        gates=[Gate.at_most("route, failover: added to the first token, the worst", worst_s, MOST_ADDED_S, " s")],
        data=dict(firsts),
    )


ROUTE = Command(
    name="route",
    help="routing: what a decision costs, and what a failing provider adds to the first token of the next",
    parts=(Part("decision", measure_decision), Part("failover", measure_failover)),
    full=Sizes(requests=2_000),
    quick=Sizes(requests=200),
)
