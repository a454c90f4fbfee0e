"""The one way to an answer, for every door: limits, route, session, the turn, and what it leaves behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from django.conf import settings

from chat.ask import Admitted, Ask
from chat.choice import route
from chat.conversation import Conversation, new_conversation, new_id, now_ms
from chat.ending import end_turn
from chat.errors import ChatError, LimitReached, SessionTooLarge, StoreUnavailable
from chat.keys import Caller
from chat.leases import Renew
from chat.running import RunningTurn
from chat.runtime import Chat, chat
from chat.sessions import check_session_id, new_session_id
from chat.standing import Standing
from providers.errors import ProviderError
from providers.events import Event, Turn, TurnFinished
from providers.router import Route

logger = logging.getLogger(__name__)


async def count_request(caller: Caller) -> Standing:
    """Admit a request that is no turn. Raises LimitReached."""
    return await chat().limits.admit(caller.key_id, caller.limits, request=new_id(), is_turn=False)


async def answer(caller: Caller, ask: Ask) -> AsyncGenerator[Admitted | Event, None]:
    """The events of one turn, Admitted first, then TurnStarted, TurnFinished last.

    When TurnFinished comes, the turn is durable. Closing the generator (a client that hangs up) stops the turn and its
    vendor call. Raises ChatError, ProviderError.
    """
    here = chat()
    running = RunningTurn(caller.key_id, caller.owner, ask.request_id, ask.turn)
    ended = "cancelled"
    try:
        standing = await here.limits.admit(caller.key_id, caller.limits, request=running.turn_id, is_turn=True)
        try:
            caller.require("chat")
            chosen = await route(caller, ask)
            running.provider, running.model = chosen.provider.name, chosen.model or ""
            _hold(here, caller, running)  # the key's place, also while the session has to be waited for
            await _open_session(here, caller, ask, running)
        except (ChatError, ProviderError):
            yield Admitted("", standing)  # the headers of an error tell where the key stands, too
            raise
        _hold(here, caller, running)
        yield Admitted(running.session_id, standing, chosen.provider.info.unsupported_sampling)
        async with aclosing(_run(chosen, _for_engine(caller, running, chosen))) as events:
            async for event in events:
                running.note(event)
                if running.finished is None:
                    yield event
        # Its worker is free again by now, and may take the next turn while this one is written down.
        if running.finished is not None:
            await end_turn(here, caller, running, "ok")
            yield running.finished
    except LimitReached:
        running.is_over = True  # no turn came of it
        raise
    except (ChatError, ProviderError) as error:
        ended = error.code
        raise
    except Exception:
        ended = "internal_error"
        raise
    finally:
        if not running.is_over:
            await end_turn(here, caller, running, ended)


async def _run(chosen: Route, turn: Turn) -> AsyncGenerator[Event, None]:
    """The turn's events. What fails after the last one is the worker's trouble, no longer the caller's."""
    is_finished = False
    try:
        async with aclosing(chosen.provider.run(turn)) as events:
            async for event in events:
                is_finished = isinstance(event, TurnFinished)
                yield event
    except ProviderError as error:
        if not is_finished:
            raise
        logger.warning("after the end of a turn: %s", error)


def _for_engine(caller: Caller, running: RunningTurn, chosen: Route) -> Turn:
    return replace(running.turn, model=chosen.model, owner=caller.owner, caller=str(caller.key_id))


# --- before the turn -------------------------------------------------------------------------------------------------


async def _open_session(here: Chat, caller: Caller, ask: Ask, running: RunningTurn) -> None:
    """Lock the session and put what it remembers before the question; nothing where none can be kept."""
    session_id = check_session_id(ask.session_id) if ask.session_id else new_session_id()
    wait_s = settings.HUB_SESSION_WAIT_S if settings.HUB_SESSION_BUSY == "wait" else 0
    try:
        running.held = await here.sessions.open(caller.owner, session_id, wait_s=wait_s)
    except StoreUnavailable:
        if ask.session_id:
            raise
        return
    before = running.held.conversation
    if before is None and ask.session_id:
        before = await _restored(here, caller.owner, session_id)
    before = before or new_conversation(caller.owner, session_id, ttl_s=caller.session_ttl_s)
    if before.head.chars > settings.HUB_SESSION_MAX_CHARS:
        raise SessionTooLarge(f"this session holds over {settings.HUB_SESSION_MAX_CHARS} characters; begin a new one")
    running.remember(before, ask.mode, has_answers=ask.has_answers, ttl_s=caller.session_ttl_s)


async def _restored(here: Chat, owner: str, session_id: str) -> Conversation | None:
    """A session that Redis has lost, out of the archive; only under its lock."""
    if not here.keeps_conversations:
        return None
    found = await here.archive.find(owner, session_id)
    left_ms = found.head.expires_ms - now_ms() if found else 0
    if found is None or left_ms <= 0:
        return None
    return found if await here.sessions.restore(found, left_ms) else None


def _hold(here: Chat, caller: Caller, running: RunningTurn) -> None:
    held, turn_id = running.held, running.turn_id
    renewals: list[Renew] = [partial(here.sessions.renew, held.keys, held.token)] if held else []
    if caller.limits.concurrent_turns is not None:
        renewals.append(partial(here.limits.renew, caller.key_id, caller.limits, turn_id))
    here.leases.hold(turn_id, *renewals)
