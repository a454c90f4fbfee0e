"""A process left with a conversation whose last answer was calls: it goes on with their results, told no word twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from providers.adapters.claude_driver import ClaudeDriver
from providers.events import Message, Tool, Toolbox, ToolCall, ToolResult
from providers.pool_limits import PoolLimits
from tests.clis.rig import Answer, Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

look, tick = Tool("look"), Tool("tick")
BOTH = Toolbox((look, tick))
LOOK = '{"where": "here", "how": 1}'
# No model answers at once; until it does, the CLI is told to ask its vendor no second time.
THINKS_S = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    limits = PoolLimits(floor=0, ceiling=1, kept=1, turns=100_000, watch_s=0.2)
    async with open_rig("claude", tmp_path_factory.mktemp("claude"), pool=limits) as opened:
        yield opened


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of the lines the process was told before a question."""
    lines: list[str] = []
    replay = ClaudeDriver._replay

    async def noted(driver: ClaudeDriver, role: str, blocks: Any) -> None:
        lines.append(role)
        await replay(driver, role, blocks)

    monkeypatch.setattr(ClaudeDriver, "_replay", noted)
    return lines


def result(call: ToolCall, text: str = "seen") -> Message:
    return Message("tool", (ToolResult(call.id, (text,)),))


def called(answer: Answer) -> Message:
    assert answer.finished.reason == "tool_calls"
    return Message("assistant", (*filter(None, [answer.text]), *answer.calls))


async def call(rig: Rig, *messages: Message, text: str = "", calls: tuple[str, ...] = ("look",)) -> list[Message]:
    """The conversation with the model's next calls and their results."""
    made = tuple((name, LOOK) for name in calls)
    script = Script(text=text, chunks=min(1, len(text)), calls=made, rounds=99, first_delay_s=THINKS_S)
    answer = await rig.ask(*messages, script=script, toolbox=BOTH)
    assert rig.upstream(answer).messages == messages
    return [*messages, called(answer), *(result(it, f"seen {n}") for n, it in enumerate(answer.calls))]


async def go_on(rig: Rig, *messages: Message, box: Toolbox = BOTH) -> Answer:
    answer = await rig.ask(*messages, script=Script(text="well"), toolbox=box)
    assert answer.finished.reason == "stop"
    assert len(answer.received) == 1
    return answer


def assert_kept(rig: Rig, answer: Answer, *messages: Message) -> None:
    assert answer.started.start == "kept"
    assert rig.upstream(answer).messages == messages


@pytest.mark.parametrize("text", ["", "Let me see.", " \n"], ids=["call alone", "words before", "white space before"])
async def test_the_result_goes_on_where_the_call_was_made(rig: Rig, told: list[str], text: str) -> None:
    past = [user("one"), assistant("well"), user("two"), assistant("well")]
    conversation = await call(rig, *past, user("look"), text=text)
    told.clear()
    answer = await go_on(rig, *conversation)
    assert answer.started.start == "kept"
    upstream = rig.upstream(answer).messages
    assert [it.role for it in upstream] == [it.role for it in conversation]
    assert upstream[5].calls == conversation[5].calls
    assert upstream[5].text.strip() == text.strip()
    assert told == ["user", "assistant"]
    further = [*conversation, assistant("well"), user("and now?")]
    assert (await go_on(rig, *further)).started.start == "kept"


async def test_results_of_several_calls_and_words_to_them(rig: Rig) -> None:
    conversation = await call(rig, user("look"), calls=("look", "tick", "look"))
    conversation.append(user("and be quick"))
    assert_kept(rig, await go_on(rig, *conversation), *conversation)
    conversation += [assistant("well"), user("thanks")]
    assert_kept(rig, await go_on(rig, *conversation), *conversation)


async def test_round_after_round_only_what_followed_the_question_is_told_again(rig: Rig, told: list[str]) -> None:
    conversation = await call(rig, user("one"), assistant("well"), user("go"))
    for rounds in range(1, 5):
        told.clear()
        conversation = await call(rig, *conversation)
        assert told == ["user", "assistant"] * rounds
    answer = await go_on(rig, *conversation)
    assert_kept(rig, answer, *conversation)


async def test_arguments_count_by_their_meaning(rig: Rig) -> None:
    question, said, seen = await call(rig, user("look"))
    (made,) = said.calls
    anew = ToolCall(made.id, made.name, json.dumps({"how": 1, "where": "here"}, indent=2))
    conversation = [question, Message("assistant", (anew,)), seen]
    answer = await go_on(rig, *conversation)
    assert answer.started.start == "kept"
    assert json.loads(rig.upstream(answer).messages[1].calls[0].arguments) == json.loads(LOOK)


@pytest.mark.parametrize("edit", ["arguments", "name", "text", "question"])
async def test_an_edited_call_is_told_from_the_start(rig: Rig, edit: str) -> None:
    question, said, seen = await call(rig, user("look"))
    (made,) = said.calls
    edited = {
        "arguments": [question, Message("assistant", (ToolCall(made.id, "look", '{"where": "there"}'),)), seen],
        "name": [question, Message("assistant", (ToolCall(made.id, "tick", made.arguments),)), seen],
        "text": [question, Message("assistant", ("Hm. ", made)), seen],
        "question": [user("look again"), said, seen],
    }[edit]
    answer = await go_on(rig, *edited)
    assert answer.started.start == "reused"
    assert rig.upstream(answer).messages == tuple(edited)


async def test_nothing_of_a_call_reaches_another_conversation(rig: Rig) -> None:
    conversation = await call(rig, user("the secret question"), text="the secret words")
    fresh = await rig.ask(user("hello"))
    assert fresh.started.start == "reused"
    assert "secret" not in str(fresh.received[0].body)
    answer = await go_on(rig, *conversation)
    assert answer.started.start == "reused"
    assert rig.upstream(answer).messages == tuple(conversation)


@pytest.mark.parametrize("when", ["after a call", "after an answer"])
@pytest.mark.parametrize("box", [Toolbox((tick,)), Toolbox()], ids=["other tools", "none"])
async def test_other_tools_in_the_middle_leave_calls_with_the_names_that_are_offered(
    rig: Rig, when: str, box: Toolbox
) -> None:
    conversation = await call(rig, *await call(rig, user("look")))
    if when == "after an answer":
        conversation += [assistant((await go_on(rig, *conversation)).text), user("and now?")]
    answer = await go_on(rig, *conversation, box=box)
    assert_kept(rig, answer, *conversation)
    body = answer.received[0].body
    (server,) = {it["name"].rpartition("__")[0] for it in body["tools"]}
    blocks = [block for message in body["messages"] for block in message["content"] if isinstance(block, dict)]
    names = [block["name"] for block in blocks if block["type"] == "tool_use"]
    assert names == [f"{server}__look"] * 2


async def test_a_call_that_is_never_answered_leaves_a_clean_process(rig: Rig) -> None:
    """The caller says something else instead: the call is not part of the conversation any more."""
    question, said, _ = await call(rig, user("look"))
    assert said.calls
    conversation = [question, assistant("never mind"), user("what else?")]
    answer = await go_on(rig, *conversation)
    assert answer.started.start == "reused"
    assert rig.upstream(answer).messages == tuple(conversation)
