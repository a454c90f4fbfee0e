"""By whose fault a turn did not bring its answer. What the hub answers for is the share of `hub`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args

from chat import errors as chat
from providers import errors as engine

# none: it was answered, or its caller left. caller: the request has to change, or a limit of the key is reached.
# provider: the vendor, its program or its login. capacity: the hub said in time that it has no room, or ends.
Fault = Literal["none", "caller", "provider", "capacity", "hub"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Known = type[chat.ChatError] | type[engine.ProviderError]
NO_FAULT = ("ok", "cancelled")
INTERNAL = "internal_error"

# The first class an error is of decides, so children come before their parents.
TABLE: tuple[tuple[type[Exception], Fault], ...] = (
    (chat.StoreUnavailable, "hub"),
    (chat.DatabaseUnavailable, "hub"),
    (chat.ChatError, "caller"),
    (engine.TurnRefused, "caller"),
    (engine.ProviderUnavailable, "provider"),
    (engine.RateLimited, "provider"),
    (engine.Overloaded, "provider"),
    (engine.AnswerInvalid, "provider"),
    (engine.StreamCut, "provider"),
    (engine.TimedOut, "provider"),
    (engine.Busy, "capacity"),
    (engine.ShuttingDown, "capacity"),
    (engine.ProviderError, "hub"),
)


@cache
def faults_by_code() -> dict[str, Fault]:
    """Every way a turn may end, by its name."""
    ends: dict[str, Fault] = dict.fromkeys(NO_FAULT, "none")
    for kind in (*_family(chat.ChatError), *_family(engine.ProviderError)):
        ends[kind.code] = next(fault for known, fault in TABLE if issubclass(kind, known))
    return ends | {INTERNAL: "hub"}


def fault_of(outcome: str) -> Fault:
    """One that is not known is the hub's own."""
    return faults_by_code().get(outcome, "hub")


def _family(kind: Known) -> Iterator[Known]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
