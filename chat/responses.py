"""Answers after their turns: found by their ids, gone on from, cancelled, erased."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from chat import conversations, service
from chat.ask import Admitted, Ask, Note
from chat.conversation import Conversation, StoredMessage
from chat.errors import (
    BadRequest,
    PreviousResponseNotFound,
    ResponseNotFound,
    SessionBusy,
    SessionLost,
    SessionNotFound,
)
from chat.history import merge
from chat.keys import Caller
from chat.live import LiveTurn
from chat.response_id import ResponseId
from chat.runtime import chat
from providers.events import Event, Message

# Longer than a turn takes to end that was told to.
CANCEL_WAIT_S = 10.0


# --- going on from an answer -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, and what instead if the session has gone on by the time it is opened."""

    ask: Ask
    branch: Ask | None = None


async def plan(caller: Caller, ask: Ask, previous: str) -> Plan:
    """How a question is asked that goes on from the answer of the id `previous`, if that is not empty.

    Raises PreviousResponseNotFound, and what reading a session raises.
    """
    if not previous:
        return Plan(ask if ask.is_stored or not ask.session_id else await _recalled(caller, ask))
    named, found = await _previous(caller, previous)
    if ask.session_id and ask.session_id != named.session_id:
        raise BadRequest("previous_response_id belongs to another session", param="previous_response_id")
    branch = _after(ask, _through(found, named.turn_id), found.head.system)
    is_last = found.last_turn == named.turn_id
    if not (ask.is_stored and is_last) or await conversations.is_running(caller, named.session_id):
        return Plan(branch)
    return Plan(replace(ask, session_id=named.session_id, mode="append", follows=named.turn_id), branch)


async def answer(caller: Caller, planned: Plan) -> AsyncGenerator[Note | Event, None]:
    """The events of the turn, as service.answer gives them."""
    is_begun = False
    try:
        async with aclosing(service.answer(caller, planned.ask)) as events:
            async for event in events:
                is_begun = is_begun or (isinstance(event, Admitted) and bool(event.turn_id))
                yield event
            return
    except (SessionBusy, SessionLost):
        if planned.branch is None or is_begun:
            raise
    async with aclosing(service.answer(caller, planned.branch)) as events:
        async for event in events:
            yield event


async def _previous(caller: Caller, response_id: str) -> tuple[ResponseId, Conversation]:
    """The session of an answer that can be gone on from."""
    named = ResponseId.read(response_id)
    try:
        if named is None or not named.session_id:
            raise SessionNotFound(response_id)
        found = await conversations.get_session(caller, named.session_id)
        if not any(found.messages[place].turn_id == named.turn_id for place in found.places):
            raise SessionNotFound(response_id)
    except SessionNotFound as exc:
        await service.count_request(caller)  # no turn comes of it that would be counted, and ids may not be guessed
        raise PreviousResponseNotFound(
            f"there is no response {response_id[:200]!r} to go on from: it was not stored, came to no end, or is gone",
            param="previous_response_id",
        ) from exc
    return named, found


def _through(found: Conversation, turn_id: str) -> list[Message]:
    """The conversation up to a turn's end."""
    last = max(place for place in found.places if found.messages[place].turn_id == turn_id)
    return [found.messages[place].as_message() for place in found.places if place <= last]


async def _recalled(caller: Caller, ask: Ask) -> Ask:
    """A question that leaves no trace in its session, with what that remembers before it."""
    try:
        found = await conversations.get_session(caller, ask.session_id)
    except SessionNotFound:
        return ask
    stored = [found.messages[place].as_message() for place in found.places]
    merged = merge(stored, ask.turn.messages, ask.mode, has_answers=ask.has_answers)
    return _whole(ask, (*stored[: merged.keep], *merged.new), found.head.system)


def _after(ask: Ask, history: Sequence[Message], system: str) -> Ask:
    """A question in a session of its own that begins with what was said before."""
    return replace(_whole(ask, (*history, *ask.turn.messages), system), session_id="", mode="replace")


def _whole(ask: Ask, messages: tuple[Message, ...], system: str) -> Ask:
    return replace(ask, turn=replace(ask.turn, messages=messages, system=ask.turn.system or system))


# --- looking for one -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """An answer as its `session` keeps it; without one, it is on its way or has come to no end.

    `live` is None for one that another hub is at, or that is not in the background. `is_busy`: some turn of the session
    is under way.
    """

    id: ResponseId
    session: Conversation | None
    live: LiveTurn | None
    is_busy: bool

    @property
    def is_running(self) -> bool:
        return self.session is None and (self.live is None or not self.live.is_over)

    @property
    def asked(self) -> list[StoredMessage]:
        return self._messages[:-1]

    @property
    def answer(self) -> StoredMessage | None:
        return self._messages[-1] if self._messages else None

    @property
    def _messages(self) -> list[StoredMessage]:
        stored = self.session.messages if self.session else ()
        return [message for message in stored if message.turn_id == self.id.turn_id]


async def find(caller: Caller, response_id: str) -> Found:
    """Raises ResponseNotFound, and what reading a session raises."""
    named = ResponseId.read(response_id)
    if named is None or not named.session_id:
        raise _unknown(response_id)
    live = chat().live.find_turn(caller.owner, named.turn_id)
    if live is not None and live.session_id != named.session_id:
        raise _unknown(response_id)
    # Asked first: a turn that ends meanwhile is in the session then.
    is_busy = await conversations.is_running(caller, named.session_id)
    session = await _session_of(caller, named)
    if session is None and live is None and not is_busy:
        raise _unknown(response_id)
    return Found(named, session, live, is_busy)


def _unknown(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(f"there is no response {response_id[:200]!r}", param="response_id")


async def _session_of(caller: Caller, named: ResponseId) -> Conversation | None:
    """The session if it holds the answer."""
    try:
        found = await conversations.get_session(caller, named.session_id)
    except SessionNotFound:
        return None
    return found if any(message.turn_id == named.turn_id for message in found.messages) else None


# --- doing something to it -------------------------------------------------------------------------------------------


async def cancel(caller: Caller, response_id: str) -> Found:
    """Stop an answer in the background; one that is over stays as it is. Raises BadRequest, and what finding raises."""
    found = await find(caller, response_id)
    if not found.id.is_background:
        raise BadRequest("only a response in the background can be cancelled", param="response_id")
    if found.is_running and found.live is None:
        raise BadRequest("another hub is at this response, and only that can cancel it", param="response_id")
    if found.live is None or found.live.is_over:
        return found
    found.live.cancel()
    await found.live.end(within_s=CANCEL_WAIT_S)
    return await find(caller, response_id)


async def delete(caller: Caller, response_id: str) -> None:
    """Erase an answer with its question. Raises BadRequest where others would go with it, and what finding raises."""
    found = await find(caller, response_id)
    if found.is_running:
        raise BadRequest("this response is still in progress; cancel it first", param="response_id")
    if found.session is not None:
        await _delete_session(caller, found, found.session)
    if found.live is not None:
        chat().live.forget(found.live)


async def _delete_session(caller: Caller, found: Found, session: Conversation) -> None:
    session_id = found.id.session_id
    if any(message.turn_id != found.id.turn_id for message in session.messages):
        raise BadRequest(
            f"this response is one of several in its conversation; to erase them all, DELETE /v1/sessions/{session_id}",
            param="response_id",
        )
    if found.is_busy:
        raise SessionBusy("another turn of this conversation is under way", retry_after_s=1)
    await conversations.delete_session(caller, session_id)
