"""What is known of a provider: whether it can answer, since and until when, and what mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

ProviderState = Literal[
    "ready",
    "starting",
    "busy",
    "cooling_down",
    "needs_login",
    "unsupported_account",
    "not_installed",
    "crash_loop",
    "disabled",
]
STATES: tuple[ProviderState, ...] = get_args(ProviderState)
# States in which a turn is taken at once, or after a wait in the queue.
SERVING: frozenset[ProviderState] = frozenset({"ready", "starting", "busy"})


@dataclass(frozen=True, slots=True)
class Status:
    """A provider's state. Times are Unix times in seconds; `until` is None where no end is known.

    `why` says in words what is wrong, `mend` what the owner can do about it; both are empty while nothing is.
    """

    state: ProviderState
    since: float
    until: float | None = None
    why: str = ""
    mend: str = ""

    @property
    def is_serving(self) -> bool:
        return self.state in SERVING


# Hears of a provider, by its name, that it is otherwise than before.
Listener = Callable[[str, Status], None]
