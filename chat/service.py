"""The one way to an answer, for every door: limits, route, session, the turn, and what it leaves behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from django.conf import settings

from chat import log_ids
from chat.ask import Admitted, Answering, Ask, Note
from chat.choice import decide_for
from chat.conversation import Conversation, new_conversation, now_ms
from chat.decisions import choice_of
from chat.ending import end_turn
from chat.errors import ChatError, LimitReached, SessionLost, SessionTooLarge, StoreUnavailable
from chat.ids import new_id
from chat.keys import Caller
from chat.leases import Renew
from chat.running import RunningTurn
from chat.runtime import Chat, chat
from chat.sessions import check_session_id, new_session_id
from chat.standing import Standing
from providers.attempts import FallbackLimits, run_decision
from providers.errors import ProviderChanged, ProviderError
from providers.events import Event, TurnStarted
from providers.route import Decision

# A turn whose provider is exchanged again and again while it waits has waited long enough.
MAX_DECISIONS = 3


async def count_request(caller: Caller) -> Standing:
    """Admit a request that is no turn. Raises LimitReached."""
    return await chat().limits.admit(caller.key_id, caller.limits, request=new_id(), is_turn=False)


async def answer(caller: Caller, ask: Ask) -> AsyncGenerator[Note | Event, None]:
    """The events of one turn: Admitted first, Answering and TurnStarted once a provider answers, TurnFinished last.

    When TurnFinished comes, the turn is durable. Closing the generator (a client that hangs up) stops the turn and its
    vendor call. Raises ChatError, ProviderError.
    """
    here = chat()
    running = RunningTurn(caller.key_id, caller.owner, ask.request_id, ask.turn, door=ask.door)
    log_ids.add(turn_id=running.turn_id, key_id=caller.key_id)
    ended = "cancelled"
    try:
        standing = await here.limits.admit(caller.key_id, caller.limits, request=running.turn_id, is_turn=True)
        try:
            caller.require("chat")
            _hold(here, caller, running)  # the key's place, also while the session has to be waited for
            if ask.is_stored:
                await _open_session(here, caller, ask, running)
            running.pair()
            _hold(here, caller, running)
            decision = await _decide(caller, ask, running)
        except (ChatError, ProviderError):
            yield Admitted("", standing)  # the headers of an error tell where the key stands, too
            raise
        yield Admitted(running.session_id, standing, running.turn_id)
        with here.under_way.holding(running):
            async with aclosing(_run(caller, ask, running, decision)) as events:
                while (event := await running.stop.wait(anext(events, None))) is not None:
                    running.note(event)
                    if isinstance(event, TurnStarted):
                        yield _answering(running)
                    if running.finished is None:
                        yield event
                    running.stop.check()
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


async def _decide(caller: Caller, ask: Ask, running: RunningTurn) -> Decision:
    """Who is asked, by all that is known now. Raises ProviderError, NotAllowed, DatabaseUnavailable."""
    stays_with = running.before.head.provider if running.before else ""
    decision = running.decision = await decide_for(caller, ask, running.turn, stays_with=stays_with)
    running.provider, running.model = decision.first.provider.name, decision.first.model or ""
    return decision


async def _run(caller: Caller, ask: Ask, running: RunningTurn, decision: Decision) -> AsyncGenerator[Event, None]:
    """The turn's events. It is decided anew where the provider was exchanged while the turn waited for it."""
    turn = replace(running.turn, owner=caller.owner, caller=str(caller.key_id))
    limits = FallbackLimits(settings.HUB_FALLBACK_TRIES, settings.HUB_FALLBACK_S, settings.HUB_FALLBACK_FIRST_TOKEN_S)
    for left in reversed(range(MAX_DECISIONS)):
        try:
            async with aclosing(run_decision(decision, turn, running.attempts, limits=limits)) as events:
                async for event in events:
                    yield event
            return
        except ProviderChanged:
            if running.started is not None or not left:
                raise
        decision = await _decide(caller, ask, running)


def _answering(running: RunningTurn) -> Answering:
    decision, name = running.decision, running.provider
    assert decision is not None
    choice = choice_of(decision, name) or decision.first
    return Answering(name, decision, tuple(running.attempts), choice.provider.info.unsupported_sampling)


# --- before the turn -------------------------------------------------------------------------------------------------


async def _open_session(here: Chat, caller: Caller, ask: Ask, running: RunningTurn) -> None:
    """Lock the session and put what it remembers before the question; nothing where none can be kept."""
    if ask.session_id:
        session_id = check_session_id(ask.session_id)
        running.held = await here.sessions.open(caller.owner, session_id, wait_s=_patience_s(ask))
        before = running.held.conversation or await _restored(here, caller.owner, session_id)
    else:
        session_id, before = new_session_id(), None
        try:
            running.held = await here.sessions.begin(caller.owner, session_id)
        except StoreUnavailable:
            return
    before = before or new_conversation(caller.owner, session_id, ttl_s=caller.session_ttl_s)
    if ask.follows and before.last_turn != ask.follows:
        raise SessionLost("another turn followed in this session meanwhile")
    if before.head.chars > settings.HUB_SESSION_MAX_CHARS:
        raise SessionTooLarge(f"this session holds over {settings.HUB_SESSION_MAX_CHARS} characters; begin a new one")
    running.remember(before, ask.mode, has_answers=ask.has_answers, ttl_s=caller.session_ttl_s)
    log_ids.add(session=session_id)


def _patience_s(ask: Ask) -> float:
    """How long to wait for another turn of the session. Whoever waits for one comes after it."""
    may_wait = settings.HUB_SESSION_BUSY == "wait" and not ask.follows
    return settings.HUB_SESSION_WAIT_S if may_wait else 0


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
