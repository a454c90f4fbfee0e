"""What a client of the older eras has agreed with the hub, kept so that it can be agreed again behind its back.

A hub forgets its sessions when it is started anew, and idle ones before that; the client need not know.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mcpbridge.hub_client import Call, HubClient, HubError, HungUp, Refused, SessionLost, messages
from mcpbridge.jsonrpc import Message, dump, one_line, read_hubs

logger = logging.getLogger(__name__)

SESSION_HEADER = "Mcp-Session-Id"
INITIALIZED = "notifications/initialized"
# The id of a request that the client did not make.
OWN_ID = "run_mcp"
NO_OTHER = "the hub has lost this session and begins no other; start the client anew"

RENEW_S = 10.0
END_S = 0.5
# Between two tries to listen to the hub, doubled while it is away.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One session of the hub's, without an id if the hub keeps none, and the protocol it speaks."""

    id: str
    version: str

    @property
    def headers(self) -> dict[str, str]:
        named = {SESSION_HEADER: self.id, "Mcp-Protocol-Version": self.version}
        return {name: value for name, value in named.items() if value}


class Handshake:
    """One `initialize` of the client and what follows from it. All threads use it."""

    def __init__(self, hub: HubClient, initialize: Message, tell: Callable[[bytes], None]) -> None:
        self._hub = hub
        self._initialize = initialize
        self._tell = tell
        self._answered = threading.Event()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._renewal: Future[Session] | None = None
        self._initialized: Message | None = None
        self._wishes: dict[str, Message] = {}
        self._push: Call | None = None

    # --- agreed by the client --------------------------------------------------------------------------------------

    def agree(self, session_id: str, answer: dict[str, Any]) -> None:
        """The hub has answered `initialize`."""
        self._session = _session(session_id, answer)
        self._answered.set()

    def give_up(self) -> None:
        """It has not, and will not."""
        self._answered.set()

    def session(self) -> Session | None:
        """The session, once `initialize` is answered; None if that went wrong."""
        self._answered.wait()
        return self._session

    def note(self, message: Message) -> None:
        """Remember what another session would have to be told as well."""
        match message.method, message.params.get("uri"):
            case "notifications/initialized", _:
                self._initialized = message
            case "logging/setLevel", _:
                self._wishes[message.method] = message
            case "resources/subscribe", str(uri):
                self._wishes[f"resource {uri}"] = message
            case "resources/unsubscribe", str(uri):
                self._wishes.pop(f"resource {uri}", None)

    # --- agreed again ------------------------------------------------------------------------------------------------

    def renew(self, lost: Session) -> Session:
        """A session in place of one the hub has lost; whoever asks at the same time gets the same one.

        Raises HubError.
        """
        with self._lock:
            if self._session is not None and self._session is not lost:
                return self._session
            renewal, is_mine = self._renewal or Future[Session](), self._renewal is None
            self._renewal = renewal
        if is_mine:
            self._settle(renewal)
        return renewal.result()

    def _settle(self, renewal: Future[Session]) -> None:
        try:
            session = self._begin_again()
        except Exception as error:
            with self._lock:
                self._renewal = None
            renewal.set_exception(error)
            return
        with self._lock:
            self._session, self._renewal = session, None
        renewal.set_result(session)
        if self._initialized is not None:
            self.listen()

    def _begin_again(self) -> Session:
        session_id, answer = self._ask(self._initialize, {})
        if "result" not in answer:
            raise SessionLost(NO_OTHER)
        session = _session(session_id, answer)
        if self._initialized is not None:
            with self._hub.answer(
                Call(), "POST", headers=session.headers, body=self._initialized.body, timeout_s=RENEW_S
            ) as told:
                told.read()
            for wish in list(self._wishes.values()):
                with suppress(Refused):  # what is not there any more must not cost the session
                    self._ask(wish, session.headers)
        logger.warning("the hub had lost the session: began another")
        return session

    def _ask(self, message: Message, headers: dict[str, str]) -> tuple[str, dict[str, Any]]:
        """A request under an id of our own: the session it opened, and the answer."""
        body = dump(json.loads(message.body) | {"id": OWN_ID})
        with self._hub.answer(Call(), "POST", headers=headers, body=body, timeout_s=RENEW_S) as answer:
            for data in messages(answer):
                if (parsed := read_hubs(data)).get("id") == OWN_ID:
                    return answer.getheader(SESSION_HEADER, ""), parsed
        raise SessionLost(NO_OTHER)

    # --- what the hub says by itself ---------------------------------------------------------------------------------

    def listen(self) -> None:
        """Pass on what the hub sends outside of all answers, in the background and for as long as the session lasts."""
        session, call = self._session, Call()
        if session is None or not session.id:
            return
        with self._lock:
            before, self._push = self._push, call
        if before is not None:
            before.hang_up()
        threading.Thread(target=self._listen, args=(session, call), name="listen", daemon=True).start()

    def _listen(self, session: Session, call: Call) -> None:
        pause_s = FIRST_PAUSE_S
        while not call.is_hung_up:
            try:
                with self._hub.answer(call, "GET", headers=session.headers) as answer:
                    if answer.status in (400, 401, 403, 404, 405):
                        return  # there is nothing to hear, or not for us
                    for data in messages(answer):
                        pause_s = FIRST_PAUSE_S
                        if "method" in read_hubs(data):
                            self._tell(one_line(data))
            except HungUp:
                return
            except HubError as error:
                logger.debug("not listening to the hub: %s", error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Give the session back, which ends what runs in it; in vain if the hub takes longer than END_S."""
        if self._push is not None:
            self._push.hang_up()
        session = self._session
        if session is None or not session.id:
            return
        with (
            suppress(HubError, HungUp),
            self._hub.answer(Call(), "DELETE", headers=session.headers, timeout_s=END_S) as answer,
        ):
            answer.read()


def _session(session_id: str, answer: dict[str, Any]) -> Session:
    match answer:
        case {"result": {"protocolVersion": str(version)}}:
            return Session(session_id, version)
    return Session(session_id, "")
