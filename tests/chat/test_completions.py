"""POST /v1/chat/completions answers in OpenAI's shape, whole and streamed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.asking import CHAT, answer_of, ask, chunks_of, error_of, streamed_text


def test_whole_answer_has_openais_shape_with_the_provider_beside_it(http: httpx.Client) -> None:
    body = http.post(CHAT, json=ask("Hello there")).json()
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "echo",
        "provider": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 8,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_stream_has_one_id_and_one_model_throughout(http: httpx.Client) -> None:
    chunks = chunks_of(http.post(CHAT, json=ask("Hello there", stream=True)))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["provider"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_stream_names_the_role_in_its_first_delta_only(http: httpx.Client) -> None:
    first, *others = chunks_of(http.post(CHAT, json=ask("Hello there", stream=True)))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in chunk["choices"][0]["delta"] for chunk in others)


def test_stream_carries_the_text_in_pieces_and_the_reason_in_its_last_choice(http: httpx.Client) -> None:
    response = http.post(CHAT, json=ask("Hello there", stream=True))
    chunks = chunks_of(response)
    assert streamed_text(response) == "Hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 9 + ["stop"]
    assert response.headers["content-type"] == "text/event-stream"


def test_no_chunk_is_without_a_choice_unless_usage_is_asked_for(http: httpx.Client) -> None:
    """n8n and older SDKs read choices[0] of every chunk."""
    chunks = chunks_of(http.post(CHAT, json=ask("Hello there", stream=True)))
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)


def test_usage_comes_last_and_without_choices_when_asked_for(http: httpx.Client) -> None:
    body = ask("Hello there", stream=True, stream_options={"include_usage": True})
    *chunks, last = chunks_of(http.post(CHAT, json=body))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 19
    assert all(len(chunk["choices"]) == 1 and chunk["usage"] is None for chunk in chunks)


def test_stream_is_chosen_by_the_body_never_by_the_accept_header(http: httpx.Client) -> None:
    """The openai SDK accepts application/json even where it streams."""
    streamed = http.post(CHAT, json=ask("Hi", stream=True), headers={"Accept": "application/json"})
    whole = http.post(CHAT, json=ask("Hi", stream=False), headers={"Accept": "text/event-stream"})
    assert streamed_text(streamed) == answer_of(whole) == "Hi"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_token_limit_ends_a_whole_answer_with_length(http: httpx.Client, name: str) -> None:
    body = http.post(CHAT, json=ask("abcdefgh", **{name: 3})).json()
    assert body["choices"][0]["message"]["content"] == "abc"
    assert body["choices"][0]["finish_reason"] == "length"


def test_token_limit_ends_a_stream_with_length(http: httpx.Client) -> None:
    response = http.post(CHAT, json=ask("abcdefgh", max_tokens=3, stream=True))
    assert streamed_text(response) == "abc"
    assert chunks_of(response)[-1]["choices"][0]["finish_reason"] == "length"


def test_worker_serves_on_after_an_answer_cut_by_the_token_limit(http: httpx.Client) -> None:
    assert answer_of(http.post(CHAT, json=ask("abcdefgh", max_tokens=1))) == "a"
    assert answer_of(http.post(CHAT, json=ask("ijklmnop"))) == "ijklmnop"


@pytest.mark.parametrize(
    "content",
    [
        "Hi you",
        [{"type": "text", "text": "Hi you"}],
        [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}],
    ],
)
def test_content_may_be_a_text_or_parts_of_text(http: httpx.Client, content: object) -> None:
    assert answer_of(http.post(CHAT, json=ask("", messages=[{"role": "user", "content": content}]))) == "Hi you"


@pytest.mark.parametrize("content", [None, [], "", "An answer", [{"type": "text", "text": "An answer"}]])
def test_assistant_content_may_be_anything_that_agents_send(http: httpx.Client, content: object) -> None:
    history = [{"role": "user", "content": "One"}, {"role": "assistant", "content": content}]
    messages = [*history, {"role": "user", "content": "Two"}]
    assert answer_of(http.post(CHAT, json=ask("", messages=messages))) == "Two"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_may_come_as_system_or_developer(http: httpx.Client, role: str) -> None:
    messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert answer_of(http.post(CHAT, json=ask("", messages=messages))) == "Hi"


@pytest.mark.parametrize("named", [{"model": "echo"}, {"provider": "echo"}, {"model": "echo/echo"}])
def test_demo_is_reached_by_any_of_its_names(http: httpx.Client, named: dict[str, str]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], **named}
    response = http.post(CHAT, json=body)
    assert answer_of(response) == "Hi"
    assert response.headers["X-Hub-Provider"] == "echo"


def test_answer_says_how_its_worker_came_to_be_there(http: httpx.Client) -> None:
    first = http.post(CHAT, json=ask("Hi"))
    second = http.post(CHAT, json=ask("Hi", stream=True))
    assert first.headers["X-Hub-Start"] in ("cold", "warm", "reused")
    assert second.headers["X-Hub-Start"] == "reused"


@pytest.mark.parametrize("given", ["abc-123", "req_0.1:2", "x" * 100])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/health"])
def test_sane_request_id_is_echoed(http: httpx.Client, path: str, given: str) -> None:
    assert http.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 101, b'"quoted"', b"<script>", b"\xe4\xf6", b"\xaa"])
def test_other_request_id_is_replaced(http: httpx.Client, given: bytes) -> None:
    answered = http.get("/v1/models", headers=[(b"X-Request-ID", given)]).headers["X-Request-ID"]
    assert answered.startswith("req_")
    assert len(answered) == 36


def test_every_answer_has_a_request_id_of_its_own(http: httpx.Client) -> None:
    ids = [http.post(CHAT, json=ask("Hi", stream=stream)).headers["X-Request-ID"] for stream in (True, False) * 2]
    assert len(set(ids)) == 4


def test_parameters_without_effect_are_named(http: httpx.Client) -> None:
    response = http.post(CHAT, json=ask("Hi", seed=1, user="u", temperature=0.5, top_p=0.5, stop="x", store=None))
    assert response.headers["X-Hub-Ignored"].split(", ") == ["seed", "user", "temperature", "top_p", "stop"]


def test_ignored_parameters_with_odd_names_are_named_in_quotes(http: httpx.Client) -> None:
    """A header takes no line break and little beyond ASCII, but nothing is dropped without a word."""
    response = http.post(CHAT, json=ask("Hi", **{"a b": 1, "x-y": 2, "$schema": 3, "ü": 4, "a\r\nSet-Cookie: b": 5}))
    assert response.headers["X-Hub-Ignored"] == "a%20b, x-y, $schema, %C3%BC, a%0D%0ASet-Cookie%3A%20b"
    assert "Set-Cookie" not in response.headers


def test_answer_that_ignores_nothing_says_nothing_of_it(http: httpx.Client) -> None:
    assert "X-Hub-Ignored" not in http.post(CHAT, json=ask("Hi", max_tokens=100, stream=False)).headers


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tool_choice": "all"}, "tool_choice", "auto, none, required"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]", "not 'custom'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url.url",
            "required",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_object"),
        ({"reasoning_effort": "most"}, "reasoning_effort", "xhigh"),
    ],
    ids=["choice", "named-choice", "custom", "name", "image", "format", "effort"],
)
def test_faults_in_tools_and_formats_are_named_as_the_caller_wrote_them(
    http: httpx.Client, fields: dict[str, Any], param: str, words: str
) -> None:
    response = http.post(CHAT, json={**ask("Hi"), **fields})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert words in error["message"]
