"""The one way to an answer, for every door: limits, session, route, the turn, and what it leaves behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from django.conf import settings
from django.db import InterfaceError, OperationalError

from chat.ask import Admitted, Ask
from chat.conversation import Conversation, Head, Outcome, new_conversation, new_id, now_ms
from chat.errors import (
    ChatError,
    DatabaseUnavailable,
    LimitReached,
    ModelNotAllowed,
    SessionNotFound,
    SessionTooLarge,
    StoreUnavailable,
)
from chat.keys import Caller
from chat.leases import Renew
from chat.prices import cost_by
from chat.running import RunningTurn
from chat.runtime import Chat, chat
from chat.sessions import check_session_id, new_session_id
from chat.standing import Standing
from providers import runtime
from providers.errors import ProviderError
from providers.events import Event, Turn
from providers.provider import Provider
from providers.router import AUTO, NoProviderReady, Route, choose, listed_models

logger = logging.getLogger(__name__)

# Redis may be restarting just when a turn ends; its answer is worth waiting for a little.
COMMIT_TRIES = 20
COMMIT_RETRY_S = 0.25
# A turn that is over does not wait for long for a database that is away.
PRICE_WAIT_S = 1.0
# Longer than SQLite waits for a writer of another process.
USED_WAIT_S = 8.0
RETRY_AFTER_S = 2.0


async def answer(caller: Caller, ask: Ask) -> AsyncGenerator[Admitted | Event, None]:
    """The events of one turn, Admitted first, then TurnStarted, TurnFinished last.

    When TurnFinished comes, the turn is durable. Closing the generator (a client that hangs up) stops the turn and its
    vendor call. Raises ChatError, ProviderError.
    """
    caller.require("chat")
    here = chat()
    running = RunningTurn(caller.key_id, caller.owner, ask.request_id, ask.turn)
    ended = "cancelled"
    try:
        standing = await _admit(here, caller, running)
        try:
            chosen = await route(caller, ask)
            running.provider, running.model = chosen.provider.name, chosen.model or ""
            _hold(here, caller, running)  # the key's place, also while the session has to be waited for
            await _open_session(here, caller, ask, running)
        except (ChatError, ProviderError):
            yield Admitted("", standing)  # the headers of an error tell where the key stands, too
            raise
        _hold(here, caller, running)
        yield Admitted(running.session_id, standing, chosen.provider.info.unsupported_sampling)
        async with aclosing(chosen.provider.run(_for_engine(caller, running, chosen))) as events:
            async for event in events:
                running.note(event)
                if running.finished is not None:
                    await _end(here, caller, running, "ok")
                yield event
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
            await _end(here, caller, running, ended)


def _for_engine(caller: Caller, running: RunningTurn, chosen: Route) -> Turn:
    return replace(running.turn, model=chosen.model, owner=caller.owner, caller=str(caller.key_id))


# --- before the turn -------------------------------------------------------------------------------------------------


async def _admit(here: Chat, caller: Caller, running: RunningTurn) -> Standing:
    """Raises LimitReached; DatabaseUnavailable where only the database knows what the key has used."""
    try:
        async with asyncio.timeout(USED_WAIT_S):
            return await here.limits.admit(caller.key_id, caller.limits, request=running.turn_id, is_turn=True)
    except (OperationalError, InterfaceError, TimeoutError) as exc:
        message = f"what this key has used can't be looked up: {type(exc).__name__}"
        raise DatabaseUnavailable(message, retry_after_s=RETRY_AFTER_S) from exc


async def route(caller: Caller, ask: Ask) -> Route:
    """Decide who answers. Raises ProviderError, NotAllowed."""
    engine = runtime.engine()
    # `auto` passes over providers whose default model is not for this key, unless that leaves none.
    fitting = {it.name for it in engine.providers.values() if _may_use(caller, it, it.default_model)}
    may_use = fitting.__contains__ if fitting else caller.may_use_provider
    try:
        chosen = choose(engine, provider=ask.provider, model=ask.model, may_use=may_use)
    except NoProviderReady:
        await engine.find_programs()
        chosen = choose(engine, provider=ask.provider, model=ask.model, may_use=may_use)
    caller.check_provider(chosen.provider.name)
    model = chosen.model or chosen.provider.default_model
    caller.check_model(model)
    if caller.limits.has_budget and not chosen.provider.info.reports_cost:
        await _require_price(chosen.provider.name, model)
    return chosen


def _may_use(caller: Caller, provider: Provider, model: str) -> bool:
    try:
        caller.check_model(model)
    except ModelNotAllowed:
        return False
    return caller.may_use_provider(provider.name)


async def _require_price(provider: str, model: str) -> None:
    try:
        async with asyncio.timeout(USED_WAIT_S):
            price = await chat().prices.find(provider, model)
    except (OperationalError, InterfaceError, TimeoutError) as exc:
        message = f"the price list can't be read: {type(exc).__name__}"
        raise DatabaseUnavailable(message, retry_after_s=RETRY_AFTER_S) from exc
    if price is None:
        message = f"this key has a budget, and {provider}'s model {model[:80]!r} has no price (set one in admin)"
        raise ModelNotAllowed(message, param="model")


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
    running.remember(before, ask.mode, ttl_s=caller.session_ttl_s)


async def _restored(here: Chat, owner: str, session_id: str) -> Conversation | None:
    """A session that Redis has lost, out of the archive; only under its lock."""
    if not here.keeps_conversations:
        return None
    found = await here.archive.find(owner, session_id)
    left_ms = found.head.expires_ms - now_ms() if found else 0
    if found is None or left_ms <= 0:
        return None
    await here.sessions.restore(found, left_ms)
    return found


def _hold(here: Chat, caller: Caller, running: RunningTurn) -> None:
    held, turn_id = running.held, running.turn_id
    renewals: list[Renew] = [partial(here.sessions.renew, held.keys, held.token)] if held else []
    if caller.limits.concurrent_turns is not None:
        renewals.append(partial(here.limits.renew, caller.key_id, caller.limits, turn_id))
    here.leases.hold(turn_id, *renewals)


# --- after the turn --------------------------------------------------------------------------------------------------


async def _end(here: Chat, caller: Caller, running: RunningTurn, ended: str) -> None:
    """Write the turn down, in a task of its own: a caller who leaves now must not leave it half written."""
    running.is_over = True
    await asyncio.shield(here.endings.start(_write_down(here, caller, running, ended), name="end of a turn"))
    if running.failure is not None and ended == "ok":
        raise running.failure


async def _write_down(here: Chat, caller: Caller, running: RunningTurn, ended: str) -> None:
    await here.leases.drop(running.turn_id)
    cost_usd = await _cost_of(here, running)
    outcome = running.outcome(ended, cost_usd=cost_usd)
    if outcome.head is not None:
        outcome = await _committed(here, running, outcome)
    elif running.held is not None:
        here.sessions.release(running.held)
    used = running.usage
    tokens = used.input_tokens + used.output_tokens if used else 0
    await here.limits.book(caller.key_id, caller.limits, running.turn_id, tokens=tokens, cost_usd=cost_usd or 0)
    await here.archive.save(outcome)


async def _committed(here: Chat, running: RunningTurn, outcome: Outcome) -> Outcome:
    """The outcome as it is to be archived: without its text if the session is gone or could not be written."""
    assert running.held is not None and running.before is not None
    try:
        for tried in range(COMMIT_TRIES):
            try:
                is_kept = await here.sessions.commit(
                    running.held, running.before, outcome, archive=here.keeps_conversations
                )
                return outcome if is_kept else Outcome(outcome.figures)
            except StoreUnavailable:
                if tried == COMMIT_TRIES - 1:
                    raise
                await asyncio.sleep(COMMIT_RETRY_S)
    except ChatError as error:
        running.failure = error
        here.sessions.release(running.held)
        return Outcome(replace(outcome.figures, outcome=error.code))
    raise AssertionError("unreachable")


async def _cost_of(here: Chat, running: RunningTurn) -> float | None:
    """In US dollars: the CLI's own figure, else by the price list; None if neither tells."""
    usage = running.usage
    if usage is None or usage.cost_usd is not None:
        return usage.cost_usd if usage else None
    try:
        async with asyncio.timeout(PRICE_WAIT_S):
            price = await here.prices.find(running.provider, running.model)
    except (OperationalError, InterfaceError, TimeoutError) as error:
        logger.warning("the price of a turn can't be looked up: %s", type(error).__name__)
        return None
    return cost_by(price, usage) if price else None


# --- sessions and lists ----------------------------------------------------------------------------------------------


async def count_request(caller: Caller, scope: str = "") -> Standing:
    """Admit a request that is no turn. Raises ScopeMissing, LimitReached."""
    if scope:
        caller.require(scope)
    return await chat().limits.admit(caller.key_id, caller.limits, request=new_id(), is_turn=False)


async def get_session(caller: Caller, session_id: str) -> Conversation:
    """Raises SessionNotFound, StoreUnavailable, DatabaseUnavailable."""
    here = chat()
    found = await here.sessions.get(caller.owner, check_session_id(session_id))
    if found is None and here.keeps_conversations:
        found = await here.archive.find(caller.owner, session_id)
    if found is None:
        raise SessionNotFound("there is no such session, or it has expired")
    return found


async def list_sessions(caller: Caller, *, before_ms: int | None, limit: int) -> list[Head]:
    """The owner's live sessions, newest first, those last used at or before a time in Unix milliseconds."""
    here = chat()
    # The archive knows of all of them, also after Redis was emptied.
    source = here.archive if here.keeps_conversations else here.sessions
    return await source.page(caller.owner, before_ms=before_ms, limit=limit)


async def delete_session(caller: Caller, session_id: str) -> None:
    """Erase a session's text everywhere. Raises SessionNotFound, StoreUnavailable, DatabaseUnavailable."""
    here = chat()
    uid = await here.sessions.delete(caller.owner, check_session_id(session_id))
    # Without an archive too: it may have been switched off only after this conversation.
    erased = await here.archive.delete(caller.owner, session_id, uid=uid)
    if not uid and not erased:
        raise SessionNotFound("there is no such session, or it has expired")


def list_models(caller: Caller) -> dict[str, str]:
    """Every name the field `model` accepts from this caller, with the provider it leads to."""
    names = listed_models(runtime.engine())
    return {name: owner for name, owner in names.items() if owner == AUTO or _may_name(caller, name, owner)}


def _may_name(caller: Caller, name: str, owner: str) -> bool:
    provider, model = runtime.engine().provider(owner), name.removeprefix(f"{owner}/")
    return _may_use(caller, provider, provider.default_model if model == owner else model)


async def list_providers(caller: Caller) -> list[Provider]:
    """The providers this caller may use, looked for again if their program was not there."""
    engine = runtime.engine()
    await engine.find_programs()
    return [provider for provider in engine.providers.values() if caller.may_use_provider(provider.name)]
