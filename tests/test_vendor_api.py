"""The stand-in vendors answer as scripted, and say truthfully what came in."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.vendor_api import Script, VendorApi

GEMINI_STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[VendorApi]:
    async with VendorApi() as vendor:
        yield vendor


@pytest_asyncio.fixture
async def http(vendor: VendorApi) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(vendor.url, timeout=aiohttp.ClientTimeout(5)) as session:
        yield session


def anthropic_body(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-sonnet-5-5", "messages": messages, "max_tokens": 1000, "stream": True} | fields


def gemini_body(text: str, **config: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}


def openai_body(text: str, **fields: Any) -> dict[str, Any]:
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"model": "gpt-6.1-sol", "input": [message], "stream": True} | fields


async def events_of(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    lines = (await response.text()).splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def text_of(events: list[dict[str, Any]]) -> list[str]:
    """The text pieces of either vendor's events."""
    pieces = []
    for event in events:
        match event:
            case {"delta": {"text": str(text)}} | {"candidates": [{"content": {"parts": [{"text": str(text)}]}}]}:
                pieces.append(text)
    return pieces


async def ask(http: aiohttp.ClientSession, text: str, **fields: Any) -> list[dict[str, Any]]:
    async with http.post("/v1/messages?beta=true", json=anthropic_body(text, **fields)) as response:
        assert response.status == 200
        return await events_of(response)


async def ask_openai(http: aiohttp.ClientSession, text: str) -> list[dict[str, Any]]:
    async with http.post("/v1/responses", json=openai_body(text)) as response:
        assert response.status == 200
        return await events_of(response)


async def ask_gemini(http: aiohttp.ClientSession, text: str, **config: Any) -> list[dict[str, Any]]:
    async with http.post(GEMINI_STREAM, json=gemini_body(text, **config)) as response:
        assert response.status == 200
        return await events_of(response)


async def test_both_vendors_echo_the_last_user_text_in_the_asked_number_of_pieces(http: aiohttp.ClientSession) -> None:
    text = "[[chunks=5]] hällo"
    anthropic, gemini = text_of(await ask(http, text)), text_of(await ask_gemini(http, text))
    assert "".join(anthropic) == "".join(gemini) == f"echo: {text}"
    assert len(anthropic) == len(gemini) == 5


async def test_openais_answer_comes_in_numbered_events_with_usage(http: aiohttp.ClientSession) -> None:
    """OpenAI counts cached tokens among the prompt's, and thoughts among the answer's (vendor format)."""
    events = await ask_openai(http, "[[chunks=4 cached=2 thinking=hmmm]] hi")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "echo: [[chunks=4 cached=2 thinking=hmmm]] hi"
    usage = events[-1]["response"]["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 2}
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (5, {"reasoning_tokens": 1})


async def test_openais_failures_come_as_status_and_within_the_stream(http: aiohttp.ClientSession) -> None:
    for status in (400, 401, 403, 404, 413, 429, 500, 503, 529):
        async with http.post("/v1/responses", json=openai_body(f"[[status={status} retry_after=7]]")) as response:
            error = (await response.json())["error"]
            assert (response.status, response.headers["retry-after"]) == (status, "7")
            assert set(error) == {"message", "type", "param", "code"}
    for directive, code in (
        ("too_long=true", "context_length_exceeded"),
        ("sse_error_after=2", "server_is_overloaded"),
    ):
        events = await ask_openai(http, f"[[{directive}]]")
        assert (events[-1]["type"], events[-1]["response"]["error"]["code"]) == ("response.failed", code)


async def test_openais_plan_tells_window_and_reset(http: aiohttp.ClientSession) -> None:
    text = "[[status=429 unified=true reset=1795400000 claim=seven_day]]"
    async with http.post("/v1/responses", json=openai_body(text)) as response:
        error, headers = (await response.json())["error"], response.headers
    assert (error["type"], error["resets_at"]) == ("usage_limit_reached", 1795400000)
    assert headers["x-codex-secondary-reset-at"] == "1795400000"
    assert headers["x-codex-secondary-window-minutes"] == "10080"


async def test_usage_counts_prompt_characters_and_pieces(http: aiohttp.ClientSession) -> None:
    """Anthropic leaves cached tokens out of its prompt count, Gemini keeps them in (vendor formats)."""
    events = await ask(http, "[[cached=2 chunks=4]]", system="x" * 19)  # 40 characters
    start, delta = events[0]["message"]["usage"], events[-2]["usage"]
    assert (start["input_tokens"], start["cache_read_input_tokens"], delta["output_tokens"]) == (8, 2, 4)
    usage = (await ask_gemini(http, "[[cached=2 chunks=4]]"))[-1]["usageMetadata"]  # 21 characters
    assert (usage["promptTokenCount"], usage["cachedContentTokenCount"], usage["candidatesTokenCount"]) == (6, 2, 4)


async def test_own_notes_of_the_clis_are_not_the_last_user_text(http: aiohttp.ClientSession) -> None:
    blocks = [{"type": "text", "text": text} for text in ("hi", "<system-reminder>now</system-reminder>")]
    messages = [{"role": "user", "content": blocks}, {"role": "system", "content": "# Environment"}]
    assert "".join(text_of(await ask(http, "", messages=messages))) == "echo: hi"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529])
async def test_scripted_status_comes_with_the_vendors_error_body(http: aiohttp.ClientSession, status: int) -> None:
    text = f"[[status={status} retry_after=7]]"
    async with http.post("/v1/messages", json=anthropic_body(text)) as response:
        body = await response.json()
        assert (response.status, response.headers["retry-after"]) == (status, "7")
        assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
    async with http.post(GEMINI_STREAM, json=gemini_body(text)) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, status)
        assert error["details"][-1]["retryDelay"] == "7s"


async def test_subscription_limit_headers_name_window_and_reset(http: aiohttp.ClientSession) -> None:
    text = "[[status=429 unified=true reset=1795400000 claim=seven_day]]"
    async with http.post("/v1/messages", json=anthropic_body(text)) as response:
        headers = response.headers
    assert headers["anthropic-ratelimit-unified-status"] == "rejected"
    assert headers["anthropic-ratelimit-unified-reset"] == "1795400000"
    assert headers["anthropic-ratelimit-unified-representative-claim"] == "seven_day"


async def test_requested_limits_end_the_answer(http: aiohttp.ClientSession) -> None:
    events = await ask(http, "[[chunks=9]] hello", max_tokens=2)
    assert (len(text_of(events)), events[-2]["delta"]["stop_reason"]) == (2, "max_tokens")
    events = await ask(http, "one STOP two", stop_sequences=["STOP"])
    assert ("".join(text_of(events)), events[-2]["delta"]["stop_sequence"]) == ("echo: one ", "STOP")
    events = await ask_gemini(http, "[[chunks=9]] hello", maxOutputTokens=2)
    assert (len(text_of(events)), events[-1]["candidates"][0]["finishReason"]) == (2, "MAX_TOKENS")


async def test_tools_are_called_once_and_their_result_ends_it(http: aiohttp.ClientSession) -> None:
    text = "[[tools=Read,Bash]]"
    events = await ask(http, text)
    calls = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert [call["name"] for call in calls] == ["Read", "Bash"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": calls[0]["id"], "content": "no"}
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": [result]},
    ]
    assert "".join(text_of(await ask(http, "", messages=messages))) == f"echo: {text}"


async def test_error_inside_the_stream_follows_the_pieces(http: aiohttp.ClientSession) -> None:
    events = await ask(http, "[[sse_error_after=2 chunks=5]]")
    assert (len(text_of(events)), events[-1]["error"]["type"]) == (2, "overloaded_error")
    events = await ask_gemini(http, "[[sse_error_after=2 chunks=5]]")
    assert (len(text_of(events)), events[-1]["error"]["code"]) == (2, 503)


async def test_geminis_error_inside_the_stream_can_come_as_bare_json(http: aiohttp.ClientSession) -> None:
    """Google's own client library recognises it only like that, and only in a read of its own (google-genai)."""
    async with http.post(GEMINI_STREAM, json=gemini_body("[[sse_error_after=2 sse_error_bare=true]]")) as response:
        reads = [chunk async for chunk in response.content.iter_any()]
    assert json.loads(reads[-1])["error"]["code"] == 503


async def test_cut_connection_breaks_the_response_and_counts_as_no_hang_up(
    vendor: VendorApi, http: aiohttp.ClientSession
) -> None:
    async with http.post("/v1/messages", json=anthropic_body("[[cut_after=1]]")) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            while line := await response.content.readline():
                assert b"message_stop" not in line
    assert [received.aborted for received in vendor.received] == [False]


async def test_client_that_hangs_up_during_silence_is_seen_at_once(
    vendor: VendorApi, http: aiohttp.ClientSession
) -> None:
    async with http.post("/v1/messages", json=anthropic_body("[[hang_after=1]]")) as response:
        await response.content.readline()
        assert not vendor.received[0].aborted
        response.close()
    received = await vendor.wait_for_abort()
    assert received.closed_at is not None
    assert received.closed_at >= received.at


async def test_one_shot_scripts_come_before_the_default(vendor: VendorApi, http: aiohttp.ClientSession) -> None:
    vendor.script = Script(text="always")
    vendor.next(Script(text="first"), Script(text="second"))
    assert ["".join(text_of(await ask(http, "hi"))) for _ in range(3)] == ["first", "second", "always"]


async def test_directive_with_times_wears_off(http: aiohttp.ClientSession) -> None:
    """A CLI that retries sends the same prompt again, so the prompt alone cannot say when to relent (stand-in rule)."""
    text = "[[status=500 times=1]] hi"
    async with http.post("/v1/messages", json=anthropic_body(text)) as response:
        assert response.status == 500
    assert "".join(text_of(await ask(http, text))) == f"echo: {text}"


async def test_unknown_directive_key_is_refused_loudly(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/messages", json=anthropic_body("[[chnks=3]]")) as response:
        assert response.status == 400
        assert "chnks" in (await response.json())["error"]["message"]


async def test_secrets_are_shortened_in_the_record(vendor: VendorApi, http: aiohttp.ClientSession) -> None:
    headers = {"x-api-key": "sk-ant-secret", "authorization": "Bearer sk-ant-secret"}
    async with http.get("/nowhere?key=sk-ant-secret", headers=headers) as response:
        assert response.status == 404
    received = vendor.received[0]
    assert (received.kind, received.path) == ("other", "/nowhere?key=sk-ant")
    assert received.headers["authorization"] == "Bearer sk-ant"
    assert "secret" not in str(received)


async def test_whole_answers_token_counts_and_model_lists_are_served(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/messages", json=anthropic_body("hi", stream=False)) as response:
        assert (await response.json())["content"] == [{"type": "text", "text": "echo: hi"}]
    async with http.post("/v1/messages/count_tokens", json=anthropic_body("12345")) as response:
        assert await response.json() == {"input_tokens": 2}
    async with http.post("/v1beta/models/m:generateContent", json=gemini_body("hi")) as response:
        parts = (await response.json())["candidates"][0]["content"]["parts"]
        assert "".join(part["text"] for part in parts) == "echo: hi"
    async with http.get("/v1/models") as response:
        assert (await response.json())["data"]


async def test_another_process_can_script_and_read_over_http(vendor: VendorApi, http: aiohttp.ClientSession) -> None:
    async with http.post("/_script", json={"text": "hello", "chunks": 1}) as response:
        assert response.status == 204
    assert text_of(await ask(http, "hi")) == ["hello"]
    async with http.get("/_received") as response:
        assert [r["body"]["messages"][0]["content"] for r in await response.json()] == ["hi"]
    async with http.delete("/_received"):
        assert vendor.received == []


async def test_a_hundred_streams_are_served_side_by_side(vendor: VendorApi, http: aiohttp.ClientSession) -> None:
    """One after the other, they would take 20 s."""
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(ask(http, f"[[chunks=5 delay=0.05]] {n}") for n in range(100)))
    assert ["".join(text_of(events)).split()[-1] for events in answers] == [str(n) for n in range(100)]
    assert len(await vendor.wait_for(100)) == 100
