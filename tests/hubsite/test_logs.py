"""The log: a JSON object per line with the ids that matter, or a line for people; never what was said, nor a key."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.log import log_response

from chat import log_ids
from hubsite.logs import FIELDS, JsonLines, TextLines, WithIds
from tests.asking import CHAT, SESSION, answer_of, ask, begun_stream, client_of, error_of, eventually, make_keys
from tests.hub import ROOT, HubProcess, running_hub
from tests.mcpbridge import wire

Line = dict[str, Any]

MARK = "marmalade"
TOKEN = "the-token-of-the-tests"
ECHO = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1", "HUB_METRICS_TOKEN": TOKEN}
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


# --- the two shapes --------------------------------------------------------------------------------------------------


def record(message: str, *args: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("chat.test", logging.INFO, __file__, 1, message, args, None)
    made.__dict__.update(extra)
    WithIds().filter(made)
    return made


def as_json(made: logging.LogRecord) -> Line:
    text = JsonLines().format(made)
    assert "\n" not in text
    return dict(json.loads(text))


def test_a_line_tells_when_how_bad_what_and_where() -> None:
    made = record("it took %d s", 5, event="turn")
    told = as_json(made)
    assert list(told) == ["time", "level", "event", "logger", "message"]
    assert UTC_TIME.fullmatch(told["time"])
    assert datetime.fromisoformat(told["time"]).timestamp() == pytest.approx(made.created, abs=0.001)
    assert (told["level"], told["event"], told["logger"], told["message"]) == (
        "INFO",
        "turn",
        "chat.test",
        "it took 5 s",
    )


def test_fields_nobody_has_named_are_not_told() -> None:
    """A request or a body that is at hand must not get into the log by being there."""
    told = as_json(record("hi", request=MARK, prompt=MARK, status=200, session="", provider=None))
    assert told["status"] == 200
    assert MARK not in str(told)
    assert {"session", "provider"}.isdisjoint(told)


def test_a_traceback_stays_on_its_line() -> None:
    made = record("failed")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made.exc_info = sys.exc_info()
    told = as_json(made)
    assert told["event"] == "log"
    assert told["traceback"].splitlines()[-2:] == ["ValueError: two", "lines"]


@pytest.mark.parametrize("hostile", ["a\nINFO forged", "a\r\nb", "a\x1b[31mb", "a\u2028b", "a\x85b"])
def test_no_text_begins_a_line_of_its_own(hostile: str) -> None:
    text = TextLines().format(record("%s", hostile))
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert as_json(record("%s", hostile))["message"] == hostile


@pytest.mark.parametrize(
    ("logger", "message", "said", "told"),
    [
        ("django.request", "%s: %s", ("Internal Server Error",), "Internal Server Error"),
        ("django.request", "Gone: %s", (), "Gone"),
        ("django.security.csrf", "Forbidden (%s): %s", ("CSRF cookie not set.",), "Forbidden (CSRF cookie not set.)"),
        (
            "django.security.csrf",
            "Forbidden (%s): %s",
            (f"Referer checking failed - https://shop.example:8443/{MARK}?100% does not match any trusted origins.",),
            "Forbidden (Referer checking failed - https://shop.example:8443 does not match any trusted origins.)",
        ),
    ],
)
def test_djangos_own_lines_end_before_the_path(
    caplog: pytest.LogCaptureFixture, logger: str, message: str, said: tuple[str, ...], told: str
) -> None:
    request = RequestFactory().get(f"/{MARK}: 100%s/")
    answer = HttpResponse(status=500)
    log_response(message, *said, request.path, response=answer, request=request, logger=logging.getLogger(logger))
    assert caplog.messages == [told]
    assert MARK not in as_json(caplog.records[0])["message"]


async def test_lines_bear_the_ids_of_what_runs() -> None:
    async def one(request_id: str) -> Line:
        log_ids.begin(request_id)
        await asyncio.sleep(0)
        log_ids.add(turn_id=f"turn of {request_id}")
        return as_json(record("hi"))

    first, second = await asyncio.gather(one("req_1"), one("req_2"))
    assert (first["request_id"], first["turn_id"]) == ("req_1", "turn of req_1")
    assert (second["request_id"], second["turn_id"]) == ("req_2", "turn of req_2")
    assert "request_id" not in as_json(record("outside"))
    log_ids.begin("req_3")
    assert as_json(record("hi", request_id="req_4"))["request_id"] == "req_4"
    assert TextLines().format(record("hi")).endswith("hi (req_3)")


def test_every_field_is_explained() -> None:
    docs = (ROOT / "docs" / "logs.md").read_text()
    cells = re.findall(r"^\| ([^|]*) \|", docs, re.MULTILINE)
    told = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert set(FIELDS) | {"time", "level", "event", "logger", "message", "traceback"} <= told


# --- a hub's own -----------------------------------------------------------------------------------------------------


def lines(hub: HubProcess, event: str = "") -> list[Line]:
    """The log's lines, of one event if it is named; what the hub says to its owner is not among them."""
    written = hub.log.read_text().splitlines()
    return [it for it in map(json.loads, (it for it in written if it.startswith("{"))) if event in ("", it["event"])]


def line_of(hub: HubProcess, event: str, request_id: str) -> Line:
    """The one line of this event that belongs to a request."""

    def found() -> list[Line]:
        return [it for it in lines(hub, event) if it.get("request_id") == request_id]

    eventually(lambda: bool(found()))
    (line,) = found()
    return line


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running_hub(tmp_path_factory.mktemp("logs"), env={**ECHO, "HUB_LOG_FORMAT": "json"}) as started:
        yield started


@pytest.fixture
def client(hub: HubProcess) -> Iterator[httpx.Client]:
    with client_of(hub, hub.key) as client:
        yield client


def test_a_turn_and_its_request_are_told_once_each(hub: HubProcess, client: httpx.Client) -> None:
    named = {"X-Request-ID": "mine-1", SESSION: "s-1"}
    response = client.post(CHAT, json=ask("hello"), headers=named)
    assert response.headers["X-Request-ID"] == "mine-1"
    turn, request = line_of(hub, "turn", "mine-1"), line_of(hub, "request", "mine-1")
    assert turn["turn_id"] == request["turn_id"]
    assert turn["session"] == request["session"] == "s-1"
    assert turn["key_id"] == request["key_id"] == 1
    assert (turn["provider"], turn["model"], turn["outcome"], turn["door"]) == ("echo", "echo", "ok", "rest")
    assert (turn["input_tokens"], turn["fault"], turn["attempts"]) == (5, "none", 1)
    assert 0 <= turn["first_token_ms"] <= turn["duration_ms"]
    assert (request["method"], request["route"], request["status"]) == ("POST", "v1/chat/completions", 200)
    assert request["duration_ms"] >= turn["duration_ms"] - 1


def test_an_error_is_told_by_its_code_and_whose_fault_it_was(hub: HubProcess, client: httpx.Client) -> None:
    client.post(CHAT, json=ask("[[do=crash]] no"), headers={"X-Request-ID": "crash-1"})
    turn, request = line_of(hub, "turn", "crash-1"), line_of(hub, "request", "crash-1")
    assert (turn["level"], turn["outcome"], turn["fault"]) == ("WARNING", "worker_crashed", "hub")
    assert request["status"] == 502
    eventually(lambda: bool(lines(hub, "worker_crashed")))
    died = lines(hub, "worker_crashed")[-1]
    assert (died["provider"], died["reason"], died["exit_code"]) == ("echo", "crashed", -signal.SIGKILL)
    started = {it["pid"]: it for it in lines(hub, "worker_started")}
    assert died["pid"] in started
    # The worker was there before the request, and the next one is not the request's either.
    assert "request_id" not in died
    assert not any("request_id" in it for it in started.values())


def test_a_client_that_hangs_up_is_told_as_such(hub: HubProcess, client: httpx.Client) -> None:
    with begun_stream(client, ask("[[chunks=500 delay=0.05]] long"), X_Request_ID="gone-1"):
        pass
    assert line_of(hub, "request", "gone-1")["status"] == 499
    assert line_of(hub, "turn", "gone-1")["outcome"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        ("/v1/models", 200, "v1/models"),
        (f"/v1/{MARK}", 404, "unmatched"),
        ("/admin/", 302, "admin/"),
        ("/mcp", 401, "mcp"),
    ],
)
def test_each_door_takes_the_callers_request_id_over(hub: HubProcess, path: str, status: int, route: str) -> None:
    request_id = f"door-{status}-{route.strip('/').replace('/', '.')}"
    headers = {"X-Request-ID": request_id, **({} if path == "/mcp" else hub.headers)}
    response = httpx.get(hub.url + path, headers=headers)
    assert (response.status_code, response.headers["X-Request-ID"]) == (status, request_id)
    told = line_of(hub, "request", request_id)
    assert (told["route"], told["status"]) == (route, status)
    assert told.get("key_id") == (1 if status == 200 else None)


@pytest.mark.parametrize("path", ["/v1/models", "/admin/", "/mcp"])
@pytest.mark.parametrize("given", [b"two words", b"a" * 101, b'"', b"a\xe9b", b""])
def test_a_request_id_that_could_do_harm_is_replaced(hub: HubProcess, path: str, given: bytes) -> None:
    response = httpx.get(hub.url + path, headers=[(b"X-Request-ID", given)])
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["X-Request-ID"])
    line_of(hub, "request", response.headers["X-Request-ID"])


def test_probes_are_told_only_when_they_fail(hub: HubProcess) -> None:
    for number, path in enumerate(("/health", "/health/live", "/health/ready", "/metrics")):
        assert httpx.get(hub.url + path, headers={"X-Request-ID": f"probe-{number}"}).status_code == 200
    httpx.get(hub.url + "/metrics", headers={"X-Request-ID": "probe-9", "Via": "1.1 proxy"})
    assert line_of(hub, "request", "probe-9")["status"] == 401
    assert not any(it.get("request_id", "").startswith("probe-") and it["status"] < 400 for it in lines(hub, "request"))


async def test_turns_over_mcp_bear_the_id_of_their_own_request(hub: HubProcess) -> None:
    async with wire.connected(hub, headers={"X-Request-ID": "mcp-1"}) as client:
        answered = await wire.chat(client, "hello")
    turn = line_of(hub, "turn", "mcp-1")
    assert (turn["door"], turn["session"], turn["outcome"]) == ("mcp", answered["session_id"], "ok")


# --- what is never told ----------------------------------------------------------------------------------------------


def test_nothing_that_was_said_and_no_secret_is_in_the_log(hub: HubProcess) -> None:
    """Whichever door it comes through, and whatever goes wrong with it."""
    key = make_keys(hub, alice={})["alice"]
    with client_of(hub, key) as alice:
        system = {"messages": [{"role": "system", "content": MARK}, {"role": "user", "content": MARK}]}
        answer_of(alice.post(CHAT, json=ask(MARK, **system)))
        answer_of(alice.post(CHAT, json=ask("hi", user=MARK, metadata={MARK: MARK})))
        for do in ("crash", "exit", "garbage"):
            error_of(alice.post(CHAT, json=ask(f"[[do={do}]] {MARK}")))
        with begun_stream(alice, ask(f"[[chunks=500 delay=0.05]] {MARK}")):
            pass
        refuse(alice, key)
    asyncio.run(ask_over_mcp(hub, key))
    httpx.get(hub.url + "/metrics", headers={"Authorization": f"Bearer {TOKEN}", "Via": "1.1 proxy"})
    eventually(lambda: len([it for it in lines(hub, "turn") if it["door"] == "mcp"]) >= 3)
    written = hub.log.read_text()
    for secret in (MARK, key, hub.key, TOKEN, (hub.data_dir / "secret.key").read_text().strip()):
        assert secret not in written, next(it for it in written.splitlines() if secret in it)


async def ask_over_mcp(hub: HubProcess, key: str) -> None:
    async with wire.connected(hub, key=key) as client:
        await wire.chat(client, MARK, system=MARK)
        for wrong in ({"provider": MARK}, {"session_id": f"{MARK} {MARK}"}, {MARK: 1}, {"message": {"a": MARK}}):
            with suppress(Exception):
                await client.call_tool("chat", {"message": MARK, **wrong})
        with suppress(Exception):
            await client.call_tool(MARK, {})


def refuse(alice: httpx.Client, key: str) -> None:
    """What the hub does not take from this caller."""
    for wrong in (
        {"model": MARK},
        {"provider": MARK},
        {"n": MARK},
        {"temperature": MARK},
        {"messages": MARK},
        {"messages": [{"role": MARK, "content": MARK}]},
        {"tools": [{"type": "function", "function": {"name": MARK}}]},
    ):
        assert alice.post(CHAT, json=ask(MARK, **wrong)).status_code in (400, 404, 422)
    assert alice.post(CHAT, content=f'{{"{MARK}": ').status_code == 400
    assert alice.post(CHAT, json=ask(MARK), headers={SESSION: f"{MARK} {MARK}"}).status_code == 400
    assert alice.get(f"/v1/models/{MARK}").status_code == 404
    assert alice.get(f"/v1/models?key={key}&api_key={MARK}").status_code == 200
    assert alice.get(f"/{MARK}/{key}").status_code == 404
    assert alice.post(f"/admin/login/?next={MARK}", data={"username": MARK, "password": MARK}).status_code >= 200
    assert alice.post(f"/admin/{MARK}/", headers={"Referer": f"https://{MARK}.example/"}).status_code == 403
    for bad in (f"hub_{MARK}", MARK):
        assert alice.get("/v1/models", headers={"Authorization": f"Bearer {bad}"}).status_code == 401
    assert alice.get("/v1/models", headers={"Host": f"{MARK}.example"}).status_code == 400


# --- its life, and its switches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_each_line_of_a_hubs_whole_life_is_an_object(tmp_path: Path, server: str) -> None:
    with running_hub(tmp_path, env={**ECHO, "HUB_LOG_FORMAT": "json", "HUB_ACCESS_LOG": "off"}, server=server) as hub:
        with client_of(hub, hub.key) as client:
            answer_of(client.post(CHAT, json=ask("hello")))
        hub.stop()
        written = hub.log.read_text().splitlines()
        events = [it["event"] for it in lines(hub)]
    order = ["hub_started", "turn", "hub_stopping", "worker_ended", "hub_stopped"]
    assert [it for it in events if it in order] == order
    assert "request" not in events
    if server == "uvicorn":  # nothing else writes there; the hub command greets its owner besides
        assert all(it.startswith("{") for it in written), written


def test_people_get_a_line_for_each_turn_and_request(tmp_path: Path) -> None:
    with running_hub(tmp_path, env=ECHO) as hub, client_of(hub, hub.key) as client:
        answer_of(client.post(CHAT, json=ask("hello"), headers={"X-Request-ID": "mine-1"}))
        eventually(lambda: "POST /v1/chat/completions" in hub.log.read_text())
        written = hub.log.read_text()
    turn = (
        r"^\S+ \S+ INFO chat.turn_log: turn ok by echo/echo in \d+ ms \(first word \d+ ms\), 5 \+ 8 tokens \(mine-1\)$"
    )
    assert re.search(turn, written, re.MULTILINE)
    assert re.search(
        r"INFO hubsite.access: POST /v1/chat/completions 200 in [\d.]+ ms \(mine-1\)$", written, re.MULTILINE
    )
    assert not re.search(r"^\{", written, re.MULTILINE)
