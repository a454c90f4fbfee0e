"""The WebSocket door: the page's, and any client's that speaks what docs/websocket.md says.

It calls chat.service as the other doors do. Turns run apart from the connection that asked (chat/live_streams.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from chat import choice, conversations, log_ids, service
from chat.addresses import address_of
from chat.ask import Ask
from chat.errors import (
    BadRequest,
    ChatError,
    KeyMissing,
    KeyRefused,
    ResponseNotFound,
    SessionNotFound,
    StoreUnavailable,
    TooManyFailures,
)
from chat.ids import new_id
from chat.keys import Caller
from chat.live_feed import Feed
from chat.live_record import error_fields
from chat.runtime import chat
from chat.session_bodies import listed
from chat.sessions import check_session_id
from chat.ws_bodies import conversation_body, provider_body, ready_body
from chat.ws_messages import (
    AskSaid,
    DeleteSession,
    Hello,
    Id,
    ListProviders,
    ListSessions,
    OpenSession,
    Ping,
    Resume,
    Said,
    Stop,
    Unreadable,
    question_of,
    read,
    to_turn,
)
from chat.ws_origin import headers_of, is_welcome
from chat.ws_watches import Watches
from chat.ws_who import HOW, Visitor, visitor_of
from providers.errors import ProviderError
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

Json = dict[str, Any]

HELLO_WAIT_S = 10.0
# A key that is revoked, or a login that has ended, is cut off within this time also where nothing is asked.
RECHECK_S = 15.0
MAX_FAULTS = 20
MAX_FOLLOWED = 64
KINDS = ("new", "changed", "deleted")

UNREADABLE, NOT_LET_IN, NO_HELLO = 4400, 4401, 4408


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered, and the turn that is told of from then on."""

    body: Json
    feed: Feed | None = None
    after: int = 0


class ChatConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """One connection."""

    channel_layer_alias = "none"  # news come from chat.streams, which costs a connection nothing

    def __init__(self) -> None:
        super().__init__()
        self._tasks = Tasks()
        self._watches = Watches(self._send_json)
        self._visitor: Visitor | None = None
        self._owner = ""
        self._followed: dict[str, None] = {}
        self._faults = 0
        self._unsubscribe: Callable[[], None] = lambda: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also when the server ends it without a word
            self._unsubscribe()
            self._watches.close()
            await self._tasks.cancel()

    async def connect(self) -> None:
        self._headers = headers_of(self.scope)
        if not is_welcome(self._headers):
            await self.close()
            return
        await self.accept()
        self._tasks.start(self._expect_hello(), name="hello of a WebSocket")

    async def _expect_hello(self) -> None:
        await asyncio.sleep(HELLO_WAIT_S)
        if self._visitor is None:
            await self._refuse(KeyMissing(f"say hello within {HELLO_WAIT_S:g} s"), NO_HELLO)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        said = Said()
        try:
            said = read(text_data)
            if self._visitor is None or isinstance(said, Hello):
                await self._greet(said)
                return
            await self._answer(said, await self._visitor.caller())
        except Unreadable as error:
            await self._tell_fault(error)
        except (KeyMissing, KeyRefused, TooManyFailures) as error:
            await self._refuse(error, NOT_LET_IN, re=said.id)
        except (ChatError, ProviderError) as error:
            await self._tell_error(error, said.id)
        except Exception as error:
            await self._tell_error(error, said.id)  # logged by the table of errors

    # --- who is there ------------------------------------------------------------------------------------------------

    async def _greet(self, said: Said) -> None:
        if not isinstance(said, Hello):
            raise KeyMissing(f"say hello first: {HOW}")
        if self._visitor is not None:
            raise Unreadable("hello was said already", re=said.id)
        visitor = visitor_of(self._headers, said.key.strip(), address=address_of(self.scope))
        caller = await visitor.caller()
        self._visitor, self._owner = visitor, caller.owner
        log_ids.add(key_id=caller.key_id)
        if "sessions" in caller.scopes:
            self._unsubscribe = chat().streams.subscribe(caller.owner, self._on_news)
        self._tasks.start(self._watches.run(), name="events to a WebSocket")
        self._tasks.repeat(self._recheck, name="look who is at a WebSocket", pause_s=RECHECK_S)
        await self._send_json({"re": said.id, **ready_body(caller, how=visitor.how)})

    async def _recheck(self) -> None:
        assert self._visitor is not None
        try:
            await self._visitor.caller()
        except (KeyMissing, KeyRefused) as error:
            await self._refuse(error, NOT_LET_IN)
        except ChatError as error:
            logger.info("who is at a WebSocket can't be looked up: %s", error)

    async def _refuse(self, error: ChatError, code: int, *, re: Id = None) -> None:
        await self._tell_error(error, re)
        await self.close(code)

    async def _tell_fault(self, error: Unreadable) -> None:
        self._faults += 1
        await self._tell_error(error, error.re)
        if self._faults >= MAX_FAULTS or self._visitor is None:
            await self.close(UNREADABLE)

    async def _tell_error(self, error: Exception, re: Id) -> None:
        await self._send_json({"type": "error", "re": re, "turn": None, **error_fields(error)})

    async def _send_json(self, message: Json) -> None:
        await self.send(text_data=orjson.dumps(message).decode())

    # --- what is asked -----------------------------------------------------------------------------------------------

    async def _answer(self, said: Said, caller: Caller) -> None:
        handlers: dict[type[Said], Callable[[Any, Caller], Awaitable[Reply]]] = {
            AskSaid: self._ask,
            Stop: self._stop,
            Resume: self._resume,
            ListSessions: self._list_sessions,
            OpenSession: self._open_session,
            DeleteSession: self._delete_session,
            ListProviders: self._list_providers,
            Ping: self._ping,
        }
        if not isinstance(said, (AskSaid, Ping)):
            await service.count_request(caller)
        reply = await handlers[type(said)](said, caller)
        await self._send_json({"re": said.id, **reply.body})
        if reply.feed is not None:
            self._watches.add(reply.feed, after=reply.after)  # whose events come after the reply

    async def _ask(self, said: AskSaid, caller: Caller) -> Reply:
        caller.require("chat")
        turn, session_id = to_turn(said), said.session.strip()
        if session_id:
            self._follow(check_session_id(session_id))
        feed = await self._known(said, caller)
        if feed is None:
            name = said.turn or f"turn_{new_id()}"
            ask = Ask(turn, said.provider, said.model, session_id, said.mode, request_id=name, door="websocket")
            events = service.answer(caller, ask)
            feed = chat().streams.begin(caller.owner, name, session_id, question_of(said, turn), events)
        return Reply({"type": "accepted", "turn": feed.turn}, feed)

    async def _known(self, said: AskSaid, caller: Caller) -> Feed | None:
        """The turn, if this question was taken before: its client may have lost the answer to that."""
        if not said.turn:
            return None
        try:
            feed = await chat().streams.find(caller.owner, said.turn)
        except ResponseNotFound:
            return None
        except StoreUnavailable:
            if said.session:  # which could not go on either
                raise
            return None
        await service.count_request(caller)  # no turn of its own, but a request
        return feed

    async def _stop(self, said: Stop, caller: Caller) -> Reply:
        caller.require("chat")
        streams = chat().streams
        await streams.stop_turn(await streams.find(caller.owner, said.turn), by="caller")
        return Reply({"type": "ok"})

    async def _resume(self, said: Resume, caller: Caller) -> Reply:
        caller.require("chat" if said.turn else "sessions")
        feed = await self._find(said, caller)
        if feed.session_id:
            self._follow(feed.session_id)
        body = {"type": "resumed", "turn": feed.turn, "session": feed.session_id or None, "last": feed.last}
        return Reply(body, feed, said.after)

    async def _find(self, said: Resume, caller: Caller) -> Feed:
        if said.turn:
            return await chat().streams.find(caller.owner, said.turn)
        if not said.session:
            raise BadRequest("name a turn or a session", param="turn")
        feed = await chat().streams.find_in(caller.owner, check_session_id(said.session))
        if feed is None:
            raise ResponseNotFound("no events of this session are kept; fetch it")
        return feed

    async def _list_sessions(self, said: ListSessions, caller: Caller) -> Reply:
        caller.require("sessions")
        page = await conversations.list_sessions(caller, after=said.after, limit=said.limit)
        return Reply({"type": "sessions", "data": [listed(it).model_dump() for it in page.heads], "next": page.next})

    async def _open_session(self, said: OpenSession, caller: Caller) -> Reply:
        caller.require("sessions")
        session_id = check_session_id(said.session)
        # Before the conversation is read: a turn that ends meanwhile is then in it.
        feed = await chat().streams.find_in(caller.owner, session_id)
        live = None if feed is None or feed.is_over else feed
        try:
            found = await conversations.get_session(caller, session_id)
        except SessionNotFound:
            if live is None:
                raise
            found = None
        self._follow(session_id)
        if live is not None and found and live.turn_id in {it.turn_id for it in found.messages}:
            live = None
        body = {"type": "session", **conversation_body(session_id, found), "live": live.turn if live else None}
        return Reply(body, live)

    async def _delete_session(self, said: DeleteSession, caller: Caller) -> Reply:
        caller.require("sessions")
        await conversations.delete_session(caller, said.session)
        return Reply({"type": "ok"})

    async def _list_providers(self, said: ListProviders, caller: Caller) -> Reply:
        return Reply({"type": "providers", "data": [provider_body(it) for it in await choice.list_providers(caller)]})

    async def _ping(self, said: Ping, caller: Caller) -> Reply:
        return Reply({"type": "pong"})

    # --- news --------------------------------------------------------------------------------------------------------

    def _follow(self, session_id: str) -> None:
        """Tell of turns that anybody of the owner begins in this session."""
        self._followed.pop(session_id, None)
        self._followed[session_id] = None
        if len(self._followed) > MAX_FOLLOWED:
            del self._followed[next(iter(self._followed))]

    def _on_news(self, session_id: str, what: str) -> None:
        if what in KINDS:
            self._watches.note(session_id, {"type": "changed", "session": session_id, "what": what})
        elif self._watches.knows(what):
            self._follow(session_id)
        elif session_id in self._followed:
            self._tasks.start(self._join(what), name="watch a turn that began")

    async def _join(self, turn: str) -> None:
        try:
            feed = await chat().streams.find(self._owner, turn)
        except (ChatError, ProviderError) as error:
            logger.info("a turn that began can't be watched: %s", error)
            return
        # One that is over is in the conversation, as it was or will be read.
        if not feed.is_over and not self._watches.knows(turn):
            self._watches.add(feed, after=0)
