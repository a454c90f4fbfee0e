"""One process, many conversations: what the vendor receives shows that none of them knows of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from providers.adapters.claude_driver import ClaudeDriver
from providers.errors import RateLimited, WorkerCrashed
from providers.pool_limits import PoolLimits
from tests.clis.rig import REAL, Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONVERSATIONS = 50


@pytest_asyncio.fixture(params=REAL, scope="module", loop_scope="module")
async def roomy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Room for three processes."""
    limits = PoolLimits(floor=0, ceiling=3)
    async with open_rig(request.param, tmp_path_factory.mktemp(request.param), pool=limits) as opened:
        yield opened


async def test_fifty_conversations_in_one_process_know_nothing_of_each_other(rig: Rig) -> None:
    pid = await rig.pid()
    for number in range(CONVERSATIONS):
        said = [f"words-{number}-{index}" for index in range(1 + 2 * (number % 4))]
        messages = tuple(user(text) if index % 2 == 0 else assistant(text) for index, text in enumerate(said))
        answer = await rig.ask(*messages, script=Script(text=f"answer-{number}"))
        assert rig.upstream(answer).messages == messages
        assert answer.text == f"answer-{number}"
        assert answer.started.start == "reused"
        body = str(answer.received[0].body)
        assert body.count("words-") == len(said)
        assert "answer-" not in body
    assert rig.pids() == {pid}


async def test_a_process_is_never_shared_by_two_owners(roomy: Rig) -> None:
    of: dict[str, set[int]] = {}
    for owner in ("alice", "bob", "alice", "bob"):
        before = roomy.pids()
        answer = await roomy.ask(user(f"this is {owner}"), owner=owner)
        other = "alice" if owner == "bob" else "bob"
        assert other not in str(answer.received[0].body)
        of.setdefault(owner, set()).update(roomy.pids() - before)
        assert answer.started.start == ("cold" if len(roomy.pids() - before) else "reused")
    assert of["alice"]
    assert of["bob"]
    assert not of["alice"] & of["bob"]


async def test_a_full_pool_replaces_the_process_of_another_owner(rig: Rig) -> None:
    await rig.ask(user("this is alice"), owner="alice")
    await rig.settled()
    alices = rig.pids()
    answer = await rig.ask(user("this is bob"), owner="bob")
    assert answer.started.start == "cold"
    assert "alice" not in str(answer.received[0].body)
    assert not rig.pids() & alices


async def test_the_system_prompt_of_one_turn_is_never_another_ones(roomy: Rig) -> None:
    """claude keeps the first system prompt of a process for good, gemini reads it anew for every turn."""
    for system in ("You are a pirate.", "You are a nun.", "", "You are a pirate."):
        upstream = roomy.upstream(await roomy.ask(user("hello"), system=system))
        assert upstream.system == system
        assert upstream.messages == (user("hello"),)


async def test_turns_at_the_same_time_keep_to_themselves(roomy: Rig) -> None:
    roomy.vendor.clear()
    script = Script(chunks=4, delay_s=0.01)
    turns = [roomy.turn(user(f"words-{number}"), system=f"system-{number % 2}") for number in range(12)]
    roomy.vendor.script = script

    async def text_of(number: int) -> str:
        answer = await roomy.run(turns[number], script, keep_record=True)
        return answer.text

    texts = await asyncio.gather(*(text_of(number) for number in range(12)))
    assert texts == [f"echo: words-{number}" for number in range(12)]
    seen = [roomy.dialect.read(received) for received in roomy.vendor.chats()]
    assert {(it.system, it.messages) for it in seen} == {(turn.system, turn.messages) for turn in turns}
    assert len(seen) == len(turns)


async def test_failed_and_cancelled_turns_leave_nothing_to_the_next_in_the_same_process(rig: Rig) -> None:
    pid = await rig.pid()
    for number in range(5):
        failed = await rig.ask(user("former"), assistant("words"), user(f"former {number}"), script=Script(status=429))
        assert isinstance(failed.error, RateLimited)
        rig.vendor.clear()
        cancelled = asyncio.create_task(rig.run(rig.turn(user("former")), Script(chunks=9, delay_s=0.05)))
        await rig.vendor.wait_for(1)
        cancelled.cancel()
        await asyncio.wait({cancelled}, timeout=5)
        await rig.settled()
        answer = await rig.ask(user(f"hello {number}"))
        assert rig.upstream(answer).messages == (user(f"hello {number}"),)
    assert rig.pids() == {pid}


async def test_words_the_assistant_began_with_reach_nobody_when_the_turn_is_given_up_after_them(
    claude: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no line of the user's before them that a process could be rewound to."""
    said = asyncio.Event()

    async def hang(*args: object, **options: object) -> None:
        said.set()
        await asyncio.Event().wait()

    await claude.pid()
    with monkeypatch.context() as patch:
        patch.setattr(ClaudeDriver, "_say", hang)
        given_up = asyncio.create_task(claude.run(claude.turn(assistant("the secret"), user("hello"))))
        await claude.soon(said.wait())
        given_up.cancel()
        await asyncio.wait({given_up}, timeout=5)
    assert claude.upstream(await claude.ask(user("hello"))).messages == (user("hello"),)


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_a_process_that_dies_between_two_turns_is_replaced_unnoticed(rig: Rig, end: str) -> None:
    process = psutil.Process(await rig.pid())
    await rig.settled()
    process.kill() if end == "killed" else process.terminate()
    await rig.pool_shows(": 0 idle, 0 busy, 0 tidying, 0 retiring")
    answer = await rig.ask(user("hello"))
    assert rig.upstream(answer).messages == (user("hello"),)
    assert rig.pids() != {process.pid}


async def test_a_process_killed_within_a_turn_fails_that_turn_alone(rig: Rig) -> None:
    process = psutil.Process(await rig.pid())
    await rig.settled()
    rig.vendor.script = Script(chunks=9, delay_s=0.2)
    answer = rig.provider.run(rig.turn(user("hello")))
    await rig.first_word(answer)
    process.kill()
    with pytest.raises(WorkerCrashed):
        async for _ in answer:
            pass
    assert rig.upstream(await rig.ask(user("again"))).messages == (user("again"),)


async def test_without_reuse_every_turn_has_a_process_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """HUB_CLAUDE_REUSE=off, for those who want none of the CLI's undocumented messages."""
    async with open_rig("claude", tmp_path_factory.mktemp("claude"), may_reuse=False) as rig:
        seen: list[set[int]] = []
        for number in range(3):
            answer = await rig.ask(user(f"hello {number}"))
            assert answer.started.start == "cold"
            assert rig.upstream(answer).messages == (user(f"hello {number}"),)
            seen.append(rig.pids())
        assert len(set.union(*seen)) == 3
