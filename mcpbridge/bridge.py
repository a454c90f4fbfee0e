"""The bridge: a client's messages to the hub's /mcp and the hub's back, in whichever era each of them speaks.

The protocol of 2026 has no sessions: each request stands alone, and to cancel it is to close its answer. The older
eras agree on a session first; there a cancel is a message, and messages reach the hub in the order they came in.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.client import HTTPResponse

from mcpbridge.handshake import INITIALIZED, SESSION_HEADER, Handshake, Session
from mcpbridge.hub_client import START_IT, Call, HubClient, HubError, HubLost, HungUp, Refused, SessionLost, messages
from mcpbridge.jsonrpc import (
    INTERNAL_ERROR,
    BadMessage,
    Message,
    RequestId,
    dump,
    error_line,
    one_line,
    read_hubs,
    read_message,
    routing_headers,
)

logger = logging.getLogger(__name__)

# Each has a thread and a connection; more wait for one of them to end.
MOST_AT_ONCE = 256
# A hub takes a notification at once. One that does not holds up later requests of the session for no longer.
NOTICE_S = 5.0
# For a cancelled request to have reached the hub, else the cancel would come before it and be forgotten.
CANCEL_WAIT_S = 2.0
END_WAIT_S = 0.5

Headers = Mapping[str, str]


@dataclass(slots=True, eq=False)
class _Asked:
    """A request of the client's that has no answer yet."""

    message: Message
    handshake: Handshake | None  # None for one of 2026
    after: Future[None] | None  # what has to have reached the hub before
    call: Call = field(default_factory=Call)
    is_cancelled: bool = False


class Bridge:
    """`take` is for one thread, the one that reads; `tell` is called by many."""

    def __init__(self, hub: HubClient, tell: Callable[[bytes], None]) -> None:
        self._hub = hub
        self._tell = tell
        self._workers = ThreadPoolExecutor(MOST_AT_ONCE, "request")
        self._notices = ThreadPoolExecutor(1, "notice")  # one thread keeps their order
        self._last_notice: Future[None] | None = None
        self._handshake: Handshake | None = None
        self._lock = threading.Lock()
        self._asked: dict[tuple[type, RequestId], _Asked] = {}

    def take(self, line: bytes) -> None:
        """Deal with one line of the client's; never waits for the hub."""
        if not line.strip():
            return
        try:
            message = read_message(line)
        except BadMessage as bad:
            self._tell(bad.error)
            return
        if message.is_request:
            self._take_request(message)
        elif message.method == "notifications/cancelled":
            self._cancel(message)
        else:
            self._send_on(message)

    def end(self) -> None:
        """Hang up on all requests, give the session back; for no longer than END_WAIT_S."""
        with self._lock:
            asked = list(self._asked.values())
        for it in asked:
            it.call.hang_up()
        if self._handshake is not None:
            last = threading.Thread(target=self._handshake.end, name="end", daemon=True)
            last.start()
            last.join(END_WAIT_S)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _take_request(self, message: Message) -> None:
        assert message.id is not None
        if message.method == "initialize" and not message.version:
            self._begin_handshake(message)
        handshake = None if message.version else self._handshake
        asked = _Asked(message, handshake, None if message.version else self._last_notice)
        with self._lock:
            self._asked[type(message.id), message.id] = asked
        self._workers.submit(self._serve, asked)

    def _begin_handshake(self, message: Message) -> None:
        if self._handshake is not None:
            self._notices.submit(self._handshake.end)
        self._handshake = Handshake(self._hub, message, self._tell)

    def _serve(self, asked: _Asked) -> None:
        try:
            self._ask(asked)
        except HungUp:
            pass  # the client has cancelled it, or is gone
        except HubError as error:
            self._tell_error(asked, error.code, str(error), error.data)
        except Exception:
            logger.exception("asking the hub")
            self._tell_error(asked, INTERNAL_ERROR, "the bridge to the hub failed; its log says why")
        finally:
            asked.call.begun.set()
            self._forget(asked)

    def _ask(self, asked: _Asked) -> None:
        """Raises HubError and HungUp."""
        if asked.message.version:
            self._exchange(asked, routing_headers(asked.message))
        elif asked.handshake is None:
            self._exchange(asked, {})
        elif asked.message.method == "initialize":
            try:
                self._exchange(asked, {})
            finally:
                asked.handshake.give_up()
        else:
            if asked.after is not None:
                wait([asked.after], NOTICE_S)
            asked.handshake.note(asked.message)
            self._in_session(asked.handshake, lambda headers: self._exchange(asked, headers))

    def _in_session(self, handshake: Handshake, send: Callable[[Headers], None]) -> None:
        """Send with the session's headers; once more in another session if the hub has lost that one."""
        session = handshake.session() or Session("", "")
        try:
            send(session.headers)
        except SessionLost:
            send(handshake.renew(session).headers)

    def _exchange(self, asked: _Asked, headers: Headers) -> None:
        message = asked.message
        with self._hub.answer(asked.call, "POST", headers=headers, body=message.body) as answer:
            _look_for_session(answer, headers)
            for data in messages(answer):
                if self._pass_on(asked, answer, data):
                    return
        if not asked.is_cancelled:
            raise HubLost(f"the hub ended its answer before it was complete; if it is not running, {START_IT}")

    def _pass_on(self, asked: _Asked, answer: HTTPResponse, data: bytes) -> bool:
        """Give the client one of the hub's messages; True for the answer to its request."""
        parsed = read_hubs(data)
        is_answer = bool(parsed) and "method" not in parsed
        if is_answer:
            if asked.message.method == "initialize" and asked.handshake is not None and "result" in parsed:
                asked.handshake.agree(answer.getheader(SESSION_HEADER, ""), parsed)
            if parsed.get("id") != asked.message.id:  # null in errors about what the hub could not read
                data = dump({**parsed, "id": asked.message.id})
        # Streamable HTTP has to end a cancelled request by an answer; a client on pipes expects none.
        if parsed and not (is_answer and asked.is_cancelled):
            self._tell(one_line(data))
        return is_answer

    def _tell_error(self, asked: _Asked, code: int, message: str, data: object = None) -> None:
        if not asked.is_cancelled:
            self._tell(error_line(asked.message.id, code, message, data))

    def _forget(self, asked: _Asked) -> None:
        assert asked.message.id is not None
        key = type(asked.message.id), asked.message.id
        with self._lock:
            if self._asked.get(key) is asked:
                del self._asked[key]

    # --- notifications, and answers to the hub's questions -----------------------------------------------------------

    def _send_on(self, message: Message) -> None:
        if message.version:
            self._notices.submit(self._notify, message, routing_headers(message), None)
        elif self._handshake is not None:
            self._last_notice = self._notices.submit(self._notify, message, {}, self._handshake)

    def _notify(self, message: Message, headers: Headers, handshake: Handshake | None) -> None:
        try:
            if handshake is None:
                self._post(message, headers)
                return
            handshake.note(message)
            self._in_session(handshake, lambda known: self._post(message, known))
            if message.method == INITIALIZED:
                handshake.listen()
        except (HubError, HungUp) as error:
            # Nobody waits for an answer, and the next request will tell.
            logger.warning("a notification did not reach the hub: %s", error)
        except Exception:
            logger.exception("passing on a notification")

    def _post(self, message: Message, headers: Headers) -> None:
        with self._hub.answer(Call(), "POST", headers=headers, body=message.body, timeout_s=NOTICE_S) as answer:
            _look_for_session(answer, headers)
            said = answer.read()
            if answer.status >= 400:
                raise Refused(f"HTTP {answer.status}, {len(said)} bytes")

    def _cancel(self, message: Message) -> None:
        id = message.params.get("requestId")
        asked = None
        if isinstance(id, RequestId):
            with self._lock:
                asked = self._asked.get((type(id), id))
        if asked is None:
            self._send_on(message)
            return
        asked.is_cancelled = True
        if asked.handshake is None or asked.message.method == "initialize":
            asked.call.hang_up()
        else:
            self._last_notice = self._notices.submit(self._cancel_in_session, message, asked, asked.handshake)

    def _cancel_in_session(self, message: Message, asked: _Asked, handshake: Handshake) -> None:
        if asked.call.begun.wait(CANCEL_WAIT_S):
            self._notify(message, {}, handshake)
        else:
            asked.call.hang_up()


def _look_for_session(answer: HTTPResponse, headers: Headers) -> None:
    """Raises SessionLost."""
    if answer.status == 404 and SESSION_HEADER in headers:
        raise SessionLost("the hub does not know this session, and has just begun it")
