"""Providers set aside until a known time, because their vendor said so; and the vendor's usage windows as last told.

One board per hub, in memory, so that looking costs nothing. Whoever runs several hubs has `on_change` carry each note
to the others, and hands theirs to `take_over`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from providers import metrics
from providers.errors import RateLimited
from providers.events import LimitNotice

# A vendor's "now" is not the hub's; and a reset it names for next year is not believed.
LEAST_S = 1.0
MOST_S = 8 * 86_400.0
# Where the vendor named no time: doubled with each refusal that follows.
UNKNOWN_S = 10.0
MOST_UNKNOWN_S = 300.0
# How long one real request may try a provider whose time is up, before another one may.
PROBE_S = 30.0
# How far the clocks of two hubs may be apart.
CLOCKS_DIFFER_S = 60.0
# How soon to ask again whether another hub's try has ended.
ASK_AGAIN_S = 1.0
# What parts the words of a model's name: `claude-opus-4-8`, `opus[1m]`.
NOT_OF_A_WORD = re.compile(r"[^A-Za-z0-9]+")
# A window without a reset time says nothing after this long.
WINDOW_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Cooldown:
    """Unix times in seconds. `model` is empty for all models, else a whole name, or a word of names (`opus`).

    `is_exact`: the vendor named the time. `refusals` counts those in a row.
    """

    provider: str
    code: str
    since: float
    until: float
    model: str = ""
    window: str = ""
    is_exact: bool = False
    refusals: int = 1

    def concerns(self, model: str) -> bool:
        """Whether it is about this model: all are meant, it alone, or a family it says it is of."""
        return self.model in ("", model, *NOT_OF_A_WORD.split(model))


@dataclass(frozen=True, slots=True)
class Window:
    """A vendor's usage window as last told; `used` is a share of 0 to 1, times are Unix times in seconds."""

    provider: str
    name: str
    status: str
    used: float | None
    resets_at: float | None
    told_at: float

    def is_over(self, now: float) -> bool:
        """Whether it has been reset since it was told."""
        ends_at = self.told_at + WINDOW_S if self.resets_at is None else self.resets_at
        return ends_at <= now


Note = Cooldown | Window
Clock = Callable[[], float]


class Probes(Protocol):
    """What makes a probe the only one, where several hubs share a vendor's account."""

    async def take(self, provider: str) -> bool:
        """Whether nobody else probes; for PROBE_S nobody else may then. Must not raise."""

    def give_back(self, provider: str) -> None:
        """The probe is over. Must not raise."""


class Board:
    """What the vendors said. `on_change(note, is_over)` hears of every note made here, `is_over` of one taken back.

    A cooldown whose time is over stays as a warning: one real request tries, and its answer or refusal decides.
    """

    def __init__(
        self,
        *,
        clock: Clock = time.time,
        on_change: Callable[[Note, bool], None] | None = None,
        probes: Probes | None = None,
    ) -> None:
        self.clock = clock
        self.on_change = on_change
        self.probes = probes
        self._cooldowns: dict[tuple[str, str], Cooldown] = {}
        self._windows: dict[tuple[str, str], Window] = {}
        self._probed_until: dict[tuple[str, str], float] = {}

    # --- what was said -----------------------------------------------------------------------------------------------

    def cool(
        self, provider: str, code: str, *, until: float | None = None, model: str = "", window: str = ""
    ) -> Cooldown:
        """Set a provider aside until a Unix time; None if the vendor named none."""
        now = self.clock()
        before = self._cooldowns.get((provider, model))
        # Turns that ran side by side are refused together, and count as one.
        refusals = 1 if before is None else before.refusals + (before.until <= now)
        wait_s = min(UNKNOWN_S * 2.0 ** min(refusals - 1, 16), MOST_UNKNOWN_S) if until is None else until - now
        ends_at = now + min(max(wait_s, LEAST_S), MOST_S)
        is_other = until is None or before is None or before.window != window
        if before is not None and before.is_exact and is_other and before.until > ends_at:
            return before  # what the vendor has said of another window still holds
        cooldown = Cooldown(provider, code, now, ends_at, model, window, until is not None, refusals)
        self._probed_until.pop((provider, model), None)
        self._keep(cooldown)
        if before is None or before.until <= now:
            metrics.COOLDOWNS.labels(provider).inc()
        return cooldown

    def note_limit(self, provider: str, notice: LimitNotice) -> None:
        """Remember a usage window; one that is used up sets the provider aside until its reset.

        A notice that names no window tells of none.
        """
        if notice.window:
            told = (notice.status, notice.used, notice.resets_at)
            self._keep(Window(provider, notice.window, *told, told_at=self.clock()))
        if notice.status == "rejected":
            until, model, window = notice.resets_at, notice.model, notice.window
            self.cool(provider, RateLimited.code, until=until, model=model, window=window)

    def succeeded(self, provider: str, model: str) -> None:
        """The vendor answered: what was over is forgotten. What still runs is not: that turn began before it."""
        now = self.clock()
        for cooldown in self._of(provider, model):
            if cooldown.until <= now:
                self._take_back(cooldown)

    def clear(self, provider: str) -> None:
        """Forget all cooldowns of a provider, by the owner's will."""
        for cooldown in [it for it in self._cooldowns.values() if it.provider == provider]:
            self._take_back(cooldown)

    # --- what follows from it ----------------------------------------------------------------------------------------

    def cooling(self, provider: str, model: str) -> Cooldown | None:
        """The cooldown that keeps this model from being asked for longest; `until` is when it may be asked again.

        None once its time is over, unless another request is trying already.
        """
        now = self.clock()
        running = [self._as_seen(it, now) for it in self._of(provider, model)]
        return max((it for it in running if it.until > now), key=lambda it: it.until, default=None)

    def cooldown_s(self, provider: str) -> float:
        """How long it still takes until all of a provider's models may be asked again, in seconds."""
        ends = [it.until for it in self._cooldowns.values() if it.provider == provider]
        return max(0.0, max(ends, default=0.0) - self.clock())

    def needs_probe(self, provider: str, model: str) -> bool:
        """Whether a cooldown is over, and no answer has shown yet that the vendor serves again."""
        return bool(self._of(provider, model))

    async def may_probe(self, provider: str, model: str) -> bool:
        """Take the one try after a cooldown; false if another request has it, here or in another hub.

        Whoever took it ends it with `end_probe`, whatever came of it; else it ends by itself after PROBE_S.
        """
        due = [it.model for it in self._of(provider, model)]
        if self.cooling(provider, model) is not None:
            return False
        self._hold(provider, due, PROBE_S)
        if self.probes is None or await self.probes.take(provider):
            return True
        self._hold(provider, due, ASK_AGAIN_S)
        return False

    def end_probe(self, provider: str, model: str) -> None:
        """The try is over. If it showed nothing, the next request may try."""
        for cooldown in self._of(provider, model):
            self._probed_until.pop((provider, cooldown.model), None)
        if self.probes is not None:
            self.probes.give_back(provider)

    def windows(self, provider: str) -> tuple[Window, ...]:
        """The usage windows as last told, by name."""
        found = [it for it in self._windows.values() if it.provider == provider]
        return tuple(sorted(found, key=lambda it: it.name))

    def used_quota(self, provider: str) -> float:
        """The share of the fullest usage window that has not been reset since; 0 if none is known."""
        now = self.clock()
        return max((it.used or 0.0 for it in self.windows(provider) if not it.is_over(now)), default=0.0)

    # --- what other hubs know ----------------------------------------------------------------------------------------

    def take_over(self, note: Note, is_over: bool = False) -> None:
        """Take what another hub noted for one's own. What is known here already and is newer stays."""
        match note:
            case Window(provider, name):
                known = self._windows.get((provider, name))
                if known is None or known.told_at < note.told_at:
                    self._windows[provider, name] = note
            case Cooldown(provider):
                self._take_over_cooldown(note, is_over)

    def _take_over_cooldown(self, note: Cooldown, is_over: bool) -> None:
        note = replace(note, until=min(note.until, self.clock() + MOST_S))
        place = (note.provider, note.model)
        known = self._cooldowns.get(place)
        if known is not None and known.since > note.since:
            return
        if is_over:
            self._cooldowns.pop(place, None)
            self._probed_until.pop(place, None)
        elif known != note:
            self._cooldowns[place] = note
            self._probed_until.pop(place, None)

    # --- keeping it --------------------------------------------------------------------------------------------------

    def _of(self, provider: str, model: str) -> list[Cooldown]:
        return [it for it in self._cooldowns.values() if it.provider == provider and it.concerns(model)]

    def _as_seen(self, cooldown: Cooldown, now: float) -> Cooldown:
        probed_until = self._probed_until.get((cooldown.provider, cooldown.model), 0.0)
        return replace(cooldown, until=probed_until) if cooldown.until <= now < probed_until else cooldown

    def _hold(self, provider: str, models: list[str], for_s: float) -> None:
        self._probed_until |= dict.fromkeys([(provider, model) for model in models], self.clock() + for_s)

    def _keep(self, note: Note) -> None:
        if isinstance(note, Cooldown):
            self._cooldowns[note.provider, note.model] = note
        else:
            self._windows[note.provider, note.name] = note
        self._tell(note, is_over=False)

    def _take_back(self, cooldown: Cooldown) -> None:
        del self._cooldowns[cooldown.provider, cooldown.model]
        self._probed_until.pop((cooldown.provider, cooldown.model), None)
        self._tell(cooldown, is_over=True)

    def _tell(self, note: Note, *, is_over: bool) -> None:
        if self.on_change is not None:
            self.on_change(note, is_over)
