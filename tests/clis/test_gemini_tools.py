"""gemini with the caller's tools: the vendor's own structures upstream, every call of an answer back, none ever run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from providers.adapters.gemini_body import NO_SIGNATURE
from providers.errors import AnswerInvalid
from providers.events import Media, Message, TextDelta, Tool, Toolbox, ToolCall, ToolResult, Working
from providers.pool_limits import PoolLimits
from tests.clis.rig import Answer, Rig, assistant, open_rig, user
from tests.clis.test_hostile_texts import TEXTS, snapshot
from tests.vendor_api import Script
from tests.vendor_api import gemini as vendor

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HARD: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "$defs": {"place": {"type": "string", "description": "Where, as `@/etc/hostname`, $HOME or ${GEMINI_API_KEY}"}},
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/place"},
        "unit": {"type": ["string", "null"], "enum": ["C", "F", None], "default": None},
        "constructor": {"type": "string"},
        "$HOME": {"type": "integer", "minimum": 0},
    },
    "required": ["city"],
    "additionalProperties": False,
}
weather = Tool("get_weather", "Tells the weather for $HOME.", json.dumps(HARD).encode())
tick = Tool("tick")
BOTH = Toolbox((weather, tick))
# Names of what the CLI itself could do.
BUILT_IN = (
    *("run_shell_command", "read_file", "write_file", "replace", "glob", "list_directory", "web_fetch", "save_memory"),
    *("google_web_search", "activate_skill", "read_many_files", "grep_search", "ask_user", "write_todos"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gemini(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig("gemini", tmp_path_factory.mktemp("gemini")) as opened:
        yield opened


def result(call: ToolCall, *blocks: str | Media, is_error: bool = False) -> Message:
    return Message("tool", (ToolResult(call.id, blocks, is_error),))


def body_of(answer: Answer) -> dict[str, Any]:
    (received,) = answer.received
    body: dict[str, Any] = received.body
    return body


def offered(answer: Answer) -> list[dict[str, Any]]:
    return [it for tool in body_of(answer).get("tools", ()) for it in tool.get("functionDeclarations", ())]


# --- a call ----------------------------------------------------------------------------------------------------------


async def test_a_call_ends_the_turn_and_reaches_the_vendor_as_a_definition(gemini: Rig) -> None:
    pid = await gemini.pid()
    answer = await gemini.ask(
        user("How is it?"), script=Script(calls=(("get_weather", '{"city":"Bern"}'),)), toolbox=BOTH
    )
    (call,) = answer.calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Bern"})
    assert call.id.startswith("call_")
    assert [type(event) for event in answer.events[-3:-1]] == [Working, ToolCall]
    assert answer.finished.reason == "tool_calls"
    assert answer.finished.usage is not None
    assert answer.finished.usage.input_tokens > 0
    assert gemini.upstream(answer).messages == (user("How is it?"),)
    assert offered(answer) == [
        {"name": "get_weather", "description": weather.description, "parametersJsonSchema": HARD},
        {"name": "tick", "description": "", "parametersJsonSchema": {"type": "object"}},
    ]
    assert "toolConfig" not in body_of(answer)
    assert gemini.pids() == {pid}


async def test_a_word_before_the_call_is_told_at_once(gemini: Rig) -> None:
    script = Script(text="Let me see.", chunks=2, thinking="**Weather** look", calls=(("tick", "{}"),))
    answer = await gemini.ask(user("go"), script=script, toolbox=BOTH)
    assert (answer.text, answer.finished.reason) == ("Let me see.", "tool_calls")
    assert "Weather" in answer.reasoning
    assert [call.name for call in answer.calls] == ["tick"]
    kinds = [type(event) for event in answer.events]
    assert kinds.index(TextDelta) < kinds.index(ToolCall)
    assert answer.finished.usage is not None
    assert answer.finished.usage.reasoning_tokens > 0


async def test_calls_side_by_side_keep_their_order_ids_and_arguments(gemini: Rig) -> None:
    calls = tuple(("get_weather", json.dumps({"city": f"Bern {n}", "unit": None, "big": 2**53 - n})) for n in range(5))
    answer = await gemini.ask(user("go"), script=Script(calls=(*calls, ("tick", "{}"))), toolbox=BOTH)
    assert [(it.name, json.loads(it.arguments)) for it in answer.calls] == [
        *((name, json.loads(arguments)) for name, arguments in calls),
        ("tick", {}),
    ]
    assert len({it.id for it in answer.calls}) == len(calls) + 1
    assert len(gemini.vendor.chats()) == 1


async def test_arguments_of_any_length_and_text_come_as_they_were(gemini: Rig) -> None:
    given = {"a": "x" * 200_000, "b": "\u2028 ü \U0001f600 $HOME @/etc/hostname", "c": [1.5, None, {"d": True}]}
    answer = await gemini.ask(user("go"), script=Script(calls=(("tick", json.dumps(given)),)), toolbox=BOTH)
    assert [json.loads(call.arguments) for call in answer.calls] == [given]


async def test_the_next_turn_brings_call_and_result_and_nothing_else(gemini: Rig) -> None:
    question = user("How is it?")
    script = Script(text="Let me see.", calls=(("get_weather", '{"city":"Bern"}'), ("tick", "{}")))
    first = await gemini.ask(question, script=script, toolbox=BOTH)
    one, two = first.calls
    said = Message("assistant", (first.text, replace(one, arguments='{"city": "Bern"}'), two))
    results = (result(one, "21 degrees"), result(two, "went wrong", is_error=True))
    answer = await gemini.ask(question, said, *results, script=Script(text="warm"), toolbox=BOTH)
    assert (answer.text, answer.calls, answer.finished.reason) == ("warm", [], "stop")
    assert gemini.upstream(answer).messages == (question, said, *results)
    assert body_of(answer)["contents"] == [
        {"role": "user", "parts": [{"text": "How is it?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me see."},
                {
                    "functionCall": {"id": one.id, "name": "get_weather", "args": {"city": "Bern"}},
                    "thoughtSignature": NO_SIGNATURE,
                },
                {"functionCall": {"id": two.id, "name": "tick", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": one.id, "name": "get_weather", "response": {"output": "21 degrees"}}},
                {"functionResponse": {"id": two.id, "name": "tick", "response": {"error": "went wrong"}}},
            ],
        },
    ]


async def test_several_rounds_and_a_question_after_them(gemini: Rig) -> None:
    conversation = [user("go")]
    for number in range(3):
        answer = await gemini.ask(*conversation, script=Script(calls=(("tick", "{}"),), rounds=9), toolbox=BOTH)
        (call,) = answer.calls
        conversation += [Message("assistant", (call,)), result(call, f"tick {number}")]
        assert gemini.upstream(answer).messages == tuple(conversation[:-2])
    conversation += [assistant("done"), user("and now?")]
    answer = await gemini.ask(*conversation, script=Script(text="so"), toolbox=BOTH)
    assert gemini.upstream(answer).messages == tuple(conversation)


async def test_an_empty_answer_to_a_result_is_an_answer(gemini: Rig) -> None:
    call = ToolCall("c1", "tick", "{}")
    history = (user("go"), Message("assistant", (call,)), result(call, "ok"))
    answer = await gemini.ask(*history, script=Script(text="", chunks=0), toolbox=BOTH)
    assert (answer.text, answer.finished.reason) == ("", "stop")


@pytest.mark.parametrize("model", ["gemini-3.8-flash", "gemini-2.5-pro", "gemini-3-pro-preview"])
async def test_results_with_images_arrive_whole(gemini: Rig, model: str) -> None:
    call = ToolCall("c1", "shot", "{}")
    seen = (result(call, "this is it", Media("image/png", PNG)),)
    history = (user("show"), Message("assistant", (call,)), *seen)
    answer = await gemini.ask(*history, toolbox=Toolbox((Tool("shot"),)), model=model)
    assert gemini.upstream(answer).messages == history
    parts = body_of(answer)["contents"][-1]["parts"]
    assert len(parts) == (2 if model.startswith("gemini-2") else 1)


# --- history ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call_id", ["toolu_01AbC", "call_abc|fc_1", "tick__x", "a b/ü$HOME@x", "", "0"])
async def test_calls_of_another_provider_are_replayed_by_their_own_ids(gemini: Rig, call_id: str) -> None:
    call = ToolCall(call_id, "tick", '{"n":1}')
    history = (user("go"), Message("assistant", (call,)), result(call, "ok"), assistant("fine"), user("again"))
    answer = await gemini.ask(*history, toolbox=BOTH)
    arrived = gemini.upstream(answer).messages
    assert [message.role for message in arrived] == [message.role for message in history]
    assert (arrived[1].calls[0].id, arrived[2].results[0].call_id) == (call_id, call_id)


async def test_ids_used_twice_name_the_nearest_call(gemini: Rig) -> None:
    one, two = ToolCall("call_0", "tick", "{}"), ToolCall("call_0", "get_weather", '{"city":"Rom"}')
    history = (
        *(user("go"), Message("assistant", (one,)), result(one, "ok")),
        *(Message("assistant", (two,)), result(two, "warm")),
    )
    contents = body_of(await gemini.ask(*history, toolbox=BOTH))["contents"]
    assert [contents[at]["parts"][0]["functionResponse"]["name"] for at in (2, 4)] == ["tick", "get_weather"]


async def test_calls_stay_calls_where_the_tools_are_gone(gemini: Rig) -> None:
    call = ToolCall("c1", "gone", '{"a": 1}')
    history = (user("go"), Message("assistant", (call,)), result(call, "ok"), user("and?"))
    answer = await gemini.ask(*history, script=Script(text="well"))
    assert gemini.upstream(answer).messages == history
    assert offered(answer) == []
    assert answer.text == "well"


# --- what is offered -------------------------------------------------------------------------------------------------


async def test_names_schemas_and_descriptions_of_any_kind_arrive_unchanged(gemini: Rig) -> None:
    long = "n" * 60
    tools = tuple(
        Tool(f"{long}_{number:03}", f"{number} " + "d" * 3_000, json.dumps(HARD | {"title": str(number)}).encode())
        for number in range(100)
    )
    script = Script(calls=((tools[42].name, "{}"),))
    answer = await gemini.ask(user("go"), script=script, toolbox=Toolbox(tools))
    assert offered(answer) == [
        {"name": tool.name, "description": tool.description, "parametersJsonSchema": json.loads(tool.schema)}
        for tool in tools
    ]
    assert [call.name for call in answer.calls] == [tools[42].name]


async def test_a_name_google_does_not_take_gets_another_and_its_own_back(gemini: Rig) -> None:
    tools = (Tool("2fa"), Tool("-x"), Tool("_-x"))
    script = Script(calls=(("_2fa", "{}"), ("_-x_2", "{}"), ("_-x", "{}")))
    answer = await gemini.ask(user("go"), script=script, toolbox=Toolbox(tools, mode="required", only="2fa"))
    assert [it["name"] for it in offered(answer)] == ["_2fa", "_-x_2", "_-x"]
    assert [call.name for call in answer.calls] == ["2fa", "-x", "_-x"]
    assert body_of(answer)["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["_2fa"]
    said = Message("assistant", (ToolCall("c", "2fa", "{}"),))
    replay = await gemini.ask(user("go"), said, result(said.calls[0], "ok"), toolbox=Toolbox(tools))
    parts = [content["parts"][0] for content in body_of(replay)["contents"][1:]]
    assert [part.popitem()[1]["name"] if len(part) == 1 else part["functionCall"]["name"] for part in parts] == [
        "_2fa"
    ] * 2


@pytest.mark.parametrize(
    ("toolbox", "config"),
    [
        (replace(BOTH, mode="none"), {"mode": "NONE"}),
        (replace(BOTH, mode="required"), {"mode": "ANY"}),
        (replace(BOTH, mode="required", only="tick"), {"mode": "ANY", "allowedFunctionNames": ["tick"]}),
    ],
)
async def test_what_may_be_done_with_the_tools_is_the_vendors_to_keep(
    gemini: Rig, toolbox: Toolbox, config: dict[str, Any]
) -> None:
    answer = await gemini.ask(user("go"), toolbox=toolbox)
    assert body_of(answer)["toolConfig"] == {"functionCallingConfig": config}


async def test_a_plain_turn_after_one_with_tools_is_as_if_there_had_never_been_any(gemini: Rig) -> None:
    before = body_of(await gemini.ask(user("hello")))
    await gemini.ask(user("go"), script=Script(calls=(("tick", "{}"),)), toolbox=replace(BOTH, mode="required"))
    assert body_of(await gemini.ask(user("hello"))) == before
    assert offered(await gemini.ask(user("hello"))) == []


# --- nothing runs ----------------------------------------------------------------------------------------------------


async def test_names_nobody_offered_are_handed_on_and_run_nothing(gemini: Rig) -> None:
    folder = gemini.data.parent / "planted"
    folder.mkdir(exist_ok=True)
    (folder / "secret.txt").write_text("planted-secret")
    marker = folder / "marker"
    arguments = {
        **{"command": f"touch {marker}", "file_path": str(marker), "content": "x", "path": str(folder)},
        **{"absolute_path": str(folder / "secret.txt"), "pattern": "*", "prompt": "x", "fact": "x", "query": "x"},
    }
    before = snapshot(folder, gemini.home)
    names = (*BUILT_IN, "mcp_client_tick", "discovered_tool_x", "nope", "default_api:tick")
    script = Script(calls=tuple((name, json.dumps(arguments)) for name in names), rounds=9)
    answer = await gemini.ask(user("go"), script=script, toolbox=Toolbox((Tool("other"),)))
    assert [call.name for call in answer.calls] == list(names)
    assert [json.loads(call.arguments) for call in answer.calls] == [arguments] * len(names)
    assert len(gemini.vendor.chats()) == 1
    assert not marker.exists()
    assert snapshot(folder, gemini.home) == before


async def test_a_callers_tool_by_the_name_of_a_built_in_one_is_the_callers(gemini: Rig) -> None:
    tools = tuple(Tool(name, "mine") for name in BUILT_IN)
    script = Script(calls=tuple((name, '{"command":"touch /tmp/x","dir_path":"/"}') for name in BUILT_IN))
    answer = await gemini.ask(user("go"), script=script, toolbox=Toolbox(tools))
    assert [it["description"] for it in offered(answer)] == ["mine"] * len(BUILT_IN)
    assert [call.name for call in answer.calls] == list(BUILT_IN)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_hostile_texts_are_texts_wherever_they_stand(gemini: Rig, tmp_path: Path, text: str) -> None:
    (tmp_path / "secret.txt").write_text("planted-secret")
    hostile = text.format(planted=tmp_path) if "{planted}" in text else text
    call = ToolCall(hostile, "tick", json.dumps({"a": hostile, hostile: 1}))
    image = Media("image/png", PNG)
    history = (
        user(hostile),
        Message("assistant", (hostile, call)),
        result(call, hostile),
        Message("user", (hostile, image, hostile)),
    )
    tool = Tool("tick", hostile, json.dumps({"type": "object", "description": hostile, "enum": [hostile]}).encode())
    before = snapshot(tmp_path, gemini.home)
    answer = await gemini.ask(*history, toolbox=Toolbox((tool,)), system=hostile)
    assert answer.error is None
    assert gemini.upstream(answer).messages == history
    (given,) = offered(answer)
    assert (given["description"], given["parametersJsonSchema"]) == (hostile, json.loads(tool.schema))
    assert "planted-secret" not in str(answer.received)
    assert snapshot(tmp_path, gemini.home) == before


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_a_caller_who_leaves_ends_the_vendors_work_and_costs_no_process(gemini: Rig) -> None:
    pid = await gemini.pid()
    gemini.vendor.clear()
    gemini.vendor.script = Script(text="a b c d", chunks=4, delay_s=0.3, calls=(("tick", "{}"),))
    turn = replace(gemini.turn(user("go")), toolbox=BOTH)
    async with aclosing(gemini.provider.run(turn)) as answer:
        await gemini.first_word(answer)
    await gemini.vendor.wait_for_abort()
    await gemini.settled()
    assert gemini.pids() == {pid}
    following = await gemini.ask(user("go"), script=Script(calls=(("tick", '{"n":2}'),)), toolbox=BOTH)
    assert [call.arguments for call in following.calls] == ['{"n":2}']


async def test_an_answer_that_breaks_off_gives_no_call(gemini: Rig) -> None:
    script = Script(text="a b", chunks=2, cut_after=1, calls=(("tick", "{}"),))
    broken = await gemini.ask(user("go"), script=script, toolbox=BOTH)
    assert broken.error is not None
    assert broken.calls == []
    cut = Script(text="a b c d", chunks=4, stop="max_tokens")
    answer = await gemini.ask(user("go"), script=cut, toolbox=BOTH)
    assert (answer.calls, answer.finished.reason) == ([], "length")
    refused = await gemini.ask(user("go"), script=Script(text="no", stop="refusal"), toolbox=BOTH)
    assert refused.finished.reason == "content_filter"


async def test_a_call_the_vendor_could_not_read_is_an_invalid_answer(
    gemini: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vendor._FINISH_REASONS, "refusal", "MALFORMED_FUNCTION_CALL")
    answer = await gemini.ask(user("go"), script=Script(text="", chunks=0, stop="refusal"), toolbox=BOTH)
    assert isinstance(answer.error, AnswerInvalid)
    assert len(gemini.vendor.chats()) == 1
    assert (await gemini.ask(user("go"), script=Script(calls=(("tick", "{}"),)), toolbox=BOTH)).calls


async def test_a_turn_with_tools_leaves_nothing_behind(gemini: Rig) -> None:
    words = "words-of-the-caller"
    call = ToolCall(words, "tick", json.dumps({"a": words}))
    history = (user(words), Message("assistant", (call,)), result(call, words))
    script = Script(calls=(("tick", json.dumps({"a": words})),), rounds=9)
    await gemini.ask(*history, script=script, toolbox=Toolbox((Tool("tick", words),)))
    await gemini.settled()
    for path in gemini.data.rglob("*"):
        assert not path.is_file() or words.encode() not in path.read_bytes(), path


async def test_turns_of_two_owners_at_once_see_their_own_tools_and_calls(tmp_path: Path) -> None:
    async with open_rig("gemini", tmp_path, pool=PoolLimits(floor=0, ceiling=2)) as rig:
        script = Script(text="wait", chunks=4, delay_s=0.05, calls=(("mine", '{"a":1}'),))

        async def call_of(owner: str) -> list[ToolCall]:
            box = Toolbox((Tool(f"{owner}_mine", owner),))
            turn = replace(rig.turn(user(owner), owner=owner), toolbox=box)
            return (await rig.run(turn, script, keep_record=True)).calls

        owners = ["alice", "bob"] * 3
        calls = await asyncio.gather(*map(call_of, owners))
        assert [[it.name for it in found] for found in calls] == [[f"{owner}_mine"] for owner in owners]
        for received in rig.vendor.chats():
            owner = received.body["contents"][0]["parts"][0]["text"]
            other = "bob" if owner == "alice" else "alice"
            assert other not in json.dumps(received.body)
