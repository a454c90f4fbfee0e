"""The one way to an answer, for every door: routes the turn and runs it for its caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from chat.keys import Caller
from providers import runtime
from providers.events import Event, Turn
from providers.router import NoProviderReady, Route, choose


async def route(*, provider: str, model: str) -> Route:
    """Decide who answers. Raises ProviderError."""
    engine = runtime.engine()
    try:
        return choose(engine, provider=provider, model=model)
    except NoProviderReady:
        await engine.find_programs()
        return choose(engine, provider=provider, model=model)


async def answer(caller: Caller, chosen: Route, turn: Turn) -> AsyncGenerator[Event, None]:
    """The events of one turn, TurnStarted first.

    Closing the generator (a client that hangs up) stops the turn and its vendor call. Raises ProviderError.
    """
    turn = replace(turn, model=chosen.model, owner=caller.owner, caller=str(caller.key_id))
    async with aclosing(chosen.provider.run(turn)) as events:
        async for event in events:
            yield event
