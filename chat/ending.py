"""What a turn leaves behind when it is over, however it ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from chat.conversation import Outcome
from chat.errors import ChatError, DatabaseUnavailable, StoreUnavailable
from chat.keys import Caller
from chat.metrics import note_turn
from chat.prices import cost_by
from chat.running import RunningTurn, Spent
from chat.runtime import Chat
from chat.turn_log import log_turn

logger = logging.getLogger(__name__)

# Redis may be restarting just when a turn ends; its answer is worth waiting for a little.
COMMIT_TRIES = 20
COMMIT_RETRY_S = 0.25
# A turn that is over does not wait for long for a database that is away.
PRICE_WAIT_S = 1.0


async def end_turn(here: Chat, caller: Caller, running: RunningTurn, ended: str) -> None:
    """Write the turn down, in a task of its own: a caller who leaves now must not leave it half written."""
    running.is_over = True
    await asyncio.shield(here.endings.start(_write_down(here, caller, running, ended), name="end of a turn"))
    if running.failure is not None and ended == "ok":
        raise running.failure


async def _write_down(here: Chat, caller: Caller, running: RunningTurn, ended: str) -> None:
    await here.leases.drop(running.turn_id)
    costs = await _costs_of(here, running)
    cost_usd = _total(costs)
    try:
        outcome = running.outcome(ended, cost_usd=cost_usd)
        if outcome.head is not None:
            outcome = await _committed(here, running, outcome)
        elif running.held is not None:
            here.sessions.release(running.held)
    except BaseException:  # not foreseen: the next turn must not have to wait for it
        if running.held is not None:
            here.sessions.release(running.held)
        raise
    finally:
        used = running.usage
        tokens = used.input_tokens + used.output_tokens if used else 0
        await here.limits.book(caller.key_id, caller.limits, running.turn_id, tokens=tokens, cost_usd=cost_usd or 0)
    note_turn(outcome.figures, running, costs)
    log_turn(outcome.figures, running)
    saving = here.archive.save(outcome)
    if ended == "ok":
        await saving
    else:  # nothing that an error's answer has to wait for
        here.endings.start(saving, name="figures of a turn")


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


async def _costs_of(here: Chat, running: RunningTurn) -> list[float | None]:
    """In US dollars, of each provider that was used; None for those of whom it is not known."""
    return [await _cost_at(here, spent) for spent in running.spent]


def _total(costs: list[float | None]) -> float | None:
    """None if it is known of none of them."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


async def _cost_at(here: Chat, spent: Spent) -> float | None:
    """The CLI's own figure, else by the price list; None if neither tells."""
    if spent.usage.cost_usd is not None:
        return spent.usage.cost_usd
    try:
        price = await here.prices.find(spent.provider, spent.model, wait_s=PRICE_WAIT_S)
    except DatabaseUnavailable as error:
        logger.warning("a turn's cost stays unknown: %s", error)
        return None
    return cost_by(price, spent.usage) if price else None
