"""Whether this hub wants new requests. It says no some time before it stops taking them: see HUB_DRAIN_S."""

from __future__ import annotations

from chat.runtime import chat
from providers import runtime
from providers.errors import ShuttingDown

_leaving: list[bool] = []


def leave() -> None:
    """From now on requests should go elsewhere; those that come all the same are still answered."""
    _leaving[:] = [True]


def is_leaving() -> bool:
    return bool(_leaving)


def obstacles() -> list[str]:
    """Why requests should go to another hub, one word for each reason; none if this one is ready."""
    found = ["draining"] if is_leaving() else []
    try:
        if runtime.engine().is_closing:
            found.append("shutting_down")
        if chat().hot.is_away:
            found.append("redis_away")
    except ShuttingDown:
        found.append("not_running")  # not yet, or no more
    return found
