"""A process left with its conversation for the next turn: what the vendor receives then, and never else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import psutil
import pytest
import pytest_asyncio

from providers.adapters import claude_driver
from providers.errors import ProtocolBroken
from providers.events import Message, Sampling
from providers.history_digest import history_digest
from providers.pool_limits import PoolLimits
from tests.clis.rig import Answer, Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Room for two processes, both of which may be kept."""
    limits = PoolLimits(floor=0, ceiling=2, kept=2, turns=100_000, watch_s=0.2)
    async with open_rig("claude", tmp_path_factory.mktemp("claude"), pool=limits) as opened:
        yield opened


async def begin(rig: Rig, number: int, text: str = "the answer") -> list[Message]:
    """A conversation of one turn, and the history its next one has."""
    question = user(f"the question {number}")
    answer = await rig.ask(question, script=Script(text=text))
    assert rig.upstream(answer).messages == (question,)
    assert answer.text == text
    return [question, assistant(text)]


def assert_kept(rig: Rig, answer: Answer, *messages: Message) -> None:
    assert answer.started.start == "kept"
    assert rig.upstream(answer).messages == messages


def assert_replayed(rig: Rig, answer: Answer, *messages: Message) -> None:
    assert answer.started.start in ("reused", "cold")
    assert rig.upstream(answer).messages == messages


def held_by(rig: Rig, messages: list[Message]) -> set[int]:
    """The processes that could go on with such a turn."""
    assert rig.provider.pool is not None
    wanted = history_digest(rig.turn(*messages))
    return {worker.pid for worker in rig.provider.pool.roster if worker.memory == wanted}


# --- the next turn ---------------------------------------------------------------------------------------------------


async def test_every_next_turn_continues_in_the_process_and_the_vendor_receives_all_of_it_once(rig: Rig) -> None:
    history = await begin(rig, 1)
    pids = rig.pids()
    for number in range(4):
        history.append(user(f"further {number}"))
        answer = await rig.ask(*history, script=Script(text=f"so {number}"))
        assert_kept(rig, answer, *history)
        history.append(assistant(f"so {number}"))
    assert rig.pids() == pids


@pytest.mark.parametrize(
    "text",
    ["é ß 漢字 🜚", "  well\n\n", "\nwell", "/cost", "No response requested.", "x" * 100_000],
    ids=["unicode", "white space around", "line break first", "command", "words of the CLI's own", "long"],
)
async def test_an_answer_is_what_was_streamed_in_the_next_turn_too(rig: Rig, text: str) -> None:
    history = await begin(rig, 2, text)
    assert_kept(rig, await rig.ask(*history, user("go on")), *history, user("go on"))


async def test_an_answer_with_thoughts_is_continued_with_them(rig: Rig) -> None:
    """As the vendor wants it; a caller never sends them back."""
    asked = await rig.ask(user("think"), script=Script(text="so be it", thinking="Let me see."))
    history = (user("think"), assistant(asked.text), user("go on"))
    answer = await rig.ask(*history, sampling=Sampling(temperature=0.5))
    assert answer.started.start == "kept"
    roles = [message["role"] for message in answer.received[0].body["messages"] if message["role"] != "system"]
    assert roles == ["user", "assistant", "user"]
    assert str(answer.received[0].body).count("so be it") == 1


async def test_messages_of_several_blocks_and_commands_are_continued(rig: Rig) -> None:
    await rig.ask(user("one ", "two"), script=Script(text="well"))
    answer = await rig.ask(user("one two"), assistant("well"), user("three ", "/cost"))
    assert answer.started.start == "kept"
    assert [it.text for it in rig.upstream(answer).messages] == ["one two", "well", "three \n/cost"]


async def test_sampling_is_that_of_each_turn(rig: Rig) -> None:
    history = await begin(rig, 3)
    wanted = Sampling(max_tokens=50, temperature=0.25, top_p=0.75, stop=("ZZ",))
    for sampling, arrived in ((wanted, wanted), (None, rig.dialect.default_sampling), (wanted, wanted)):
        history.append(user("and now"))
        answer = await rig.ask(*history, sampling=sampling, script=Script(text="fine"))
        assert_kept(rig, answer, *history)
        assert rig.upstream(answer).sampling == arrived
        history.append(assistant("fine"))


async def test_another_model_has_the_conversation_replayed(rig: Rig) -> None:
    """Told of another model in the middle of one, the CLI writes a `/model` command into the next user message."""
    history = await begin(rig, 3)
    for model, is_kept in (("opus", False), ("opus", True), ("haiku", False), (None, False)):
        history.append(user(f"now {model}"))
        answer = await rig.ask(*history, model=model, script=Script(text="fine"))
        (assert_kept if is_kept else assert_replayed)(rig, answer, *history)
        assert (model or "sonnet") in rig.upstream(answer).model
        history.append(assistant("fine"))


async def test_usage_is_that_of_the_turn_alone(rig: Rig) -> None:
    history = [*await begin(rig, 4), user("go on")]
    kept = await rig.ask(*history, script=Script(text="one two three", chunks=3))
    again = await rig.ask(*history, script=Script(text="one two three", chunks=3))
    assert (kept.started.start, again.started.start) == ("kept", "reused")
    for answer in (kept, again):
        usage = answer.finished.usage
        assert usage is not None
        # What the vendor said of its one request; the CLI's notes stand elsewhere in a conversation it was told.
        assert answer.events[1] == replace(usage, output_tokens=1, cost_usd=None)
        assert usage.output_tokens == 3
        assert usage.cost_usd == pytest.approx(0.0006, rel=0.2)


async def test_a_conversation_the_assistant_began_is_continued(rig: Rig) -> None:
    history = [assistant("welcome"), user("thanks")]
    await rig.ask(*history, script=Script(text="well"))
    history += [assistant("well"), user("go on")]
    assert_kept(rig, await rig.ask(*history), *history)


# --- what is not the next turn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", ["question", "answer", "again", "before", "longer"])
async def test_an_edited_history_is_replayed_into_an_empty_process(rig: Rig, edit: str) -> None:
    question, answer = await begin(rig, 5, "the kept answer")
    edited = {
        "question": [user("another question"), answer],
        "answer": [question, assistant("the kept answer.")],
        "again": [],  # the first question once more
        "before": [user("first"), assistant("of all"), question, answer],
        "longer": [question, answer, user("more"), assistant("of it")],
    }[edit]
    messages = (*edited, question if edit == "again" else user("go on"))
    assert_replayed(rig, await rig.ask(*messages), *messages)


async def test_no_word_of_a_kept_conversation_reaches_another_one(rig: Rig) -> None:
    for number in range(8):
        await begin(rig, number, text="the secret answer")
        fresh = await rig.ask(user("hello"), script=Script(text="the secret greeting"))
        assert_replayed(rig, fresh, user("hello"))
        other = await rig.ask(user("some"), assistant("other"), user("talk"))
        assert_replayed(rig, other, user("some"), assistant("other"), user("talk"))
        for answer in (fresh, other):
            assert "secret" not in str(answer.received[0].body)
            assert "the question" not in str(answer.received[0].body)


async def test_conversations_side_by_side_keep_to_themselves(rig: Rig) -> None:
    assert rig.provider.pool is not None
    async with rig.provider.pool.lease(caller="alice", binding=("alice", "", b"")):  # so that there are two processes
        histories = [await begin(rig, 0, "answer 0")]
    await rig.settled()
    histories.append(await begin(rig, 1, "answer 1"))
    for turn in range(3):
        for number, history in enumerate(histories):
            history.append(user(f"turn {turn} of {number}"))
            answer = await rig.ask(*history, script=Script(text=f"well {turn} {number}"))
            assert_kept(rig, answer, *history)
            history.append(assistant(f"well {turn} {number}"))


async def test_another_owner_and_another_system_prompt_get_processes_of_their_own(rig: Rig) -> None:
    history = [*await begin(rig, 6), user("go on")]
    for owner, system in (("bob", ""), ("alice", "You are a pirate.")):
        answer = await rig.ask(*history, owner=owner, system=system)
        assert answer.started.start == "cold"
        assert rig.upstream(answer).messages == tuple(history)
        assert rig.upstream(answer).system == system


@pytest.mark.parametrize(
    ("script", "sampling"),
    [
        (Script(text="one two three", chunks=3), Sampling(max_tokens=1)),
        (Script(text="I would", stop="refusal"), None),
        (Script(text="", chunks=0), None),
        (Script(text=" \n "), None),
        (Script(status=429), None),
        (Script(text="one two", chunks=2, cut_after=1), None),
    ],
    ids=["length", "refusal", "no word", "white space", "rate limit", "cut"],
)
async def test_a_turn_without_a_proper_end_is_not_continued(
    rig: Rig, script: Script, sampling: Sampling | None
) -> None:
    history = [*await begin(rig, 7), user("and now")]
    answer = await rig.ask(*history, script=script, sampling=sampling)
    await rig.settled()
    assert held_by(rig, [*history, assistant(answer.text), user("go on")]) == set()
    # What becomes of an answer without a word when it is sent back is not the matter here.
    history = [*history, assistant(answer.text if answer.text.strip() else "(nothing)"), user("go on")]
    assert_replayed(rig, await rig.ask(*history), *history)


async def test_a_turn_that_was_given_up_is_not_continued(rig: Rig) -> None:
    history = [*await begin(rig, 8), user("and now")]
    rig.vendor.script = Script(text="one two", chunks=2, hang_after=1)
    async with aclosing(rig.provider.run(rig.turn(*history))) as events:
        word = await rig.first_word(events)
    history = [*history, assistant(word.text), user("go on")]
    assert_replayed(rig, await rig.ask(*history), *history)


async def test_a_process_asked_to_go_on_with_what_it_does_not_hold_refuses_and_sends_nothing(rig: Rig) -> None:
    """The pool lets it never happen; should it fail to, no caller reads what another one wrote."""
    history = await begin(rig, 9)
    rig.vendor.clear()
    assert rig.provider.pool is not None
    wanted = history_digest(rig.turn(*history, user("go on")))
    async with rig.provider.pool.lease(caller="alice", binding=("alice", "", b""), history=wanted) as lease:
        assert lease.start == "kept"
        with pytest.raises(ProtocolBroken, match="another conversation"):
            await anext(lease.worker.run(rig.turn(user("hello"))))
    assert rig.vendor.received == []
    assert_replayed(rig, await rig.ask(user("hello")), user("hello"))


# --- processes -------------------------------------------------------------------------------------------------------


async def test_a_kept_process_that_dies_costs_the_conversation_nothing(rig: Rig) -> None:
    history = [*await begin(rig, 10), user("go on")]
    for pid in rig.pids():
        psutil.Process(pid).kill()
    answer = await rig.ask(*history)
    assert answer.started.start == "cold"
    assert rig.upstream(answer).messages == tuple(history)


async def test_a_conversation_too_long_to_step_back_costs_its_process(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_driver, "MOST_STEPS_BACK", 2)
    history = await begin(rig, 11)
    for text in ("more", "and more"):
        history.append(user(text))
        assert_kept(rig, await rig.ask(*history, script=Script(text="well")), *history)
        history.append(assistant("well"))
    long = held_by(rig, [*history, user("go on")])
    assert len(long) == 1
    await asyncio.gather(*(rig.ask(user(f"hello {number}")) for number in range(2)))
    await rig.settled()
    assert not rig.pids() & long


async def test_without_reuse_nothing_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = PoolLimits(floor=0, ceiling=1, kept=1)
    folder = tmp_path_factory.mktemp("claude")
    async with open_rig("claude", folder, pool=limits, may_reuse=False) as rig:
        history = [*await begin(rig, 12), user("go on")]
        answer = await rig.ask(*history)
        assert answer.started.start == "cold"
        assert rig.upstream(answer).messages == tuple(history)
