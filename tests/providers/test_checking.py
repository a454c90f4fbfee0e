"""Calls and JSON are as they were asked for, or there is an error; a model gets one chance to mend its answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.checking import checked
from providers.errors import AnswerInvalid
from providers.events import (
    ANY_OBJECT,
    Event,
    Message,
    TextDelta,
    Tool,
    Toolbox,
    ToolCall,
    ToolResult,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)

pytestmark = pytest.mark.asyncio

SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}).encode()
count, tick = Tool("count", schema=SCHEMA), Tool("tick")
BOX = Toolbox((count, tick))
GOOD, BAD = ToolCall("g", "count", '{"n": 1}'), ToolCall("b", "count", '{"n": "one"}')


class Model:
    """Answers one turn after the other with what it was given, and remembers what it was asked."""

    def __init__(self, *answers: list[Event]) -> None:
        self.answers = list(answers)
        self.asked: list[Turn] = []

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        self.asked.append(turn)
        yield TurnStarted("m")
        answer = self.answers.pop(0)
        for event in answer:
            yield event
        if not isinstance(answer[-1], TurnFinished):
            has_calls = any(isinstance(event, ToolCall) for event in answer)
            yield TurnFinished("tool_calls" if has_calls else "stop", Usage(10, 2))


def turn(**asked: Any) -> Turn:
    return Turn((Message("user", ("go",)),), **asked)


async def ask(model: Model, asked: Turn) -> list[Event]:
    async with aclosing(checked(model.run, asked)) as events:
        return [event async for event in events if event != Working()]


def calls(events: list[Event]) -> list[ToolCall]:
    return [event for event in events if isinstance(event, ToolCall)]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_plain_turn_is_handed_on_as_it_is() -> None:
    model = Model([TextDelta("hi")])
    assert await ask(model, turn()) == [TurnStarted("m"), TextDelta("hi"), TurnFinished("stop", Usage(10, 2))]


async def test_good_calls_come_after_the_text_and_end_the_turn() -> None:
    model = Model([TextDelta("well"), GOOD, ToolCall("t", "tick", "")])
    events = await ask(model, turn(toolbox=BOX))
    assert (text(events), calls(events)) == ("well", [GOOD, ToolCall("t", "tick", "{}")])
    assert events[-1] == TurnFinished("tool_calls", Usage(10, 2))
    assert len(model.asked) == 1


async def test_a_text_comes_at_once_where_tools_are_only_offered() -> None:
    model = Model([TextDelta("a"), TextDelta("b")])
    async with aclosing(checked(model.run, turn(toolbox=BOX))) as events:
        first = [await anext(events), await anext(events)]
    assert first == [TurnStarted("m"), TextDelta("a")]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (BAD, "is not of type"),
        (ToolCall("b", "count", '{"n": 1'), "no JSON"),
        (ToolCall("b", "count", "[1]"), "no JSON object"),
        (ToolCall("b", "other", "{}"), "there is no tool 'other'"),
    ],
    ids=["schema", "broken", "list", "unknown"],
)
async def test_a_bad_call_is_told_and_made_again(call: ToolCall, told: str) -> None:
    model = Model([TextDelta("well"), call], [GOOD])
    events = await ask(model, turn(toolbox=BOX))
    assert (text(events), calls(events)) == ("well", [GOOD])
    assert [event for event in events if isinstance(event, TurnStarted)] == [TurnStarted("m")]
    assert events[-1] == TurnFinished("tool_calls", Usage(20, 4))
    said, answered = model.asked[1].messages[1:]
    assert said.text == "well"
    assert said.calls[0].id == answered.results[0].call_id
    assert told in answered.results[0].text
    assert answered.results[0].is_error
    json.loads(said.calls[0].arguments)


async def test_a_good_call_beside_a_bad_one_is_made_again_too() -> None:
    model = Model([GOOD, BAD], [GOOD, ToolCall("c", "count", '{"n": 2}')])
    assert len(calls(await ask(model, turn(toolbox=BOX)))) == 2
    results = [message.results[0] for message in model.asked[1].messages[2:]]
    assert [it.call_id for it in results] == ["g", "b"]
    assert "another call" in results[0].text


async def test_words_after_a_bad_call_are_the_answer_after_all() -> None:
    events = await ask(Model([TextDelta("a "), BAD], [TextDelta("b")]), turn(toolbox=BOX))
    assert (text(events), events[-1]) == ("a \n\nb", TurnFinished("stop", Usage(20, 4)))


async def test_a_second_bad_call_is_an_error_with_what_it_cost() -> None:
    model = Model([BAD], [BAD])
    events: list[Event] = []
    with pytest.raises(AnswerInvalid, match="nor was a second"):
        async for event in checked(model.run, turn(toolbox=BOX)):
            events.append(event)
    assert len(model.asked) == 2
    assert not calls(events)
    assert [event for event in events if isinstance(event, Usage)][-1] == Usage(20, 4)


@pytest.mark.parametrize(
    ("box", "first", "told"),
    [
        (Toolbox((count, tick), "required"), [TextDelta("no")], "one of the tools has to be called"),
        (Toolbox((count, tick), "required", "count"), [ToolCall("t", "tick", "{}")], "tool count has to be called"),
    ],
    ids=["any", "named"],
)
async def test_a_call_that_is_required_is_asked_for(box: Toolbox, first: list[Event], told: str) -> None:
    model = Model(first, [GOOD])
    assert calls(await ask(model, turn(toolbox=box))) == [GOOD]
    last = model.asked[1].messages[-1]
    assert told in (last.text or last.results[0].text)


async def test_where_none_may_be_called_none_is() -> None:
    box = Toolbox((count,), "none")
    assert text(await ask(Model([GOOD], [TextDelta("fine")]), turn(toolbox=box))) == "fine"
    with pytest.raises(AnswerInvalid):
        await ask(Model([GOOD], [GOOD]), turn(toolbox=box))


async def test_one_call_where_only_one_is_wanted() -> None:
    assert calls(await ask(Model([GOOD, BAD]), turn(toolbox=Toolbox((count,), is_parallel=False)))) == [GOOD]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_was_cut_is_not_judged(reason: Any) -> None:
    end = TurnFinished(reason, Usage(1, 1))
    events = await ask(Model([TextDelta('{"n"'), end]), turn(json_schema=SCHEMA))
    assert (text(events), events[-1]) == ('{"n"', end)
    events = await ask(Model([TextDelta("a"), end]), turn(toolbox=Toolbox((count,), "required")))
    assert (text(events), events[-1]) == ("a", end)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ['{"n": 1}', ' {"n": 1}\n', '```json\n{"n": 1}\n```', '```\n{"n": 1}\n```\n'])
async def test_json_comes_whole_or_not_at_all(sent: str) -> None:
    model = Model([TextDelta(piece) for piece in sent])
    events = await ask(model, turn(json_schema=SCHEMA))
    assert json.loads(text(events)) == {"n": 1}
    assert len(model.asked) == 1


async def test_long_json_comes_in_pieces() -> None:
    sent = json.dumps({"n": 1, "t": "x" * 1_000})
    events = await ask(Model([TextDelta(sent)]), turn(json_schema=SCHEMA))
    assert text(events) == sent
    assert sum(isinstance(event, TextDelta) for event in events) > 3


@pytest.mark.parametrize("sent", ["no", '{"n": "one"}', "[]", "", '{"n": 1} and more'])
async def test_an_answer_that_is_no_such_json_is_asked_for_again(sent: str) -> None:
    model = Model([TextDelta(sent)], [TextDelta('{"n": 2}')])
    events = await ask(model, turn(json_schema=SCHEMA))
    assert json.loads(text(events)) == {"n": 2}
    *_, told = model.asked[1].messages
    assert (told.role, "JSON" in told.text) == ("user", True)
    assert len(model.asked[1].messages) == (3 if sent else 2)
    with pytest.raises(AnswerInvalid):
        await ask(Model([TextDelta(sent)], [TextDelta(sent)]), turn(json_schema=SCHEMA))


async def test_any_object_is_enough_where_there_is_no_schema() -> None:
    assert text(await ask(Model([TextDelta('{"a": [1]}')]), turn(json_schema=ANY_OBJECT))) == '{"a": [1]}'
    with pytest.raises(AnswerInvalid):
        await ask(Model([TextDelta("[1]")], [TextDelta("[1]")]), turn(json_schema=ANY_OBJECT))


async def test_a_call_comes_before_the_json() -> None:
    events = await ask(Model([GOOD]), turn(json_schema=SCHEMA, toolbox=BOX))
    assert (text(events), calls(events)) == ("", [GOOD])


@given(
    st.lists(st.sampled_from([GOOD, BAD, TextDelta("x"), ToolCall("u", "u", "{}")]), min_size=1, max_size=4), st.data()
)
async def test_nothing_invalid_ever_comes_out(answer: list[Event], data: st.DataObject) -> None:
    second: list[Event] = data.draw(st.lists(st.sampled_from([GOOD, BAD, TextDelta("y")]), min_size=1, max_size=3))
    model = Model(answer, second)
    try:
        events = await ask(model, turn(toolbox=BOX))
    except AnswerInvalid:
        assert len(model.asked) == 2
        return
    assert all(call == GOOD for call in calls(events))
    assert isinstance(events[-1], TurnFinished)
    assert (events[-1].reason == "tool_calls") == bool(calls(events))


async def test_a_call_where_nothing_is_offered_any_more_does_not_come_out() -> None:
    called = Message("assistant", (GOOD,))
    asked = Turn((Message("user", ("go",)), called, Message("tool", (ToolResult("g", ("1",)),))))
    assert text(await ask(Model([GOOD], [TextDelta("fine")]), asked)) == "fine"
