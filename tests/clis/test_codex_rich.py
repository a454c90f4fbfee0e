"""codex answers in JSON, thinks as hard as it is told, and is shown images."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from providers import errors
from providers.events import (
    ANY_OBJECT,
    Effort,
    Media,
    Message,
    Sampling,
    Tool,
    Toolbox,
    ToolCall,
    ToolResult,
)
from tests.clis.rig import Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

LITE, BESIDE = "gpt-6.1-sol", "gpt-5.5"
models = pytest.mark.parametrize("model", [LITE, BESIDE])

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
GIF = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
WEBP = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"
JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "AQEBAQEBAQEBAQEBAQH/wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAI"
    "AQEAAD8AP//Z"
)
image = Media("image/png", PNG)
ALONE = "Your whole answer is JSON alone, with no word and no fence around it: "


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def codex(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig("codex", tmp_path_factory.mktemp("codex")) as opened:
        yield opened


# --- JSON ------------------------------------------------------------------------------------------------------------

STRICT: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "$defs": {"point": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}},
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z]", "description": "@/etc/hostname"},
        "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "maxItems": 3},
        "kind": {"const": "x"},
    },
    "required": ["points", "kind", "city", "when"],
    "additionalProperties": False,
}


@models
async def test_the_vendor_itself_holds_the_model_to_a_strict_schema(codex: Rig, model: str) -> None:
    script = Script(structured='{"city": "Bern"}')
    answer = await codex.ask(user("where?"), json_schema=json.dumps(STRICT).encode(), script=script, model=model)
    assert (answer.text, answer.finished.reason) == ('{"city": "Bern"}', "stop")
    asked = answer.received[0].body["text"]["format"]
    assert asked == {"type": "json_schema", "strict": True, "schema": STRICT, "name": "codex_output_schema"}
    upstream = codex.upstream(answer)
    assert (upstream.system, upstream.messages) == ("", (user("where?"),))


OPEN = {"type": "object", "properties": {"city": {"type": "string"}}}
CLOSED = {**OPEN, "required": ["city"], "additionalProperties": False}
REFUSED_IF_STRICT: dict[str, dict[str, Any]] = {
    "open": {**CLOSED, "additionalProperties": True},
    "optional": {**CLOSED, "required": []},
    "unclosed": OPEN,
    "list": {"type": "array", "items": CLOSED},
    "choice": {"anyOf": [CLOSED]},
    "inner": {**CLOSED, "properties": {"city": OPEN}},
    "length": {**CLOSED, "properties": {"city": {"type": "string", "minLength": 1}}},
    "format": {**CLOSED, "properties": {"city": {"type": "string", "format": "city"}}},
    "one_of": {**CLOSED, "properties": {"city": {"oneOf": [{"type": "string"}]}}},
    "default": {**CLOSED, "properties": {"city": {"type": "string", "default": "Bern"}}},
}


@pytest.mark.parametrize("name", REFUSED_IF_STRICT)
async def test_a_schema_the_vendor_would_refuse_is_told_to_the_model(codex: Rig, name: str) -> None:
    schema = REFUSED_IF_STRICT[name]
    script = Script(text='{"city": "Bern"}')
    wanted = json.dumps(schema).encode()
    answer = await codex.ask(user("where?"), json_schema=wanted, script=script, system="Be brief.")
    assert answer.text == '{"city": "Bern"}'
    assert "text" not in answer.received[0].body
    order = codex.upstream(answer).system
    assert order.startswith(f"Be brief.{ALONE}an instance of this JSON Schema: ")
    assert json.loads(order.rpartition("Schema: ")[2]) == schema
    assert codex.upstream(answer).messages == (user("where?"),)


@models
async def test_any_object_is_told_to_the_model(codex: Rig, model: str) -> None:
    answer = await codex.ask(user("where?"), json_schema=ANY_OBJECT, script=Script(structured="{}"), model=model)
    assert (answer.text, codex.upstream(answer).system) == ("{}", f"{ALONE}one object.")
    assert "text" not in answer.received[0].body


async def test_json_and_words_take_turns_in_one_conversation(codex: Rig) -> None:
    strict, history = json.dumps(CLOSED).encode(), []
    for schema, is_held, note in ((b"", False, ""), (strict, True, ""), (ANY_OBJECT, False, ALONE), (b"", False, "")):
        history.append(user("where?"))
        answer = await codex.ask(*history, json_schema=schema, script=Script(text='{"city": "Bern"}'))
        assert codex.upstream(answer).messages == tuple(history)
        assert ("text" in answer.received[0].body) == is_held
        assert codex.upstream(answer).system.startswith(note)
        assert bool(codex.upstream(answer).system) == bool(note)
        history.append(assistant('{"city": "Bern"}'))


@models
async def test_json_beside_tools(codex: Rig, model: str) -> None:
    toolbox, schema = Toolbox((Tool("tick"),)), json.dumps(CLOSED).encode()
    question = user("where?")
    asked = await codex.ask(
        question, toolbox=toolbox, json_schema=schema, script=Script(calls=(("tick", "{}"),)), model=model
    )
    (call,) = asked.calls
    conversation = (question, Message("assistant", (call,)), Message("tool", (ToolResult(call.id, ("Bern",)),)))
    script = Script(structured='{"city": "Bern"}')
    answer = await codex.ask(*conversation, toolbox=toolbox, json_schema=schema, script=script, model=model)
    assert (answer.text, codex.upstream(answer).messages) == ('{"city": "Bern"}', conversation)
    for received in (*asked.received, *answer.received):
        assert received.body["text"]["format"]["schema"] == CLOSED


# --- effort ----------------------------------------------------------------------------------------------------------


@models
@pytest.mark.parametrize(
    ("wanted", "told"),
    [("none", "low"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "xhigh")],
)
async def test_effort_in_words_the_model_takes(codex: Rig, model: str, wanted: Effort, told: str) -> None:
    answer = await codex.ask(user("hello"), sampling=Sampling(reasoning_effort=wanted), model=model)
    assert answer.received[0].body["reasoning"]["effort"] == told


async def test_effort_holds_for_its_turn_alone(codex: Rig) -> None:
    history: list[Message] = []
    for effort, told, start in (("high", "high", "reused"), ("high", "high", "kept"), (None, "low", "kept")):
        history.append(user("an effort"))
        answer = await codex.ask(*history, sampling=Sampling(reasoning_effort=effort))  # type: ignore[arg-type]
        assert answer.received[0].body["reasoning"]["effort"] == told
        assert codex.upstream(answer).messages == tuple(history)
        assert answer.started.start == start
        history.append(assistant("well then"))


async def test_an_unknown_model_is_told_what_was_asked(codex: Rig) -> None:
    answer = await codex.ask(user("hello"), sampling=Sampling(reasoning_effort="minimal"), model="gpt-99")
    assert answer.received[0].body["reasoning"]["effort"] == "minimal"
    assert "effort" not in (await codex.ask(user("hello"), model="gpt-99")).received[0].body["reasoning"]


# --- images ----------------------------------------------------------------------------------------------------------


@models
async def test_images_as_question_in_history_and_in_results(codex: Rig, model: str) -> None:
    call = ToolCall("call_1", "look", "{}")
    conversation = [Message("user", ("this: ", image, "and ", image)), assistant("two dots")]
    conversation += [Message("user", (image, "what?"))]
    answer = await codex.ask(*conversation, model=model)
    assert codex.upstream(answer).messages == tuple(conversation)
    conversation += [assistant("a dot"), user("look"), Message("assistant", ("I do", call))]
    conversation += [Message("tool", (ToolResult("call_1", ("there", image, "!")),))]
    answer = await codex.ask(*conversation, model=model, toolbox=Toolbox((Tool("look"),)))
    assert codex.upstream(answer).messages == tuple(conversation)


async def test_a_conversation_with_an_image_is_gone_on_with(codex: Rig) -> None:
    history = [Message("user", ("this", image)), assistant("well then")]
    await codex.ask(history[0])
    for question in (user("sure?"), Message("user", (image, "and now?"))):
        history.append(question)
        answer = await codex.ask(*history)
        assert answer.started.start == "kept"
        assert codex.upstream(answer).messages == tuple(history)
        history.append(assistant("well then"))


@models
@pytest.mark.parametrize(("kind", "data"), [("png", PNG), ("webp", WEBP), ("jpeg", JPEG)])
async def test_kinds_of_images_arrive_as_they_are(codex: Rig, model: str, kind: str, data: str) -> None:
    question = Message("user", (Media(f"image/{kind}", data),))
    assert codex.upstream(await codex.ask(question, model=model)).messages == (question,)


@models
async def test_a_gif_arrives_as_a_png(codex: Rig, model: str) -> None:
    (message,) = codex.upstream(await codex.ask(Message("user", (Media("image/gif", GIF),)), model=model)).messages
    assert [media.mime_type for media in message.media] == ["image/png"]


async def test_an_image_the_cli_cannot_read_is_told_to_the_model_as_left_out(codex: Rig) -> None:
    """A gap: the CLI tells nobody else."""
    (message,) = codex.upstream(await codex.ask(Message("user", (Media("image/png", "aGVsbG8="), "this")))).messages
    assert message.blocks == ("image content omitted because it could not be processed", "this")


async def test_a_document_is_refused_before_the_cli_sees_it(codex: Rig) -> None:
    answer = await codex.ask(Message("user", (Media("application/pdf", "JVBERi0xLjQKJSVFT0YK", "a.pdf"), "read")))
    assert type(answer.error) is errors.MediaUnsupported
    assert answer.received == []
