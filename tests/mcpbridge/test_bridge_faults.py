"""`run_mcp` as a bridge to hubs that are away, die, come back, forget or answer wrongly."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.inbound import encode_header_value as sdks_encode

from mcpbridge.discovery import Hub, write_discovery
from tests.asking import eventually
from tests.hub import free_port
from tests.mcpbridge.bridged import (
    KEY,
    META,
    MODERN,
    OLD,
    WAIT_S,
    WHO,
    FaultHub,
    Json,
    Reply,
    begin,
    bridging,
    eras,
    error_of,
    fault_hub,
    ready,
    request,
    slow_server,
    text_of,
    tool,
)

# --- a hub that is away, dies or comes back --------------------------------------------------------------------------


@eras
def test_hub_that_was_down_at_the_start_is_found_when_it_comes(tmp_path: Path, meta: Json | None) -> None:
    port = free_port()
    with bridging(tmp_path, f"http://127.0.0.1:{port}") as bridge:
        for asked in (request("initialize", **WHO), tool("echo", meta=meta, text="hi")):
            error = error_of(bridge.ask(asked))
            assert error["code"] == -32000
            assert "no hub answers" in error["message"]
            assert "uv run manage.py hub" in error["message"]
        with slow_server(tmp_path) as server:
            server.kill()
            server.start(port)
            ready(bridge, meta)
            assert text_of(bridge.ask(tool("echo", meta=meta, text="hi"))) == "hi"


@eras
@pytest.mark.parametrize("comes_back", ["on its port", "on another port"])
def test_hub_that_is_killed_and_comes_back(tmp_path: Path, meta: Json | None, comes_back: str) -> None:
    """Who waits is told at once; afterwards all is as before, the session too."""
    with slow_server(tmp_path) as server:
        server.announce(tmp_path)
        with bridging(tmp_path) as bridge:
            ready(bridge, meta)
            asked = [begin(bridge, server, f"call {number}", meta) for number in range(3)]
            server.kill()
            for it in asked:
                error = error_of(bridge.answer(it))
                assert error["code"] == -32000
                assert "uv run manage.py hub" in error["message"]
            assert "no hub is running" in error_of(bridge.ask(tool("echo", meta=meta, text="hi")))["message"]
            server.start(server.port if comes_back == "on its port" else free_port())
            server.announce(tmp_path)
            again = [tool("echo", meta=meta, text=str(number)) for number in range(20)]
            bridge.send(*again)
            assert {text_of(bridge.until(lambda it: "method" not in it)) for _ in again} == set(map(str, range(20)))


class Sessions:
    """A hub of the handshake era that forgets its sessions when told to."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.begun = 0
        self.refused = ""
        self.heard: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __call__(self, reply: Reply) -> None:
        session, method = reply.headers.get("Mcp-Session-Id", ""), reply.body.get("method", reply.command)
        with self._lock:
            self.heard.append((session, method))
        if method == "initialize":
            with self._lock:
                self.begun += 1
                self.known.add(f"s{self.begun}")
                begun = f"s{self.begun}"
            reply.result(Mcp_Session_Id=begun)
        elif session not in self.known:
            reply.give(
                404, b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "Session not found"}}'
            )
        elif method == "GET":
            reply.give(405)
        elif method == self.refused:
            reply.give(400, b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32602, "message": "No such thing"}}')
        elif "id" in reply.body:
            reply.result()
        else:
            reply.give(202)

    def of(self, session: str) -> list[str]:
        return [method for known, method in self.heard if known == session]


def test_lost_session_is_begun_again_behind_the_clients_back(tmp_path: Path) -> None:
    """Once, whoever asks at the same time; and with what the client had wished for in it."""
    sessions = Sessions()
    with fault_hub(sessions) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        for uri in ("session://kept", "session://dropped"):
            assert "result" in bridge.ask(request("resources/subscribe", uri=uri))
        assert "result" in bridge.ask(request("resources/unsubscribe", uri="session://dropped"))
        sessions.known.clear()
        asked = [request("tools/list") for _ in range(30)]
        bridge.send(*asked)
        answers = [bridge.next() for _ in asked]
        assert {it["id"] for it in answers} == {it["id"] for it in asked}
        assert all("result" in it for it in answers)
        assert sessions.begun == 2
        told = [it for it in sessions.of("s2") if it not in ("tools/list", "GET")]
        assert told == ["notifications/initialized", "resources/subscribe"]
        assert hub.seen[-1][2]["Mcp-Protocol-Version"] == OLD


def test_wish_the_hub_no_longer_grants_does_not_cost_the_session(tmp_path: Path) -> None:
    sessions = Sessions()
    with fault_hub(sessions) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        assert "result" in bridge.ask(request("resources/subscribe", uri="session://gone"))
        sessions.known.clear()
        sessions.refused = "resources/subscribe"
        assert "result" in bridge.ask(request("tools/list"))


def test_session_that_is_lost_for_good_is_told(tmp_path: Path) -> None:
    sessions = Sessions()

    def forgetful(reply: Reply) -> None:
        sessions(reply)
        sessions.known.clear()

    with fault_hub(forgetful) as hub, bridging(tmp_path, hub.url) as bridge:
        assert "result" in bridge.ask(request("initialize", **WHO))
        error = error_of(bridge.ask(request("tools/list")))
        assert "session" in error["message"]


def test_notification_finds_the_session_lost_too(tmp_path: Path) -> None:
    sessions = Sessions()
    with fault_hub(sessions) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        assert "result" in bridge.ask(request("ping"))
        sessions.known.clear()
        bridge.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        eventually(lambda: "notifications/roots/list_changed" in sessions.of("s2"))


def test_messages_of_a_session_keep_their_order(tmp_path: Path) -> None:
    sessions = Sessions()
    with fault_hub(sessions) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        methods = [f"notifications/{number}" for number in range(30)]
        bridge.send(*({"jsonrpc": "2.0", "method": it} for it in methods))
        assert "result" in bridge.ask(request("tools/list"))
        assert [it for it in sessions.of("s1") if it in methods or it == "tools/list"] == [*methods, "tools/list"]


def test_session_is_given_back_at_the_end_and_when_another_is_begun(tmp_path: Path) -> None:
    sessions = Sessions()
    with fault_hub(sessions) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        bridge.shake_hands()
        eventually(lambda: "DELETE" in sessions.of("s1"))
        assert "result" in bridge.ask(request("ping"))
        bridge.close_input()
        assert bridge.end()[0] == 0
        assert sessions.of("s2")[-1] == "DELETE"


def test_clients_answers_reach_the_hub_in_their_session(tmp_path: Path) -> None:
    sessions = Sessions()
    with fault_hub(sessions) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        answer = {"jsonrpc": "2.0", "id": "asked-by-hub", "result": {"action": "accept"}}
        bridge.send(answer)
        eventually(lambda: any(body == answer for _, _, _, body in hub.seen))
        assert not bridge.passed


# --- what hubs do wrong ----------------------------------------------------------------------------------------------

HUBS_401 = {"error": {"message": "This key was revoked", "type": "authentication_error", "code": "invalid_api_key"}}
HUBS_429 = {"error": {"message": "Too many requests", "type": "rate_limit_error", "code": "rate_limited"}}
GOOD = b'{"jsonrpc": "2.0", "id": %d, "result": {"content": []}}'


def whole(status: int, body: Any, **headers: str) -> Callable[[Reply], None]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda reply: reply.give(status, content, **headers)


def hang_up(reply: Reply) -> None:
    reply.close_connection = True


def talk_nonsense(reply: Reply) -> None:
    reply.wfile.write(b"nonsense\r\n\r\n")
    reply.close_connection = True


def break_off(reply: Reply) -> None:
    reply.stream([b'event: message\ndata: {"method": "notifications/progress"}\n\nda'], is_whole=False)


def break_off_in_json(reply: Reply) -> None:
    reply.give(200, b'{"jsonrpc"', Content_Length="500")
    reply.close_connection = True


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (whole(401, HUBS_401), -32000, ["refused the key", "This key was revoked", "HUB_API_KEY"]),
        (whole(401, b""), -32000, ["refused the key", "HUB_API_KEY"]),
        (whole(429, HUBS_429, Retry_After="7"), -32000, ["429", "Too many requests", "7 s"]),
        (whole(500, b"<html>oops", Content_Type="text/html"), -32000, ["HTTP 500"]),
        (whole(503, {"error": "plain"}), -32000, ["HTTP 503"]),
        (whole(404, b"nothing here"), -32000, ["HTTP 404"]),
        (whole(307, b"", Location="http://127.0.0.1:9/mcp"), -32000, ["HTTP 307"]),
        (whole(202, b""), -32000, ["no answer", "HTTP 202"]),
        (whole(200, b"<html>", Content_Type="text/html"), -32000, ["no answer", "HTTP 200"]),
        (whole(200, b"not json"), -32000, ["before it was complete"]),
        (whole(200, b"[]"), -32000, ["before it was complete"]),
        (
            whole(404, {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found"}}),
            -32601,
            ["Method not found"],
        ),
        (
            whole(200, {"jsonrpc": "2.0", "id": None, "error": {"code": -32603, "message": "Oh"}}),
            -32603,
            ["Oh"],
        ),
        (hang_up, -32000, ["did not finish its answer", "uv run manage.py hub"]),
        (break_off, -32000, ["did not finish its answer"]),
        (break_off_in_json, -32000, ["did not finish its answer"]),
        (lambda reply: reply.stream([b"data: garbage\n\n"]), -32000, ["before it was complete"]),
        (talk_nonsense, -32000, ["did not finish its answer"]),
    ],
)
def test_what_went_wrong_is_said_in_words(
    tmp_path: Path, script: Callable[[Reply], None], code: int, words: list[str]
) -> None:
    """And never with the key in them."""
    with fault_hub(script) as hub, bridging(tmp_path, hub.url, HUB_API_KEY=KEY) as bridge:
        asked = request("tools/list", meta=META)
        answer = bridge.ask(asked)
        error = error_of(answer)
        assert error["code"] == code
        assert all(it in error["message"] for it in words), error
        assert hub.seen[0][2]["Authorization"] == f"Bearer {KEY}"
        bridge.close_input()
        assert bridge.end()[0] == 0
        assert KEY not in json.dumps(answer) + bridge.log.read_text()


def test_errors_data_is_passed_on(tmp_path: Path) -> None:
    error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [MODERN]}}
    with (
        fault_hub(whole(400, {"jsonrpc": "2.0", "id": None, "error": error})) as hub,
        bridging(tmp_path, hub.url) as bridge,
    ):
        asked = request("tools/list", meta=META)
        assert bridge.ask(asked) == {"jsonrpc": "2.0", "id": asked["id"], "error": error}


@pytest.mark.parametrize(
    "form",
    [
        b"data: %b\n\n",
        b"event: message\r\ndata: %b\r\n\r\n",
        b": ping\n\nid: 5\ndata:\n\nevent: message\nretry: 10\ndata:%b\n\n",
        b"event: other\ndata: {}\n\ndata: not json\n\ndata: [1]\n\ndata: %b\n\n",
    ],
)
def test_events_are_read_in_all_their_forms(tmp_path: Path, form: bytes) -> None:
    def script(reply: Reply) -> None:
        event = form.replace(b"%b", GOOD % reply.body["id"])
        reply.stream(event[at : at + 7] for at in range(0, len(event), 7))

    with fault_hub(script) as hub, bridging(tmp_path, hub.url) as bridge:
        asked = tool("any", meta=META)
        assert bridge.ask(asked)["result"] == {"content": []}
        assert not bridge.passed


def test_event_of_several_lines_is_one_line_to_the_client(tmp_path: Path) -> None:
    def script(reply: Reply) -> None:
        text = json.dumps({"jsonrpc": "2.0", "id": reply.body["id"], "result": {"a": "\n\ud800 "}}, indent=1)
        reply.stream(["".join(f"data: {line}\n" for line in text.split("\n")).encode() + b"\n"])

    with fault_hub(script) as hub, bridging(tmp_path, hub.url) as bridge:
        assert bridge.ask(tool("any", meta=META))["result"] == {"a": "\n\ud800 "}


def test_event_is_passed_on_before_the_stream_goes_on(tmp_path: Path) -> None:
    may_go_on = threading.Event()

    def script(reply: Reply) -> None:
        def chunks() -> Iterator[bytes]:
            yield b'data: {"jsonrpc": "2.0", "method": "notifications/progress"}\n\n'
            assert may_go_on.wait(WAIT_S)
            yield b"data: " + GOOD % reply.body["id"] + b"\n\n"

        reply.stream(chunks())

    with fault_hub(script) as hub, bridging(tmp_path, hub.url) as bridge:
        asked = tool("any", meta=META)
        bridge.send(asked)
        assert bridge.next()["method"] == "notifications/progress"
        may_go_on.set()
        assert "result" in bridge.answer(asked)


def test_headers_say_what_a_modern_request_says(tmp_path: Path) -> None:
    with fault_hub(Reply.result) as hub, bridging(tmp_path, hub.url, HUB_MCP_SOFT_DEADLINE_S="50") as bridge:
        for asked in (
            tool("chat", meta=META),
            request("prompts/get", meta=META, name="übersetzen"),
            request("resources/read", meta=META, uri="provider://list"),
            request("tools/list", meta=META, name="unnamed"),
        ):
            bridge.ask(asked)
        sent = [headers for _, _, headers, _ in hub.seen]
        assert {it["Mcp-Protocol-Version"] for it in sent} == {MODERN}
        assert [it["Mcp-Method"] for it in sent] == ["tools/call", "prompts/get", "resources/read", "tools/list"]
        assert [it.get("Mcp-Name") for it in sent] == ["chat", sdks_encode("übersetzen"), "provider://list", None]
        assert {it["X-Hub-Soft-Deadline"] for it in sent} == {"50"}
        assert all("Mcp-Session-Id" not in it for it in sent)


def test_connections_are_kept_for_later_requests(tmp_path: Path) -> None:
    """Two take turns: the next request may come before the last answer's connection is put back."""
    ports: set[int] = set()

    def script(reply: Reply) -> None:
        ports.add(reply.client_address[1])
        reply.stream([b"data: " + GOOD % reply.body["id"] + b"\n\n"])

    with fault_hub(script) as hub, bridging(tmp_path, hub.url) as bridge:
        for _ in range(20):
            bridge.ask(tool("any", meta=META))
        assert len(ports) <= 3


def test_new_key_of_a_hub_that_came_back_is_used(tmp_path: Path) -> None:
    with fault_hub(Reply.result) as first, fault_hub(Reply.result) as second:
        with bridging_found(tmp_path, first, "first") as bridge:
            bridge.ask(tool("any", meta=META))
            first.script = hang_up
            write_discovery(tmp_path, Hub(second.url, "second", os.getpid(), "1"))
            eventually(lambda: "result" in bridge.ask(tool("any", meta=META)))
        assert first.seen[0][2]["Authorization"] == "Bearer first"
        assert second.seen[0][2]["Authorization"] == "Bearer second"


def bridging_found(folder: Path, hub: FaultHub, key: str) -> Any:
    """A bridge that finds its hub by the note in the folder."""
    write_discovery(folder, Hub(hub.url, key, os.getpid(), "1"))
    return bridging(folder)
