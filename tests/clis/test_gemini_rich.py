"""gemini with images, files, answers in JSON and an effort: as the vendor wants them, in the order they were said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from providers import errors
from providers.adapters import gemini_files
from providers.adapters.base import Program
from providers.adapters.gemini import MEDIA, GeminiAdapter
from providers.adapters.gemini_generation import thinking_config
from providers.adapters.gemini_record import Recorded, read_record
from providers.events import ANY_OBJECT, Effort, Media, Message, Sampling, Tool, Toolbox, ToolCall, ToolResult, Turn
from tests.clis.rig import Answer, Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"name": {"type": "string", "pattern": "^[$]HOME$", "description": "${GEMINI_API_KEY} $HOME"}},
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}, "constructor": {"type": ["integer", "null"]}},
    "required": ["name"],
    "additionalProperties": False,
}
SCHEMA_JSON = json.dumps(SCHEMA).encode()
TICK = Toolbox((Tool("tick"),))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gemini(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig("gemini", tmp_path_factory.mktemp("gemini")) as opened:
        yield opened


def config_of(answer: Answer) -> dict[str, Any]:
    (received,) = answer.received
    config: dict[str, Any] = received.body["generationConfig"]
    return config


# --- images and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mime_type", MEDIA)
async def test_what_can_be_shown_is_shown_in_its_place(gemini: Rig, mime_type: str) -> None:
    question = Message("user", ("first", Media(mime_type, PNG), "then", Media(mime_type, "AAAA"), "what are they?"))
    answer = await gemini.ask(question, script=Script(text="two dots"))
    assert gemini.upstream(answer).messages == (question,)
    assert (answer.text, answer.finished.reason) == ("two dots", "stop")
    assert answer.finished.usage is not None


async def test_an_image_alone_and_images_of_before_are_shown(gemini: Rig) -> None:
    image = Message("user", (Media("image/jpeg", PNG),))
    history = (
        image,
        assistant("a dot"),
        Message("user", ("and", Media("image/png", PNG))),
        assistant("so"),
        user("why?"),
    )
    assert gemini.upstream(await gemini.ask(image)).messages == (image,)
    answer = await gemini.ask(*history, system="Be brief.", sampling=Sampling(max_tokens=50, stop=("$HOME",)))
    upstream = gemini.upstream(answer)
    assert (upstream.messages, upstream.system) == (history, "Be brief.")
    assert (upstream.sampling.max_tokens, upstream.sampling.stop) == (50, ("$HOME",))


async def test_what_can_not_be_shown_is_refused(gemini: Rig) -> None:
    answer = await gemini.ask(Message("user", (Media("image/gif", PNG),)))
    assert isinstance(answer.error, errors.MediaUnsupported)
    assert answer.received == []


async def test_a_model_by_another_name_gets_the_image_too(gemini: Rig) -> None:
    question = Message("user", ("what?", Media("image/png", PNG)))
    for model in ("gemini-3-pro-preview", "gemini-2.5-flash-lite", "gemini-99-unknown"):
        assert gemini.upstream(await gemini.ask(question, model=model)).messages == (question,)


async def test_vertex_is_asked_alike(tmp_path: Path) -> None:
    def env(url: str) -> dict[str, str]:
        return {"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_API_KEY": "dummy", "GOOGLE_VERTEX_BASE_URL": url}

    call = ToolCall("c1", "tick", "{}")
    history = (
        Message("user", ("go", Media("image/png", PNG))),
        Message("assistant", (call,)),
        Message("tool", (ToolResult("c1", ("ok",)),)),
    )
    async with open_rig("gemini", tmp_path, env=env) as rig:
        answer = await rig.ask(*history, script=Script(calls=(("tick", "{}"),), rounds=9), toolbox=TICK)
        upstream = rig.upstream(answer)
        assert answer.received[0].path.startswith("/v1beta1/publishers/google/models/")
        assert (upstream.messages, upstream.tools) == (history, ("tick",))
        assert [it.name for it in answer.calls] == ["tick"]


async def test_a_process_that_was_shown_much_is_replaced(gemini: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CLI keeps the settings of every session until it ends."""
    pid = await gemini.pid()
    monkeypatch.setattr(gemini_files, "MAX_HELD_BYTES", 2_000_000)
    big = Message("user", ("what?", Media("image/png", "A" * 2_000_000)))
    answer = await gemini.ask(big, script=Script(text="big"))
    assert gemini.upstream(answer).messages == (big,)
    await gemini.settled()
    assert gemini.pids() != {pid}
    assert (await gemini.ask(user("hello"))).text == "well then"


# --- JSON ------------------------------------------------------------------------------------------------------------


async def test_an_answer_in_json_is_asked_for_by_its_schema(gemini: Rig) -> None:
    script = Script(structured='{"name": "$HOME"}')
    answer = await gemini.ask(user("who?"), script=script, json_schema=SCHEMA_JSON)
    config = config_of(answer)
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", SCHEMA)
    assert gemini.upstream(answer).messages == (user("who?"),)
    assert (answer.text, answer.finished.reason) == ('{"name": "$HOME"}', "stop")


async def test_any_object_is_asked_for_by_type_alone(gemini: Rig) -> None:
    answer = await gemini.ask(user("who?"), script=Script(structured='{"a": 1}'), json_schema=ANY_OBJECT)
    config = config_of(answer)
    assert config["responseMimeType"] == "application/json"
    assert "responseJsonSchema" not in config
    assert answer.text == '{"a": 1}'


@pytest.mark.parametrize(("model", "is_both"), [("gemini-3.8-flash", True), ("gemini-2.5-flash", False)])
async def test_json_beside_tools_is_asked_of_models_that_can_both(gemini: Rig, model: str, is_both: bool) -> None:
    answer = await gemini.ask(
        user("go"), script=Script(calls=(("tick", "{}"),)), toolbox=TICK, json_schema=SCHEMA_JSON, model=model
    )
    assert ("responseJsonSchema" in config_of(answer)) is is_both
    assert answer.calls


async def test_json_with_an_image_and_the_turn_after_it(gemini: Rig) -> None:
    before = (await gemini.ask(user("hello"))).received[0].body
    question = Message("user", ("what?", Media("image/png", PNG)))
    answer = await gemini.ask(question, script=Script(structured="{}"), json_schema=SCHEMA_JSON)
    assert config_of(answer)["responseJsonSchema"] == SCHEMA
    assert gemini.upstream(answer).messages == (question,)
    assert (await gemini.ask(user("hello"))).received[0].body == before


# --- effort ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-3.8-flash", "none", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-3.8-flash", "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ("gemini-3.1-pro-preview", "medium", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-3-pro-preview", "low", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-2.5-flash", "none", {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"includeThoughts": True, "thinkingBudget": 128}),
        ("gemini-2.5-pro", "xhigh", {"includeThoughts": True, "thinkingBudget": 32_768}),
    ],
)
async def test_effort_is_told_in_the_terms_of_the_models_generation(
    gemini: Rig, model: str, effort: Effort, config: dict[str, Any]
) -> None:
    answer = await gemini.ask(user("think"), model=model, sampling=Sampling(reasoning_effort=effort))
    assert config_of(answer)["thinkingConfig"] == config
    assert gemini.upstream(answer).messages == (user("think"),)


async def test_models_that_do_not_think_are_not_told_to() -> None:
    assert thinking_config("gemini-2.0-flash", "high") == {}


# --- the pieces ------------------------------------------------------------------------------------------------------


async def test_a_login_whose_requests_can_not_hold_them_is_told_so(tmp_path: Path) -> None:
    adapter = GeminiAdapter(Program(tmp_path, {"GOOGLE_GENAI_USE_GCA": "true", "GOOGLE_CLOUD_ACCESS_TOKEN": "t"}))
    plain = Turn((user("hello"),))
    adapter.check(replace(plain, json_schema=SCHEMA_JSON))
    with pytest.raises(errors.ToolsUnsupported):
        adapter.check(replace(plain, toolbox=TICK))
    with pytest.raises(errors.MediaUnsupported):
        adapter.check(Turn((Message("user", (Media("image/png", PNG),)),)))
    GeminiAdapter(Program(tmp_path, {"GEMINI_API_KEY": "k"})).check(replace(plain, toolbox=TICK))


def record(*candidates: Any) -> bytes:
    response = [{"candidates": [it], "usageMetadata": {"promptTokenCount": 3}} for it in candidates]
    return json.dumps({"method": "generateContentStream", "response": response}).encode()


async def test_a_call_without_an_id_gets_one_and_no_prefix_is_left() -> None:
    parts = [{"functionCall": {"name": "a"}}, {"functionCall": {"name": "b", "id": "b__x", "args": {"n": 1}}}]
    found = read_record(record({"content": {"parts": parts}}, {"finishReason": "STOP"}), {"b": "B"})
    first, second = found.calls
    assert first.id.startswith("call_")
    assert first.arguments == "{}"
    assert second == ToolCall("x", "B", '{"n":1}')
    assert (found.end, found.reason, found.tokens["input"]) == ("STOP", "tool_calls", 3)


@pytest.mark.parametrize("data", [b"", b"torn {", b"[]", b'{"method":"countTokens"}', record(None, 1, {"content": {}})])
async def test_a_record_that_tells_nothing_has_no_calls_and_no_end(data: bytes) -> None:
    found = read_record(data, {})
    assert (found.calls, found.end, found.reason) == ((), "", None)


async def test_calls_of_an_answer_that_was_cut_off_are_none() -> None:
    assert Recorded((ToolCall("i", "a", "{}"),), "MAX_TOKENS").reason == "length"
