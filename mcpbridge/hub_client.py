"""HTTP to the hub with nothing but the standard library, which is what lets `run_mcp` be there at once.

Each request in flight has a connection of its own, kept for the next one. No proxy is used, no redirect followed, and
the key goes nowhere but into the Authorization header.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, NoReturn
from urllib.parse import urlsplit

from mcpbridge.jsonrpc import HUB_ERROR

CONNECT_S = 5.0
# uvicorn closes what was idle for 5 s; a request on its way at that very moment would be lost.
IDLE_S = 4.0
# What is left of an answer after its message is the end of the stream.
REST_S = 0.5
CHUNK_BYTES = 65_536
MOST_ERROR_BYTES = 1_048_576
# A machine that vanished without a word is noticed after a minute, however long its answers may take.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

START_IT = "start it with `uv run manage.py hub`"
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
EVENTS, JSON = "text/event-stream", "application/json"


@dataclass(frozen=True, slots=True)
class Target:
    """A hub to talk to: its address without the path of MCP, and headers that go with every request."""

    url: str
    key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


Find = Callable[[], Target | None]


class HubError(Exception):
    """There is no answer; the message tells the client why. `code` and `data` are JSON-RPC's."""

    def __init__(self, message: str, *, code: int = HUB_ERROR, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


class HubAway(HubError):
    """No hub could be reached, so nothing was asked."""


class HubLost(HubError):
    """The connection ended before the answer did; nobody knows what became of the request."""


class Refused(HubError):
    """The hub answered with an error."""


class SessionLost(HubError):
    """The hub does not know the session, or no longer."""


class HungUp(Exception):
    """`Call.hang_up` was called."""


class Call:
    """One request's way to the hub. Any thread may hang up on it, which ends what waits for the answer."""

    def __init__(self) -> None:
        self.is_hung_up = False
        self.begun = threading.Event()  # the hub has begun to answer, or will never
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def hang_up(self) -> None:
        with self._lock:
            self.is_hung_up = True
            if self._socket is not None:
                with suppress(OSError):
                    # The plain socket's: TLS would first take its state away from the thread that reads.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def hold(self, line: socket.socket) -> None:
        """Raises HungUp if that has happened already."""
        with self._lock:
            if self.is_hung_up:
                raise HungUp
            self._socket = line

    def release(self) -> bool:
        """Whether nobody has hung up; from here on nobody can."""
        with self._lock:
            self._socket = None
            return not self.is_hung_up


@dataclass(slots=True, eq=False)
class _Line:
    """A connection to a target, and when it was last of use."""

    target: Target
    http: HTTPConnection
    socket: socket.socket
    used_at: float = 0.0

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> HTTPResponse:
        target = self.target
        key = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        path = urlsplit(target.url).path + path
        with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all of the body has gone
            self.http.request(method, path, body or None, {**ACCEPT, **target.headers, **headers, **key})
        return self.http.getresponse()

    def is_fresh(self) -> bool:
        """Whether it can be used again: the other side has neither closed it nor said anything nobody asked for."""
        if time.monotonic() - self.used_at > IDLE_S:
            return False
        try:
            socket.socket.recv(self.socket, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


class HubClient:
    """Asks whichever hub `find` names when a connection is made; it may be another one each time."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._idle: list[_Line] = []

    @contextmanager
    def answer(
        self,
        call: Call,
        method: str,
        path: str = "/mcp",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float | None = None,
    ) -> Iterator[HTTPResponse]:
        """The hub's answer, its body yet to be read; `timeout_s` bounds each wait for a part of it.

        Raises HubAway, HubLost, HungUp, which may also come while the block reads.
        """
        line, is_good = self._line(timeout_s), False
        try:
            call.hold(line.socket)
            line.socket.settimeout(timeout_s)
            answer = line.send(method, path, headers or {}, body)
            call.begun.set()
            yield answer
            is_good = _is_read(line, answer)
        except (OSError, HTTPException) as exc:
            _raise_lost(line.target, call, exc)
        finally:
            self._give_back(line, is_good=call.release() and is_good)

    def close(self) -> None:
        """Close the connections no request is on."""
        while (line := self._pop()) is not None:
            line.http.close()

    def _line(self, timeout_s: float | None) -> _Line:
        while (line := self._pop()) is not None:
            if line.is_fresh():
                return line
            line.http.close()
        target = self._find()
        if target is None:
            raise HubAway(f"no hub is running; {START_IT}")
        return _connect(target, min(CONNECT_S, timeout_s or CONNECT_S))

    def _pop(self) -> _Line | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, line: _Line, *, is_good: bool) -> None:
        if not is_good:
            line.http.close()
            return
        line.socket.settimeout(None)
        line.used_at = time.monotonic()
        with self._lock:
            self._idle.append(line)


def is_up(target: Target, *, within_s: float) -> bool:
    """Whether a hub is there and takes requests. It is not told the key."""
    client = HubClient(lambda: Target(target.url))
    try:
        with client.answer(Call(), "GET", "/health", timeout_s=within_s / 2) as answer:
            return answer.status == 200 and b'"status"' in answer.read(MOST_ERROR_BYTES)
    except HubError:
        return False
    finally:
        client.close()


def messages(answer: HTTPResponse) -> Iterator[bytes]:
    """The messages of a good answer as they come, be it one document or a stream of events.

    Raises Refused for any other.
    """
    kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
    if answer.status != 200 or kind not in (JSON, EVENTS):
        raise refusal(answer)
    return iter([answer.read()]) if kind == JSON else _events(answer)


def refusal(answer: HTTPResponse) -> Refused:
    """What the hub says in an answer that is none, in words for a person."""
    text = answer.read(MOST_ERROR_BYTES)
    said: Any = None
    with suppress(ValueError, RecursionError):
        said = json.loads(text)
    match said:
        case {"error": {"code": int(code), "message": str(message), **more}}:  # JSON-RPC's
            return Refused(message, code=code, data=more.get("data"))
        case {"error": {"message": str(message), **more}}:  # the hub's own
            return Refused(_in_words(answer, message), data={"status": answer.status, "code": more.get("code")})
    return Refused(_in_words(answer, ""), data={"status": answer.status})


def _in_words(answer: HTTPResponse, message: str) -> str:
    told = f": {message}" if message else ""
    again = answer.getheader("Retry-After", "")
    hint = f" (try again in {again} s)" if again else ""
    if answer.status == 401:
        return f"the hub refused the key{told}; set HUB_API_KEY to one it knows"
    if answer.status < 300:
        return f"the hub gave no answer that can be read (HTTP {answer.status}{told})"
    return f"the hub refused the request (HTTP {answer.status} {answer.reason}){told}{hint}"


def _events(answer: HTTPResponse) -> Iterator[bytes]:
    """The data of server-sent events; comments and events of other kinds are passed over."""
    kind, data = b"message", list[bytes]()
    for line in _lines(answer):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if line == b"":
            if kind == b"message" and any(data):
                yield b"\n".join(data)
            kind, data = b"message", []
        elif name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value


def _lines(answer: HTTPResponse) -> Iterator[bytes]:
    held = bytearray()
    while chunk := answer.read1(CHUNK_BYTES):
        held += chunk
        end = held.rfind(b"\n", len(held) - len(chunk))
        if end >= 0:
            whole = bytes(held[:end])
            del held[: end + 1]
            yield from (line.removesuffix(b"\r") for line in whole.split(b"\n"))


def _connect(target: Target, timeout_s: float) -> _Line:
    http = _connection(target, timeout_s)
    try:
        http.connect()
    except (OSError, UnicodeError) as exc:  # the latter for a host that can be no name
        reason = getattr(exc, "strerror", "") or str(exc)
        raise HubAway(f"no hub answers at {target.url} ({reason}); if it is not running, {START_IT}") from exc
    http.auto_open = 0  # a lost connection is to be told, not silently replaced
    http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            http.sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return _Line(target, http, http.sock)


def _connection(target: Target, timeout_s: float) -> HTTPConnection:
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        return HTTPConnection(host, parts.port, timeout=timeout_s)
    import ssl
    from http.client import HTTPSConnection

    return HTTPSConnection(host, parts.port, timeout=timeout_s, context=ssl.create_default_context())


def _is_read(line: _Line, answer: HTTPResponse) -> bool:
    """Whether the answer has been read to its end, so that the next one can follow on the same connection."""
    if answer.will_close:
        return False
    if not answer.isclosed():
        with suppress(OSError, HTTPException):
            line.socket.settimeout(REST_S)
            answer.read(CHUNK_BYTES)
    return answer.isclosed()


def _raise_lost(target: Target, call: Call, reason: Exception) -> NoReturn:
    if call.is_hung_up:
        raise HungUp from reason
    told = "it took too long" if isinstance(reason, TimeoutError) else "the connection ended"
    raise HubLost(
        f"the hub at {target.url} did not finish its answer ({told}); if it is not running, {START_IT}"
    ) from reason
