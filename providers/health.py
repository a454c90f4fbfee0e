"""What is known of one provider: learnt from its turns, its workers, what its vendor said and cheap local looks.

Nothing here asks a vendor or spends a token.
"""

from __future__ import annotations

import copy
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from providers.cooldowns import Board, Cooldown
from providers.errors import (
    CrashLoop,
    NeedsLogin,
    NotInstalled,
    ProviderDisabled,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    UnsupportedAccount,
)
from providers.roster import State
from providers.status import Listener, ProviderState, Status

if TYPE_CHECKING:
    from providers.pool import WorkerPool
    from providers.provider import Provider

logger = logging.getLogger(__name__)

STATE_OF: tuple[tuple[type[ProviderError], ProviderState], ...] = (
    (NeedsLogin, "needs_login"),
    (UnsupportedAccount, "unsupported_account"),
    (NotInstalled, "not_installed"),
    (CrashLoop, "crash_loop"),
)
# What a change of the program or of its login may have mended.
MENDED_LOCALLY = (NeedsLogin, UnsupportedAccount, NotInstalled)

Mark = tuple[tuple[int, int] | None, ...]


class Health:
    """The state of one provider; `listeners` hear of every change that somebody's look at it brings to light."""

    def __init__(self, provider: Provider, board: Board, listeners: list[Listener]) -> None:
        self._provider = provider
        self._board = board
        self._listeners = listeners
        self._trouble: ProviderUnavailable | None = None
        self._noted_at = 0.0
        self._mark: Mark = ()
        self._is_checking = False
        self._last: Status | None = None

    # --- what is learnt ----------------------------------------------------------------------------------------------

    def note(self, trouble: ProviderUnavailable | None) -> None:
        """Remember what the last turn or check showed."""
        is_news = type(trouble) is not type(self._trouble)
        # A copy: the error itself holds on to the frames of its turn, with what the caller wrote.
        self._trouble = copy.copy(trouble)
        self._noted_at = time.monotonic()
        if trouble is not None:
            self._mark = self._local_mark()
        if is_news:
            self.status  # noqa: B018 (a look tells the listeners)

    async def recheck(self) -> None:
        """Look again whether the program can be used, if it or its login has changed since there was trouble.

        One check for each change; a login that works again is known within a second, without a turn.
        """
        mark = self._local_mark() if isinstance(self.trouble, MENDED_LOCALLY) else self._mark
        if mark == self._mark or self._is_checking:
            return
        self._is_checking = True
        try:
            self._mark = mark
            if await self._provider.find_obstacle() is None:
                self._mended()
        except Exception:
            logger.exception("checking %s", self._provider.name)
        finally:
            self._is_checking = False

    def _mended(self) -> None:
        self.note(None)
        pool = self._provider.pool
        if pool is not None and isinstance(pool.breaker.trouble, MENDED_LOCALLY):
            pool.breaker.succeeded()  # workers may be tried again at once

    def _local_mark(self) -> Mark:
        """Changes when the program or its login does; only looked at from outside."""
        return tuple(_stat(path) for path in self._provider.watched_files())

    # --- what follows ------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> ProviderError | None:
        """What the last turn or check showed to be wrong, or why no worker starts."""
        pool = self._provider.pool
        return self._trouble or (pool.breaker.trouble if pool else None)

    @property
    def status(self) -> Status:
        """The state now. `since` is when it was first seen to be so."""
        now = self._board.clock()
        seen, last = self._look(now), self._last
        is_change = last is None or seen.state != last.state
        since = now if last is None or is_change else last.since
        status = self._last = Status(seen.state, since, seen.until, seen.why, seen.mend)
        if last is not None and (is_change or (seen.state == "cooling_down" and seen.until != last.until)):
            for listener in self._listeners:
                listener(self._provider.name, status)
        return status

    def obstacle(self, model: str, *, again_s: float) -> ProviderError | None:
        """Why a turn for this model would be refused now; None if it may be tried.

        Trouble is tried again after `again_s` seconds, as the owner may have mended it meanwhile.
        """
        provider = self._provider
        if not provider.config.is_enabled:
            return self._disabled()
        if provider.pool is None:
            return self._not_installed()
        if (verdict := provider.pool.breaker.verdict) is not None:
            return copy.copy(verdict)
        is_fresh = isinstance(self._trouble, UnsupportedAccount) or time.monotonic() - self._noted_at < again_s
        if self._trouble is not None and is_fresh:
            return copy.copy(self._trouble)
        cooldown = self._board.cooling(provider.name, model)
        return self.rate_limited(cooldown) if cooldown is not None else None

    def rate_limited(self, cooldown: Cooldown) -> RateLimited:
        """The refusal of a turn while the vendor is not to be asked."""
        wait_s = max(1.0, cooldown.until - self._board.clock())
        return RateLimited(f"{self._provider.name}: {_why(cooldown)}", retry_after_s=wait_s)

    def refusal(self) -> ProviderError | None:
        """What no vendor has to be asked for again: an account it does not support."""
        return copy.copy(self._trouble) if isinstance(self._trouble, UnsupportedAccount) else None

    def _disabled(self) -> ProviderDisabled:
        is_drained = self._provider.config.is_drained
        word = "drained" if is_drained else "disabled"
        mend = "end the draining in admin" if is_drained else "enable it in admin, or name it in HUB_PROVIDERS"
        return ProviderDisabled(f"{self._provider.name} is {word}", mend=mend)

    def _not_installed(self) -> NotInstalled:
        info = self._provider.info
        return NotInstalled(f"{info.title} is not installed", mend=info.mend_install)

    def _look(self, now: float) -> Status:
        provider = self._provider
        if not provider.config.is_enabled:
            return _troubled("disabled", self._disabled(), now)
        if provider.pool is None:
            return _troubled("not_installed", self._not_installed(), now)
        if (trouble := self.trouble) is not None:
            return _troubled(_state_of(trouble), trouble, now)
        if (cooldown := self._board.cooling(provider.name, provider.named(None))) is not None:
            return Status("cooling_down", now, cooldown.until, _why(cooldown), mend_of(cooldown))
        return Status(_work_of(provider.pool), now)


def _work_of(pool: WorkerPool) -> ProviderState:
    roster, busy = pool.roster, pool.count(State.BUSY)
    if roster.starting and roster.live == roster.starting:
        return "starting"
    is_full = busy >= pool.limits.ceiling or (busy and pool.waiting and not roster.coming)
    return "busy" if is_full else "ready"


def _state_of(trouble: ProviderError) -> ProviderState:
    return next((state for kind, state in STATE_OF if isinstance(trouble, kind)), "crash_loop")


def _troubled(state: ProviderState, trouble: ProviderError, now: float) -> Status:
    until = now + trouble.retry_after_s if state == "crash_loop" and trouble.retry_after_s else None
    return Status(state, now, until, trouble.message, trouble.mend)


def _why(cooldown: Cooldown) -> str:
    what = f" ({cooldown.window})" if cooldown.window else ""
    return f"the vendor's limit is reached{what}; it is not asked before {_shown(cooldown.until)}"


def mend_of(cooldown: Cooldown) -> str:
    """What the owner can do about it, in words."""
    return f"wait until {_shown(cooldown.until)}, or clear the cooldown in admin"


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
