"""Whatever comes in: a clear 4xx or a right answer, never a 500, and the hub answers the next one."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from chat.schemas import MAX_FIELDS, MAX_PARTS
from tests.asking import CHAT, answer_of, ask, data_lines, error_of, streamed_text
from tests.hub import ROOT, HubProcess, running_hub

JSON = {"Content-Type": "application/json"}
GOOD = b'{"model":"echo","messages":[{"role":"user","content":"Hi"}]}'
MB = 1024 * 1024


@pytest.fixture(autouse=True)
def still_answering(http: httpx.Client) -> Iterator[None]:
    """After every one of these requests a good one is answered."""
    yield
    assert answer_of(http.post(CHAT, json=ask("Still there?"))) == "Still there?"


def with_text(escaped: bytes) -> bytes:
    return b'{"model":"echo","messages":[{"role":"user","content":"' + escaped + b'"}]}'


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'"text"x',
        GOOD + b"}",
        b'{"model":"echo",}',
        GOOD.replace(b'"Hi"', b"NaN"),
        GOOD.replace(b'"Hi"', b"Infinity"),
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        with_text(b"\xff\xfe"),
        with_text(b"\xed\xa0\x80"),
        with_text(b"\\ud8ee"),
        with_text(b"\\udc00\\ud800"),
        with_text(b"\x00"),
        with_text(b"a\nb"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        gzip.compress(GOOD, mtime=0),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_body_that_is_no_json_in_utf8_is_refused(http: httpx.Client, body: bytes) -> None:
    response = http.post(CHAT, content=body, headers=JSON)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_json")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"5", b'"text"', b"{}", b"true"])
def test_body_that_is_no_request_is_refused(http: httpx.Client, body: bytes) -> None:
    response = http.post(CHAT, content=body, headers=JSON)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_value"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": {"role": "user", "content": "Hi"}}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [None]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": None, "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": True}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {"text": "Hi"}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": "Hi"}] * 10_001}, "messages"),
    ({"model": 5}, "model"),
    ({"model": ["echo"]}, "model"),
    ({"model": "x" * 201}, "model"),
    ({"provider": {"name": "echo"}}, "provider"),
    ({"provider": "nobody"}, "provider"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": True}, "stream_options"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": []}, "max_completion_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": 10**300}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_p": {}}, "top_p"),
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop[0]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": {}}, "stop"),
    ({"n": 2}, "n"),
    ({"n": "many"}, "n"),
    ({"response_format": 5}, "response_format"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=lambda value: repr(value)[:60])
def test_wrong_value_is_refused_with_the_name_of_its_field(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    response = http.post(CHAT, json=ask("Hi", **fields))
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("model", ["nothing", "echo/nothing", "nothing/echo", "", "\0", "../echo", "--help", "ECHO"])
def test_model_is_known_or_refused(http: httpx.Client, model: str) -> None:
    response = http.post(CHAT, json=ask("Hi", model=model))
    if model == "":  # as good as none: the first provider that is ready, and the demo is never that one
        assert (response.status_code, error_of(response)["code"]) == (503, "no_provider_ready")
    else:
        error = error_of(response)
        assert (response.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")


def test_model_of_another_provider_than_the_one_named_is_refused(http: httpx.Client) -> None:
    assert http.post(CHAT, json=ask("Hi", provider="echo", model="claude-opus")).status_code == 404


@pytest.mark.parametrize("value", ["[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200])
def test_nesting_that_json_still_takes_is_ignored_by_name(http: httpx.Client, value: str) -> None:
    response = http.post(CHAT, content=GOOD[:-1] + b',"extra":' + value.encode() + b"}", headers=JSON)
    assert answer_of(response) == "Hi"
    assert response.headers["X-Hub-Ignored"] == "extra"


@pytest.mark.parametrize("size", [MB, 5 * MB])
@pytest.mark.parametrize("stream", [False, True])
def test_large_prompt_is_answered_right(http: httpx.Client, size: int, stream: bool) -> None:
    text = ("The quick brown fox, höher \U0001f98a. " * (size // 30))[:size]
    response = http.post(CHAT, json=ask(text, stream=stream))
    assert (streamed_text(response) if stream else answer_of(response)) == text


@pytest.mark.parametrize(
    "text",
    [
        "-p",
        "--version",
        "{",
        '{"ask": "x"}',
        '{"cancel": true}',
        "/help",
        "@/etc/passwd",
        "$(id)",
        "`id`",
        "'; DROP TABLE chat_apikey; --",
        "a\nb",
        '\n{"ask": "other", "chunks": 1, "delay_s": 0, "do": "none"}\n',
        "a\r\nb\rc",
        "a\u2028b\u2029c\u0085d\x0b\x0c\x1c\x1d\x1ee",
        "a\0b",
        "\x01\x02\x1b[31m\x7f",
        "\ufeffbom",
        "\ufffe\uffff",
        "e\u0301 \u202eabc \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "data: [DONE]\n\ndata: {}\n\n",
        "[[",
        "[[chunks]]",
        "\\",
        '"',
    ],
    ids=repr,
)
def test_odd_text_comes_back_as_it_was(http: httpx.Client, text: str) -> None:
    assert answer_of(http.post(CHAT, json=ask(text))) == text
    assert streamed_text(http.post(CHAT, json=ask(text, stream=True))) == text


@pytest.mark.parametrize("name", ["Ünï", "a\nb", "\0", "x" * 5_000, ""])
def test_odd_names_of_unknown_fields_break_no_header(http: httpx.Client, name: str) -> None:
    assert answer_of(http.post(CHAT, json=ask("Hi", **{name: 1}))) == "Hi"


def test_many_unknown_fields_keep_the_header_short(http: httpx.Client) -> None:
    response = http.post(CHAT, json=ask("Hi", **{f"field{n}" + "ü" * 200: n for n in range(MAX_FIELDS - 10)}))
    assert answer_of(response) == "Hi"
    assert len(response.headers["X-Hub-Ignored"]) < 40_000


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [1] * 1_000_000}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * (MAX_PARTS // 2 + 1)}] * 2},
        ask("Hi", **{f"field{n}": n for n in range(MAX_FIELDS)}),
        {"messages": [1] * 1_000_000},
    ],
    ids=["no parts", "parts of all messages", "fields", "messages"],
)
def test_a_body_of_very_many_pieces_is_refused_before_they_are_read(http: httpx.Client, body: object) -> None:
    """Validating each of them would hold up every other request for seconds, and take gigabytes for their faults."""
    response = http.post(CHAT, json=body)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_value"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/json; charset=nonsense",
        "nonsense",
        "application/json" * 100,
    ],
)
def test_body_is_read_as_json_whatever_it_is_called(http: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert answer_of(http.post(CHAT, content=GOOD, headers=headers)) == "Hi"


def test_large_form_is_refused_at_once(http: httpx.Client) -> None:
    """Parsing it would take seconds in which nobody else is served."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = http.post(CHAT, content=b"a=%41&" * 2_500_000, headers=headers)
    assert error_of(response)["code"] == "invalid_json"
    assert response.elapsed.total_seconds() < 2


def test_body_may_come_in_chunks(http: httpx.Client) -> None:
    assert answer_of(http.post(CHAT, content=(bytes([byte]) for byte in GOOD), headers=JSON)) == "Hi"


def test_unsupported_encoding_is_refused_even_if_it_is_named(http: httpx.Client) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert error_of(http.post(CHAT, content=gzip.compress(GOOD, mtime=0), headers=headers))["code"] == "invalid_json"


@pytest.mark.parametrize("directive", ["chunks=0", "chunks=x", "chunks=10001", "delay=-1", "delay=nan", "do=harm"])
def test_directive_the_demo_does_not_know_is_refused(http: httpx.Client, directive: str) -> None:
    response = http.post(CHAT, json=ask(f"[[{directive}]]"))
    if directive == "delay=-1":  # no directive at all: a minus is no part of one
        assert answer_of(response) == "[[delay=-1]]"
    else:
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


def test_directive_of_any_shape_is_read_at_once() -> None:
    """In a process of its own, because the hub that can't would be lost to all other tests."""
    read = "from providers.adapters.echo import read_directive; read_directive('[[' + 'a=aaaaaaaa' * 50)"
    subprocess.run([sys.executable, "-c", read], cwd=ROOT, timeout=10, check=True)


@pytest.mark.parametrize(
    ("mischief", "code"),
    [("crash", "worker_crashed"), ("exit", "worker_crashed"), ("garbage", "worker_protocol_broken")],
)
def test_worker_that_fails_is_a_502_with_its_code(http: httpx.Client, mischief: str, code: str) -> None:
    response = http.post(CHAT, json=ask(f"[[do={mischief}]] Hi"))
    assert (response.status_code, error_of(response)["code"]) == (502, code)


def test_worker_that_fails_late_ends_the_stream_with_an_error_line(http: httpx.Client) -> None:
    response = http.post(CHAT, json=ask("[[do=crash]] one two", stream=True))
    *chunks, last = data_lines(response.text)
    assert response.status_code == 200
    assert json.loads(last)["error"]["code"] == "worker_crashed"
    assert "[DONE]" not in chunks


def test_worker_that_floods_its_standard_error_still_answers(http: httpx.Client) -> None:
    assert answer_of(http.post(CHAT, json=ask("[[do=flood]] Hi"))) == "[[do=flood]] Hi"


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that takes 100,000 bytes and gives a worker half a second between events."""
    env = {"HUB_PROVIDERS": "echo", "HUB_MAX_BODY_BYTES": "100000", "HUB_SILENCE_TIMEOUT_S": "0.5"}
    env |= {"HUB_HEARTBEAT_S": "0.1", "HUB_SHUTDOWN_GRACE_S": "1"}
    with running_hub(tmp_path_factory.mktemp("small"), env=env, server=request.param) as started:
        yield started


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with length", "in chunks"])
def test_body_over_the_limit_is_refused_with_413(small: HubProcess, is_chunked: bool) -> None:
    size = 30 * MB
    body = iter([b"x" * MB] * 30) if is_chunked else b"x" * size
    response = httpx.post(small.url + CHAT, content=body, headers=small.headers | {"X-Request-ID": "large"})
    assert response.status_code == 413
    error = error_of(response)
    assert error["code"] == "request_too_large"
    assert "HUB_MAX_BODY_BYTES" in error["message"]
    assert response.headers["X-Request-ID"] == "large"


def test_body_at_the_limit_is_taken(small: HubProcess) -> None:
    body = with_text(b"x" * (100_000 - len(with_text(b""))))
    assert len(body) == 100_000
    assert httpx.post(small.url + CHAT, content=body, headers=small.headers).status_code == 200
    assert httpx.post(small.url + CHAT, content=body + b" ", headers=small.headers).status_code == 413


def test_body_over_the_limit_takes_neither_memory_nor_disk(small: HubProcess) -> None:
    """daphne would keep 300 MB before the application sees a byte."""
    process = psutil.Process(small.pid)
    before = process.memory_info().rss, process.io_counters().write_bytes
    with httpx.Client(base_url=small.url, headers=small.headers, timeout=30) as client:
        assert client.post(CHAT, content=iter([b"x" * MB] * 200)).status_code == 413
    after = process.memory_info().rss, process.io_counters().write_bytes
    assert after[0] - before[0] < 30 * MB
    assert after[1] - before[1] < 30 * MB


def test_worker_that_hangs_is_given_up_in_bounded_time(small: HubProcess) -> None:
    response = httpx.post(small.url + CHAT, json=ask("[[do=hang]] Hi"), headers=small.headers, timeout=10)
    assert (response.status_code, error_of(response)["code"]) == (504, "timed_out")


def test_stream_that_falls_silent_is_kept_alive_and_then_ended_with_an_error(small: HubProcess) -> None:
    body = ask("[[do=ignore_signals]] Hi", stream=True)
    response = httpx.post(small.url + CHAT, json=body, headers=small.headers, timeout=10)
    assert len(re.findall(r"^: .*\n\n", response.text, re.MULTILINE)) >= 2
    assert json.loads(data_lines(response.text)[-1])["error"]["code"] == "timed_out"


def test_broken_database_is_told_without_its_words(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is no fault of the caller, and the hub lives on."""
    with running_hub(tmp_path_factory.mktemp("broken"), env={"HUB_PROVIDERS": "echo", "HUB_KEY_CACHE_S": "0"}) as hub:
        with contextlib.closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", timeout=10)) as database:
            database.execute("ALTER TABLE chat_apikey RENAME TO elsewhere")
        response = httpx.get(f"{hub.url}/v1/models", headers=hub.headers)
        assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
        assert "apikey" not in response.text.lower()
        assert httpx.get(f"{hub.url}/health").status_code == 200
