"""OpenAI's own client with tools, JSON and images: through a real hub, the real programs, to the vendor and back."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from tests.asking import CHAT, data_lines, error_of
from tests.clis.dialects import DIALECTS
from tests.clis.rig import REAL
from tests.clis.test_rest import HTTP_TIMEOUT_S, Door, open_door
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": ["string", "null"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TICK: dict[str, Any] = {"type": "function", "function": {"name": "tick", "parameters": {"type": "object"}}}
TOOLS: Any = [WEATHER, TICK]
BERN, ROME = ("get_weather", '{"city": "Bern"}'), ("get_weather", '{"city": "Rome"}')
# No model answers at once; until it does, a CLI is told to ask its vendor no second time.
THINKS_S = 0.2
BROKEN = ("get_weather", '{"town": 5}')


class Point(BaseModel):
    x: int
    label: str | None


@pytest_asyncio.fixture(params=REAL, scope="module", loop_scope="module")
async def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door("claude", tmp_path_factory.mktemp("claude")) as opened:
        yield opened


def sdk(door: Door, **options: Any) -> openai.AsyncOpenAI:
    made: dict[str, Any] = {
        "base_url": f"{door.hub.url}/v1",
        "api_key": door.hub.key,
        "timeout": HTTP_TIMEOUT_S,
        "max_retries": 0,
    }
    return openai.AsyncOpenAI(**(made | options))


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def tool(call: Any, content: str) -> Any:
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def answers(door: Door, *scripts: Script) -> None:
    door.vendor.clear()
    door.vendor.script = Script(text="well then")
    door.vendor.next(*scripts)


def called(message: Any) -> list[tuple[str, Any]]:
    return [(it.function.name, json.loads(it.function.arguments)) for it in message.tool_calls or ()]


# --- function calling ------------------------------------------------------------------------------------------------


async def test_a_tool_round_trip(door: Door) -> None:
    async with sdk(door) as client:
        answers(door, Script(text="Let me see.", calls=(BERN,)))
        messages: list[Any] = [user("How is it?")]
        first = await client.chat.completions.create(model=door.name, messages=messages, tools=TOOLS)
        (choice,) = first.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
        assert called(choice.message) == [("get_weather", {"city": "Bern"})]
        assert choice.message.tool_calls
        messages += [choice.message.model_dump(), tool(choice.message.tool_calls[0], "21 degrees")]
        answers(door, Script(text="It is warm."))
        second = await client.chat.completions.create(model=door.name, messages=messages, tools=TOOLS)
    assert (second.choices[0].finish_reason, second.choices[0].message.content) == ("stop", "It is warm.")
    assert second.choices[0].message.tool_calls is None
    asked, said, result = DIALECTS[door.name].read(door.vendor.chats()[0]).messages
    assert (asked.text, said.text) == ("How is it?", "Let me see.")
    assert said.calls[0].name == "get_weather"
    assert (result.role, result.results[0].text) == ("tool", "21 degrees")
    assert said.calls[0].id == result.results[0].call_id


async def test_calls_without_a_word_have_null_content(door: Door) -> None:
    answers(door, Script(calls=(BERN, ROME)))
    async with sdk(door) as client:
        completion = await client.chat.completions.create(model=door.name, messages=[user("both")], tools=TOOLS)
    (choice,) = completion.choices
    assert choice.message.content is None
    assert called(choice.message) == [("get_weather", {"city": "Bern"}), ("get_weather", {"city": "Rome"})]
    assert len({it.id for it in choice.message.tool_calls or ()}) == 2
    assert completion.usage
    assert completion.usage.prompt_tokens > 0


async def test_a_stream_puts_calls_together_by_their_index(door: Door) -> None:
    long = json.dumps({"city": "B" * 2_500})
    answers(door, Script(text="Both.", calls=(("get_weather", long), ROME)))
    async with sdk(door) as client:
        manager = client.chat.completions.stream(
            model=door.name,
            messages=[user("both")],
            tools=TOOLS,
            stream_options={"include_usage": True},
        )
        async with manager as stream:
            kinds = [event.type async for event in stream]
            whole = await stream.get_final_completion()
    (choice,) = whole.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Both.")
    assert called(choice.message) == [("get_weather", json.loads(long)), ("get_weather", {"city": "Rome"})]
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert whole.usage


async def test_several_rounds_in_one_session_without_history(door: Door) -> None:
    """Only what is new is sent: the hub remembers the calls."""
    async with sdk(door) as client:
        session = {"X-Session-ID": f"rounds-{door.name}"}
        sent: list[Any] = [user("go")]
        for n in range(3):
            answers(door, Script(calls=(("tick", "{}"),), rounds=9))
            answer = await client.chat.completions.create(
                model=door.name, messages=sent, tools=TOOLS, extra_headers=session
            )
            calls = answer.choices[0].message.tool_calls
            assert calls
            sent = [tool(calls[0], f"tick {n}")]
        answers(door, Script(text="Three."))
        answer = await client.chat.completions.create(
            model=door.name, messages=sent, tools=TOOLS, extra_headers=session
        )
    assert answer.choices[0].message.content == "Three."
    roles = [message.role for message in DIALECTS[door.name].read(door.vendor.chats()[0]).messages]
    assert roles == ["user", *["assistant", "tool"] * 3]
    body = (await door.client.get(f"/v1/sessions/rounds-{door.name}")).json()
    assert [it["role"] for it in body["messages"]] == [*roles, "assistant"]
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "tick"
    assert body["messages"][2]["tool_call_id"] == body["messages"][1]["tool_calls"][0]["id"]


async def test_a_call_that_was_never_answered_does_not_stop_the_session(door: Door) -> None:
    async with sdk(door) as client:
        session = {"X-Session-ID": f"left-{door.name}"}
        answers(door, Script(calls=(("tick", "{}"),)))
        await client.chat.completions.create(
            model=door.name,
            messages=[user("go")],
            tools=TOOLS,
            extra_headers=session,
        )
        answers(door, Script(text="Fine."))
        answer = await client.chat.completions.create(
            model=door.name,
            messages=[user("never mind")],
            tools=TOOLS,
            extra_headers=session,
        )
    assert answer.choices[0].message.content == "Fine."
    *_, result, question = DIALECTS[door.name].read(door.vendor.chats()[0]).messages
    assert "not carried out" in result.results[0].text
    assert question.text == "never mind"


async def test_broken_arguments_are_mended_once_or_are_an_error(door: Door) -> None:
    async with sdk(door) as client:
        answers(door, Script(calls=(BROKEN,), first_delay_s=THINKS_S), Script(calls=(BERN,), rounds=9))
        answer = await client.chat.completions.create(model=door.name, messages=[user("go")], tools=TOOLS)
        assert called(answer.choices[0].message) == [("get_weather", {"city": "Bern"})]
        assert len(door.vendor.chats()) == 2
        told = DIALECTS[door.name].read(door.vendor.chats()[1]).messages[-1]
        assert "do not fit its schema" in told.results[0].text
        answers(door, Script(calls=(BROKEN,), first_delay_s=THINKS_S), Script(calls=(BROKEN,), rounds=9))
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=door.name, messages=[user("go")], tools=TOOLS)
    assert (caught.value.status_code, caught.value.code) == (502, "invalid_answer")
    assert len(door.vendor.chats()) == 2


async def test_a_stream_never_shows_broken_arguments(door: Door) -> None:
    answers(door, Script(text="Let me.", calls=(BROKEN,)), Script(calls=(BROKEN,), rounds=9))
    response = await door.client.post(CHAT, json=door.body("go", stream=True, tools=TOOLS))
    lines = data_lines(response.text)
    assert "[DONE]" not in lines
    assert json.loads(lines[-1])["error"]["code"] == "invalid_answer"
    assert "tool_calls" not in response.text


async def test_a_required_call_is_made(door: Door) -> None:
    choice: Any = {"type": "function", "function": {"name": "tick"}}
    answers(door, Script(calls=(("tick", "{}"),), rounds=9))
    async with sdk(door) as client:
        answer = await client.chat.completions.create(
            model=door.name,
            messages=[user("go")],
            tools=TOOLS,
            tool_choice=choice,
            parallel_tool_calls=False,
        )
    assert called(answer.choices[0].message) == [("tick", {})]


async def test_a_session_with_calls_goes_on_with_another_provider(door: Door) -> None:
    session = {"X-Session-ID": f"moves-{door.name}"}
    answers(door, Script(calls=(BERN,)))
    first = await door.client.post(CHAT, json=door.body("go", tools=TOOLS), headers=session)
    assert first.status_code == 200, first.text
    refused = await door.client.post(CHAT, json={**door.body("and?"), "provider": "echo"}, headers=session)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "tools_not_supported")


async def test_a_hundred_conversations_at_once_are_not_mixed(claude: Door) -> None:
    """Each asks for its own number, is given it by a tool of its own, and gets it back in words."""

    async def converse(client: openai.AsyncOpenAI, n: int) -> None:
        wish = {"calls": [{"name": f"look_{n}", "input": {"n": n}}], "text": f"number {n}", "chunks": 1}
        own: Any = {"type": "function", "function": {"name": f"look_{n}", "parameters": {"type": "object"}}}
        messages: list[Any] = [user(f"{n} [[{json.dumps(wish)}]]")]
        first = await client.chat.completions.create(model="claude", messages=messages, tools=[own])
        said = first.choices[0].message
        assert called(said) == [(f"look_{n}", {"n": n})]
        assert said.tool_calls
        messages += [said.model_dump(), tool(said.tool_calls[0], f"secret-{n}")]
        second = await client.chat.completions.create(model="claude", messages=messages, tools=[own])
        assert second.choices[0].message.content == f"number {n}"

    answers(claude)
    async with sdk(claude, timeout=120) as client:
        await asyncio.gather(*(converse(client, n) for n in range(100)))
    for received in claude.vendor.chats():
        upstream = DIALECTS["claude"].read(received)
        number = upstream.messages[0].text.split(" ", 1)[0]
        assert [name.rpartition("__")[2] for name in upstream.tools] == [f"look_{number}"]
        assert all(f"secret-{number}" == it.text for message in upstream.messages for it in message.results)


# --- JSON, images, effort --------------------------------------------------------------------------------------------


async def test_parse_gives_a_model_of_pydantic(door: Door) -> None:
    answers(door, Script(structured='{"x": 3, "label": null}'))
    async with sdk(door) as client:
        answer = await client.chat.completions.parse(
            model=door.name,
            messages=[user("point")],
            response_format=Point,
        )
    assert answer.choices[0].message.parsed == Point(x=3, label=None)
    assert len(door.vendor.chats()) == 1


async def test_json_that_does_not_fit_is_mended_once_or_is_an_error(door: Door) -> None:
    wrong = Script(structured='{"x": "three"}', first_delay_s=THINKS_S)
    right = Script(structured='{"x": 3, "label": "p"}')
    async with sdk(door) as client:
        answers(door, wrong, right)
        answer = await client.chat.completions.parse(
            model=door.name,
            messages=[user("point")],
            response_format=Point,
        )
        assert answer.choices[0].message.parsed == Point(x=3, label="p")
        answers(door, wrong, wrong)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.parse(
                model=door.name,
                messages=[user("point")],
                response_format=Point,
            )
    assert caught.value.code == "invalid_answer"


async def test_streamed_json_is_whole(door: Door) -> None:
    answers(door, Script(structured='{"x": 3, "label": "' + "l" * 500 + '"}'))
    async with sdk(door) as client:
        manager = client.chat.completions.stream(
            model=door.name,
            messages=[user("point")],
            response_format=Point,
        )
        async with manager as stream:
            deltas = [event async for event in stream if event.type == "content.delta"]
            whole = await stream.get_final_completion()
    assert whole.choices[0].message.parsed == Point(x=3, label="l" * 500)
    assert len(deltas) > 1


async def test_any_json_object(door: Door) -> None:
    answers(door, Script(structured='{"a": [1]}'))
    async with sdk(door) as client:
        answer = await client.chat.completions.create(
            model=door.name,
            messages=[user("JSON")],
            response_format={"type": "json_object"},
        )
    assert json.loads(answer.choices[0].message.content or "") == {"a": [1]}


async def test_an_image_reaches_the_model_and_stays_in_the_session(door: Door) -> None:
    session = {"X-Session-ID": f"image-{door.name}"}
    parts: Any = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PNG}}]
    async with sdk(door) as client:
        answers(door, Script(text="A dot."))
        await client.chat.completions.create(
            model=door.name, messages=[{"role": "user", "content": parts}], extra_headers=session
        )
        answers(door, Script(text="Red."))
        await client.chat.completions.create(
            model=door.name,
            messages=[user("Which colour?")],
            extra_headers=session,
        )
    first, said, _ = DIALECTS[door.name].read(door.vendor.chats()[0]).messages
    assert said.text == "A dot."
    assert first.media[0].mime_type == "image/png"
    body = (await door.client.get(f"/v1/sessions/image-{door.name}")).json()
    size = len(base64.b64decode(PNG.partition(",")[2]))
    assert body["messages"][0]["files"] == [{"type": "image/png", "name": None, "bytes": size}]


async def test_effort_is_taken(door: Door) -> None:
    answers(door, Script(text="well"))
    response = await door.client.post(CHAT, json=door.body("hard", reasoning_effort="low"))
    assert response.status_code == 200, response.text
    assert "reasoning_effort" not in response.headers.get("X-Hub-Ignored", "")
    assert "low" in json.dumps(door.vendor.chats()[0].body).lower()


async def test_errors_have_their_classes(door: Door) -> None:
    async with sdk(door) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model=door.name,
                messages=[user("x")],
                tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "strin"}}}],
            )
        assert (refused.value.code, refused.value.param) == ("invalid_value", "tools[0].function.parameters")
        with pytest.raises(openai.BadRequestError) as lacking:
            await client.chat.completions.create(model="echo", messages=[user("x")], tools=TOOLS)
        assert lacking.value.code == "tools_not_supported"
    async with httpx.AsyncClient(base_url=door.hub.url) as nobody:
        assert (await nobody.post(CHAT, json=door.body("x", tools=TOOLS))).status_code == 401
