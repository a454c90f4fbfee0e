"""The acp adapter with an agent that misbehaves on command. What it does with a real one is shown in tests/clis."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from providers import errors
from providers.adapters.acp import AcpAdapter
from providers.engine import Engine
from providers.events import Event, Message, ReasoningDelta, TextDelta, Turn, TurnFinished, TurnStarted, Usage
from providers.pool_limits import PoolLimits
from providers.provider import Provider
from providers.provider_config import ProviderConfig
from providers.worker import Deadlines
from tests.providers import fake_agent
from tests.providers.fakes import until

ONE = PoolLimits(floor=0, ceiling=1, kept=0, turns=100, watch_s=0.2)
IN_TIME = Deadlines(ready_s=2, first_event_s=2, silence_s=2)
SECRET = "a-secret-of-the-hub"
KEY = "sk-agents-own-key-1234"


@asynccontextmanager
async def agent(folder: Path, habit: str = "", **config: Any) -> AsyncIterator[Provider]:
    """A provider by another name than its adapter's, with the fake agent as its command."""
    command = (sys.executable, "-I", fake_agent.__file__, habit, str(folder))
    given = {"deadlines": IN_TIME, "pool": ONE, **config}
    settings = ProviderConfig(adapter=AcpAdapter, name="mine", command=command, **given)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "HUB_SECRET_KEY": SECRET, "AGENT_KEY": KEY}
    engine = Engine([settings], data_folder=folder / "data", environ=environ, max_starts=2)
    try:
        await engine.start()
        yield engine.provider("mine")
    finally:
        await engine.close(grace_s=0)


@pytest.fixture
async def mine(tmp_path: Path) -> AsyncIterator[Provider]:
    async with agent(tmp_path) as provider:
        yield provider


def turn(text: str, *before: Message, owner: str = "alice", **fields: Any) -> Turn:
    return Turn((*before, Message("user", (text,))), owner=owner, caller=owner, **fields)


async def run(provider: Provider, question: Turn) -> list[Event]:
    async with asyncio.timeout(10), aclosing(provider.run(question)) as events:
        return [event async for event in events]


async def ask(provider: Provider, text: str, **fields: Any) -> str:
    events = await run(provider, turn(text, **fields))
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def where(provider: Provider, owner: str = "alice") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await ask(provider, "do=where", owner=owner))
    return found


def left_in(provider: Provider, words: str) -> list[Path]:
    root = provider._shared.workers_folder  # where the workers' private folders are
    return [path for path in root.rglob("*") if path.is_file() and words.encode() in path.read_bytes()]


# --- an answer ---------------------------------------------------------------------------------------------------


async def test_answer_begins_with_its_start_and_ends_with_its_end(mine: Provider) -> None:
    started, text, finished = await run(mine, turn("hello"))
    assert started == TurnStarted("small", provider="mine", start="cold")
    assert isinstance(text, TextDelta)
    assert text.text.endswith("[user]\n| hello")
    assert finished == TurnFinished("stop", None)


async def test_thoughts_are_reasoning(mine: Provider) -> None:
    events = await run(mine, turn("do=think"))
    assert events[1:3] == [ReasoningDelta("hm"), TextDelta("so")]


async def test_answer_without_a_word_still_starts_and_ends(mine: Provider) -> None:
    events = await run(mine, turn("do=silent"))
    assert [type(event) for event in events] == [TurnStarted, TurnFinished]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [("max_tokens", "length"), ("max_turn_requests", "length"), ("refusal", "content_filter"), ("end_turn", "stop")],
)
async def test_reason_is_the_agents(mine: Provider, stop: str, reason: str) -> None:
    events = await run(mine, turn(f"do=stop={stop}"))
    assert events[-1] == TurnFinished(reason, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("stop=cancelled", errors.StreamCut),
        ("stop=bored", errors.ProtocolBroken),
        ("nothing=max_tokens", errors.ContextTooLong),
        ("nothing=max_turn_requests", errors.ProtocolBroken),
    ],
)
async def test_end_that_is_no_answer_is_an_error(mine: Provider, what: str, error: type[errors.ProviderError]) -> None:
    with pytest.raises(error):
        await run(mine, turn(f"do={what}"))
    assert await ask(mine, "still there?")


async def test_usage_counts_the_whole_prompt_and_what_it_cost(mine: Provider) -> None:
    events = await run(mine, turn("do=usage"))
    assert events[-1] == TurnFinished("stop", Usage(13, 3, cached_tokens=5, cost_usd=0.25))


async def test_updates_the_hub_has_no_use_for_and_those_of_other_sessions_are_skipped(mine: Provider) -> None:
    assert await ask(mine, "do=plan") == "mine"
    assert await ask(mine, "do=stranger") == "mine"


# --- models ------------------------------------------------------------------------------------------------------


async def test_model_of_the_caller_is_asked_of_the_agent(mine: Provider) -> None:
    (started, *_) = await run(mine, turn("hello", model="large"))
    assert isinstance(started, TurnStarted)
    assert started.model == "large"


async def test_default_leaves_the_model_to_the_agent(mine: Provider) -> None:
    (started, *_) = await run(mine, turn("hello", model="default"))
    assert isinstance(started, TurnStarted)
    assert started.model == "small"


@pytest.mark.parametrize("habit", ["", "one-model", "options"])
async def test_model_the_agent_does_not_take_is_unknown(tmp_path: Path, habit: str) -> None:
    async with agent(tmp_path, habit) as provider:
        with pytest.raises(errors.ModelUnknown):
            await run(provider, turn("hello", model="huge"))
        assert await ask(provider, "hello")


# --- nothing is within reach -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["read", "write", "terminal"])
async def test_client_has_no_files_and_no_terminal_for_the_agent(mine: Provider, what: str) -> None:
    assert json.loads(await ask(mine, f"do={what}"))["code"] == -32601


async def test_permission_is_denied_and_the_agent_goes_on(mine: Provider) -> None:
    assert json.loads(await ask(mine, "do=permission")) == {"outcome": {"outcome": "selected", "optionId": "no"}}


async def test_permission_without_a_way_to_say_no_is_cancelled(mine: Provider) -> None:
    assert json.loads(await ask(mine, "do=permission-only")) == {"outcome": {"outcome": "cancelled"}}


async def test_answer_in_which_a_tool_has_run_never_reaches_the_caller(mine: Provider) -> None:
    """Hub rule: nothing a caller sends makes a CLI read a file or run a command."""
    before = await where(mine)
    with pytest.raises(errors.ProtocolBroken, match="tool"):
        await run(mine, turn("do=tool"))
    await until(lambda: not psutil.pid_exists(before["pid"]))
    assert (await where(mine))["pid"] != before["pid"]


async def test_environment_is_an_allow_list_with_a_private_home(mine: Provider, tmp_path: Path) -> None:
    found = await where(mine)
    assert set(found["env"]) - {"LC_CTYPE"} == {"PATH", "LANG", "TERM", "NO_COLOR", "HOME", "TMPDIR"}
    for folder in (found["env"]["HOME"], found["env"]["TMPDIR"], found["cwd"]):
        assert Path(folder).is_relative_to(tmp_path / "data/run/workers")


async def test_owner_may_name_more_variables_and_their_own_home(tmp_path: Path) -> None:
    async with agent(tmp_path, extra_env=("AGENT_KEY", "HOME")) as provider:
        found = await where(provider)
        assert found["env"]["AGENT_KEY"] == KEY
        assert found["env"]["HOME"] == str(tmp_path)
        await ask(provider, "hello")
    assert (tmp_path / "state").exists()  # what is the owner's is never removed


async def test_owners_variable_never_stands_in_an_error(tmp_path: Path) -> None:
    async with agent(tmp_path, extra_env=("AGENT_KEY",)) as provider:
        with pytest.raises(errors.WorkerCrashed) as caught:
            await run(provider, turn("do=leave"))
    assert KEY not in str(caught.value)


# --- one conversation after the other ----------------------------------------------------------------------------


async def test_next_conversation_finds_nothing_of_the_last_one(mine: Provider) -> None:
    first = await where(mine)
    await ask(mine, "the former words", system="the former orders")
    second = await where(mine)
    assert second["pid"] == first["pid"]
    await until(lambda: "0 busy, 0 tidying" in repr(mine.pool))
    for words in ("former words", "former orders", "do=where"):
        assert left_in(mine, words) == []


async def test_two_owners_never_share_a_process(mine: Provider) -> None:
    assert (await where(mine))["pid"] != (await where(mine, owner="bob"))["pid"]


async def test_sessions_are_closed_where_the_agent_offers_it(tmp_path: Path) -> None:
    async with agent(tmp_path, "tidy") as provider:
        await ask(provider, "one")
        await ask(provider, "two")
    assert (tmp_path / "notes").read_text().split()[:2] == ["session/close", "session/delete"]


async def test_agent_that_needs_what_it_wrote_is_replaced_and_no_turn_fails(tmp_path: Path) -> None:
    async with agent(tmp_path, "attached") as provider:
        pids = {(await where(provider))["pid"] for _ in range(3)}
    assert len(pids) == 3


async def test_answer_given_up_costs_the_process(mine: Provider) -> None:
    before = (await where(mine))["pid"]
    answer = mine.run(turn("do=hang"))
    async with asyncio.timeout(10):
        assert isinstance(await anext(answer), TurnStarted)
        await answer.aclose()
    await until(lambda: not psutil.pid_exists(before))
    assert (await where(mine))["pid"] != before


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("garbage", errors.ProtocolBroken),
        ("list", errors.ProtocolBroken),
        ("die", errors.WorkerCrashed),
        ("exit", errors.WorkerCrashed),
        ("hang", errors.TimedOut),
    ],
)
async def test_broken_agent_is_an_error_and_the_next_turn_works(
    mine: Provider, what: str, error: type[errors.ProviderError]
) -> None:
    await ask(mine, "hello")
    with pytest.raises(error):
        await run(mine, turn(f"do={what}"))
    assert (await ask(mine, "once more")).endswith("| once more")


@pytest.mark.parametrize(
    ("habit", "error", "words"),
    [
        ("newer", errors.CrashLoop, "version 2"),
        ("mute", errors.CrashLoop, "not ready"),
        ("logged-out", errors.NeedsLogin, "Authentication required"),
    ],
)
async def test_agent_that_does_not_get_ready_says_why(
    tmp_path: Path, habit: str, error: type[errors.ProviderError], words: str
) -> None:
    async with agent(tmp_path, habit, deadlines=Deadlines(ready_s=0.5)) as provider:
        with pytest.raises(error, match=words):
            await run(provider, turn("hello"))


async def test_agent_that_is_logged_out_says_how_to_mend_it(tmp_path: Path) -> None:
    async with agent(tmp_path, "logged-out") as provider:
        with pytest.raises(errors.NeedsLogin) as caught:
            await run(provider, turn("hello"))
        assert caught.value.mend == AcpAdapter.info.mend_login


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": -32000, "message": "no"}, errors.NeedsLogin),
        ({"code": 429, "message": "slow down"}, errors.RateLimited),
        ({"code": -32603, "message": "API Error: 529 overloaded"}, errors.Overloaded),
        ({"code": -32603, "message": "Internal error", "data": {"details": "rate limit hit"}}, errors.RateLimited),
        ({"code": -32603, "message": "Internal error", "data": "please log in first"}, errors.NeedsLogin),
        ({"code": -32603, "message": "prompt is too long"}, errors.ContextTooLong),
        ({"code": 413, "message": "too much"}, errors.RequestTooLarge),
        ({"code": -32603, "message": "Internal error"}, errors.ProtocolBroken),
    ],
)
async def test_failed_prompt_is_the_error_it_means(
    mine: Provider, error: dict[str, Any], expected: type[errors.ProviderError]
) -> None:
    sent = json.dumps(error, separators=(",", ":")).replace(" ", "_")
    with pytest.raises(errors.ProviderError) as caught:
        await run(mine, turn(f"do=error={sent}"))
    assert type(caught.value) is expected


@pytest.mark.parametrize("command", [(), ("no-such-agent", "--acp")])
async def test_provider_without_its_program_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    settings = ProviderConfig(adapter=AcpAdapter, name="mine", command=command)
    engine = Engine([settings], data_folder=tmp_path, environ={"PATH": "/usr/bin:/bin"}, max_starts=1)
    try:
        await engine.start()
        with pytest.raises(errors.NotInstalled):
            await run(engine.provider("mine"), turn("hello"))
    finally:
        await engine.close(grace_s=0)
