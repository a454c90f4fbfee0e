"""The acp adapter with agents as they were recorded: gemini 0.61.0 and claude-agent-acp 0.100.0."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path

from providers.adapters.acp import AcpAdapter
from providers.engine import Engine
from providers.events import Event, Message, TextDelta, Turn, TurnFinished, TurnStarted, Usage
from providers.pool_limits import PoolLimits
from providers.provider_config import ProviderConfig
from tests.transcripts import player


async def answer_of(transcript: str, folder: Path) -> list[Event]:
    config = ProviderConfig(adapter=AcpAdapter, name=transcript, command=player(transcript), pool=PoolLimits(floor=0))
    engine = Engine([config], data_folder=folder, environ={"PATH": os.environ["PATH"]}, max_starts=1)
    try:
        await engine.start()
        turn = Turn((Message("user", ("hi",)),), owner="alice", caller="alice")
        async with asyncio.timeout(10), aclosing(engine.provider(transcript).run(turn)) as events:
            return [event async for event in events]
    finally:
        await engine.close(grace_s=0)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_answer_of_claude_as_recorded(tmp_path: Path) -> None:
    events = await answer_of("acp_claude", tmp_path)
    assert events[0] == TurnStarted("default", provider="acp_claude", start="cold")
    assert text_of(events) == "echo: hi"
    assert events[-1] == TurnFinished("stop", Usage(12_527, 2, cost_usd=0.050148))


async def test_answer_of_gemini_as_recorded(tmp_path: Path) -> None:
    events = await answer_of("acp_gemini", tmp_path)
    assert events[0] == TurnStarted("gemini-2.5-flash", provider="acp_gemini", start="cold")
    assert text_of(events).endswith("</session_context>\none")
    assert events[-1] == TurnFinished("stop", Usage(163, 78))
