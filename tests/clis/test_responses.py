"""The Responses API with the real claude behind it: tools, JSON, images, and history that is sent or remembered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.responses import Response
from pydantic import BaseModel

from providers.events import Media
from tests.clis.dialects import DIALECTS, Upstream
from tests.clis.test_rest import HTTP_TIMEOUT_S, Door, open_door
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
TOOLS: Any = [WEATHER]
BERN, ROME = ("get_weather", '{"city": "Bern"}'), ("get_weather", '{"city": "Rome"}')


class Point(BaseModel):
    x: int
    label: str | None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door("claude", tmp_path_factory.mktemp("claude")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{door.hub.url}/v1", api_key=door.hub.key, max_retries=0, timeout=HTTP_TIMEOUT_S
    ) as client:
        yield client


def answers(door: Door, *scripts: Script) -> None:
    door.vendor.clear()
    door.vendor.next(*scripts)


def upstream(door: Door) -> Upstream:
    """The last request that reached the vendor."""
    return DIALECTS["claude"].read(door.vendor.chats()[-1])


def calls_of(response: Response) -> list[tuple[str, Any]]:
    return [(it.name, json.loads(it.arguments)) for it in response.output if it.type == "function_call"]


# --- functions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True], ids=["history sent", "previous response"])
async def test_a_tools_round_trip(door: Door, sdk: openai.AsyncOpenAI, is_remembered: bool) -> None:
    answers(door, Script(text="Let me see.", calls=(BERN,)), Script(text="Warm."))
    first = await sdk.responses.create(model="claude", input="How is it in Bern?", tools=TOOLS)
    assert (first.status, first.output_text) == ("completed", "Let me see.")
    assert calls_of(first) == [("get_weather", {"city": "Bern"})]
    (call,) = [it for it in first.output if it.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    if is_remembered:
        asked: dict[str, Any] = {"input": [result], "previous_response_id": first.id}
    else:
        history = [{"role": "user", "content": "How is it in Bern?"}, *(it.to_dict() for it in first.output)]
        asked = {"input": [*history, result]}
    second = await sdk.responses.create(model="claude", tools=TOOLS, **asked)
    assert second.output_text == "Warm."
    question, said, returned = upstream(door).messages
    assert question.text == "How is it in Bern?"
    assert (said.text, [it.name for it in said.calls]) == ("Let me see.", ["get_weather"])
    assert [it.text for it in returned.results] == ["21 degrees"]
    items = (await sdk.responses.input_items.list(second.id, order="asc")).data
    assert items[-1].type == "function_call_output"


async def test_parallel_calls_come_streamed(door: Door, sdk: openai.AsyncOpenAI) -> None:
    answers(door, Script(calls=(BERN, ROME)))
    async with sdk.responses.stream(model="claude", input="Both?", tools=TOOLS) as stream:
        grown = [it.snapshot async for it in stream if it.type == "response.function_call_arguments.delta"]
        final = await stream.get_final_response()
    assert calls_of(final) == [("get_weather", {"city": "Bern"}), ("get_weather", {"city": "Rome"})]
    assert [json.loads(it)["city"] for it in grown] == ["Bern", "Rome"]
    assert [it.parsed_arguments for it in final.output if it.type == "function_call"] == [
        {"city": "Bern"},
        {"city": "Rome"},
    ]
    found = await sdk.responses.retrieve(final.id)
    assert [it.to_dict() for it in found.output] == [
        {name: value for name, value in it.to_dict().items() if name != "parsed_arguments"} for it in final.output
    ]


async def test_a_function_that_is_named_has_to_be_called(door: Door, sdk: openai.AsyncOpenAI) -> None:
    answers(door, Script(calls=(BERN,)))
    choice: Any = {"type": "function", "name": "get_weather"}
    response = await sdk.responses.create(model="claude", input="Bern", tools=TOOLS, tool_choice=choice)
    assert calls_of(response) == [("get_weather", {"city": "Bern"})]
    assert door.vendor.chats()[-1].body["tool_choice"]["type"] == "tool"
    assert response.tool_choice.to_dict() == choice  # type: ignore[union-attr]


# --- JSON, images, thoughts ------------------------------------------------------------------------------------------


async def test_json_is_parsed_whole_and_streamed(door: Door, sdk: openai.AsyncOpenAI) -> None:
    answers(door, Script(structured='{"x": 1, "label": null}'), Script(structured='{"x": 2, "label": "b"}'))
    whole = await sdk.responses.parse(model="claude", input="a point", text_format=Point)
    assert whole.output_parsed == Point(x=1, label=None)
    async with sdk.responses.stream(model="claude", input="a point", text_format=Point) as stream:
        assert (await stream.get_final_response()).output_parsed == Point(x=2, label="b")


async def test_images_reach_the_vendor(door: Door, sdk: openai.AsyncOpenAI) -> None:
    answers(door, Script(text="A dot."))
    parts: Any = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    response = await sdk.responses.create(model="claude", input=[{"role": "user", "content": parts}])
    assert response.output_text == "A dot."
    (question,) = upstream(door).messages
    assert question.blocks == ("What is it?", Media("image/png", PNG))
    (item,) = (await sdk.responses.input_items.list(response.id)).data
    assert [part.type for part in item.content] == ["input_text", "input_image"]  # type: ignore[union-attr]


async def test_thoughts_are_an_item_of_their_own(door: Door, sdk: openai.AsyncOpenAI) -> None:
    answers(door, *[Script(text="well then", thinking="Hm, well.")] * 2)
    whole = await sdk.responses.create(model="claude", input="think", reasoning={"effort": "high", "summary": "auto"})
    assert [it.type for it in whole.output] == ["reasoning", "message"]
    async with sdk.responses.stream(model="claude", input="think") as stream:
        thoughts = [it.delta async for it in stream if it.type == "response.reasoning_summary_text.delta"]
        final = await stream.get_final_response()
    assert "".join(thoughts) == "Hm, well."
    assert final.output_text == "well then"


# --- what is remembered ----------------------------------------------------------------------------------------------


async def test_the_model_sees_the_conversation_up_to_the_response_it_goes_on_from(
    door: Door, sdk: openai.AsyncOpenAI
) -> None:
    answers(door, *(Script(text=f"answer {n}") for n in range(1, 6)))
    first = await sdk.responses.create(model="claude", input="question 1", instructions="Be brief.")
    second = await sdk.responses.create(model="claude", input="question 2", previous_response_id=first.id)
    begun = ["question 1", "answer 1"]
    assert [it.text for it in upstream(door).messages] == [*begun, "question 2"]
    assert upstream(door).system == "Be brief."
    await sdk.responses.create(model="claude", input="question 3", previous_response_id=first.id)
    assert [it.text for it in upstream(door).messages] == [*begun, "question 3"], "it did not branch off"
    await sdk.responses.create(model="claude", input="question 4", previous_response_id=second.id, store=False)
    assert [it.text for it in upstream(door).messages] == [*begun, "question 2", "answer 2", "question 4"]
    assert second.conversation is not None
    named = second.conversation.id
    await sdk.responses.create(model="claude", input="question 5", conversation=named, store=False)
    assert [it.text for it in upstream(door).messages] == [*begun, "question 2", "answer 2", "question 5"]
    body: Any = await sdk.get(f"/sessions/{named}", cast_to=object)
    assert len(body["messages"]) == 5, "more was kept than was to be stored"


async def test_a_stream_cut_late_fails_and_is_not_kept(door: Door, sdk: openai.AsyncOpenAI) -> None:
    answers(door, Script(chunks=4, delay_s=0.02, cut_after=2))
    seen = []
    with pytest.raises(openai.APIError) as caught:
        async for event in await sdk.responses.create(model="claude", input="hello", stream=True):
            seen.append(event)
    assert caught.value.code == "vendor_stream_cut"
    assert seen[-1].type == "response.failed"
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(seen[-1].response.id)
