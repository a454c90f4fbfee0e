"""`manage.py run_mcp` as its clients have it, a process with pipes; and the servers it is let loose on."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.discovery import Hub, write_discovery
from tests.asking import eventually
from tests.hub import ROOT, clean_env, free_port

WAIT_S = 10.0
MODERN, OLD = "2026-07-28", "2025-11-25"
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
KEY = "hub_test_key_of_alice"

Json = dict[str, Any]

META: Json = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
WHO: Json = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
numbers = count(1)
eras = pytest.mark.parametrize("meta", [META, None], ids=["modern", "handshake"])


def request(method: str, /, *, meta: Json | None = None, **params: Any) -> Json:
    extra = {} if meta is None else {"_meta": meta}
    return {"jsonrpc": "2.0", "id": next(numbers), "method": method, "params": {**params, **extra}}


def tool(called: str, /, *, meta: Json | None = None, **arguments: Any) -> Json:
    return request("tools/call", meta=meta, name=called, arguments=arguments)


def cancelled(asked: Json) -> Json:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": asked["id"]}}


def text_of(answer: Json) -> str:
    assert "result" in answer, answer
    return str(answer["result"]["content"][0]["text"])


def error_of(answer: Json) -> Json:
    assert set(answer) == {"jsonrpc", "id", "error"}, answer
    return dict(answer["error"])


class BridgeProcess:
    """A client's view of `run_mcp`. Every wait is bounded."""

    def __init__(self, folder: Path, *argv: str, **env: str) -> None:
        self.log = folder / "run_mcp.log"
        names = {"HUB_DATA_DIR": str(folder), "HUB_URL": "", "HUB_API_KEY": "", **env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run_mcp", *argv],
                cwd=ROOT,
                env=clean_env(folder, names),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.passed: list[Json] = []
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def send(self, *messages: Json | bytes) -> None:
        assert self.process.stdin is not None
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def next(self, *, within_s: float = WAIT_S) -> Json:
        """The next message, whatever it is. Raises queue.Empty."""
        message = json.loads(self._lines.get(timeout=within_s))
        assert isinstance(message, dict)
        return message

    def until(self, holds: Callable[[Json], bool]) -> Json:
        """The next message of a kind; others go to `passed`."""
        ends_at = time.monotonic() + WAIT_S
        while not holds(message := self.next(within_s=ends_at - time.monotonic())):
            self.passed.append(message)
        return message

    def answer(self, asked: Json) -> Json:
        """The answer to this request, which may have come while another was waited for."""

        def is_it(message: Json) -> bool:
            return "method" not in message and message["id"] == asked["id"]

        return next(filter(is_it, self.passed), None) or self.until(is_it)

    def ask(self, asked: Json) -> Json:
        self.send(asked)
        return self.answer(asked)

    def shake_hands(self) -> None:
        assert "result" in self.ask(request("initialize", **WHO))
        self.send(INITIALIZED)

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close_output(self) -> None:
        """Stop reading, as a client that has crashed does."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> tuple[int, float]:
        """Wait for its end; returns the exit code and the seconds it took."""
        began_at = time.monotonic()
        return self.process.wait(WAIT_S), time.monotonic() - began_at

    def close(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


@contextlib.contextmanager
def bridging(folder: Path, url: str = "", *argv: str, **env: str) -> Iterator[BridgeProcess]:
    """A bridge to this hub, or to whichever the folder tells of."""
    named = {"HUB_URL": url, **env} if url else env
    bridge = BridgeProcess(folder, *(argv or ("--mode", "bridge")), **named)
    try:
        yield bridge
    finally:
        bridge.close()


class SlowServer:
    """slow_server.py as a child process."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._notes = folder / "notes"
        self._notes.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self.start(port or free_port())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def notes(self) -> list[str]:
        """What the tool has written down."""
        return self._notes.read_text().splitlines()

    def has_noted(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.notes

    def start(self, port: int) -> None:
        self.port = port
        command = [sys.executable, "-m", "tests.mcpbridge.slow_server", str(port), str(self._notes)]
        self._process = subprocess.Popen(command, cwd=ROOT)
        eventually(self._is_up)

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def announce(self, folder: Path) -> None:
        """Leave the note a hub leaves."""
        assert self._process is not None
        write_discovery(folder, Hub(self.url, KEY, self._process.pid, "1"))

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT_S)


@contextlib.contextmanager
def slow_server(folder: Path) -> Iterator[SlowServer]:
    server = SlowServer(folder)
    try:
        yield server
    finally:
        server.kill()


def ready(bridge: BridgeProcess, meta: Json | None) -> None:
    """Whatever this era needs before its first call."""
    if meta is None:
        bridge.shake_hands()


def begin(bridge: BridgeProcess, server: SlowServer, name: str, meta: Json | None) -> Json:
    """A call of the slow tool that is under way."""
    asked = tool("slow", meta=meta, name=name)
    bridge.send(asked)
    eventually(server.has_noted(f"began {name}"))
    return asked


class Reply(BaseHTTPRequestHandler):
    """One request to a FaultHub, with ways to answer it well or badly."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultHub
    body: Json

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = json.loads(self.rfile.read(length) or b"{}")
        self.server.seen.append((self.command, self.path, dict(self.headers.items()), self.body))
        self.server.script(self)

    do_GET = do_DELETE = do_POST

    def log_message(self, *args: object) -> None:
        pass

    def give(self, status: int, content: bytes = b"", **headers: str) -> None:
        """A whole answer; header names with underscores for hyphens."""
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def result(self, **headers: str) -> None:
        """A good answer, which says who asked for what."""
        said = {"method": self.body["method"], "protocolVersion": OLD}
        self.give(200, json.dumps({"jsonrpc": "2.0", "id": self.body["id"], "result": said}).encode(), **headers)

    def stream(self, chunks: Iterable[bytes], *, is_whole: bool = True) -> None:
        """Server-sent events, which break off in the middle of everything if they are not whole."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        if is_whole:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True


class FaultHub(ThreadingHTTPServer):
    """A hub that does what a script says with each request, and remembers them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Callable[[Reply], None]) -> None:
        super().__init__(("127.0.0.1", 0), Reply)
        self.script = script
        self.seen: list[tuple[str, str, Mapping[str, str], Json]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def methods(self) -> list[str]:
        """What was asked for, in the order it came: JSON-RPC's method, HTTP's where there is none."""
        return [body.get("method", command) for command, _, _, body in self.seen]

    def handle_error(self, *args: object) -> None:
        pass  # a client that hangs up


@contextlib.contextmanager
def fault_hub(script: Callable[[Reply], None]) -> Iterator[FaultHub]:
    with FaultHub(script) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join(WAIT_S)
