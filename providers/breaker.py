"""Backs off when workers fail to start or to last, and says when there is no point in waiting."""

from __future__ import annotations

import copy
import time

from providers.errors import CrashLoop, ProviderError, ProviderUnavailable

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
FAILURES_TO_OPEN = 3


class StartBreaker:
    """Closed: start freely. After a failure: pause, doubled each time. Open: callers are refused at once.

    A worker that dies soon after its start, before any turn, counts as a failed start. Such failures are forgotten
    once a worker has served a turn or lasted, the others with the next start that succeeds.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._deaths = 0
        self._died_at = 0.0
        self._until = 0.0
        self._error: ProviderError | None = None

    def failed(self, error: ProviderError) -> None:
        self.failures += 1
        self._error = copy.copy(error)  # without the frames of the failed start
        self._until = time.monotonic() + min(FIRST_PAUSE_S * 2 ** (self.failures - 1), LONGEST_PAUSE_S)

    def died(self, error: ProviderError) -> None:
        """A worker got ready and died at once. Those that die together count once."""
        self._died_at = time.monotonic()
        if not self.pause_s:
            self._deaths += 1
            self.failed(error)

    def succeeded(self) -> None:
        """A worker got ready."""
        self.failures = self._deaths
        self._until = 0.0
        if not self._deaths:
            self._error = None

    def lasted(self, started_at: float) -> None:
        """A worker has lived long enough; one from before the last death proves nothing of those that start now."""
        if started_at > self._died_at:
            self.proved()

    def proved(self) -> None:
        """A worker has served a turn."""
        if self._deaths:
            self._deaths = 0
            self.succeeded()

    def forgive(self) -> None:
        """Forget all failures, by the owner's will."""
        self._deaths = 0
        self.succeeded()

    @property
    def pause_s(self) -> float:
        """Seconds until the next start may be tried; 0 if now."""
        return max(0.0, self._until - time.monotonic())

    @property
    def verdict(self) -> ProviderError | None:
        """What to tell those who wait while waiting is pointless; None again when the next start may be tried."""
        return self.trouble if self.pause_s else None

    @property
    def trouble(self) -> ProviderError | None:
        """Why no worker starts, until one does: too many failures, or one only the owner can mend."""
        if self._error is None:
            return None
        if isinstance(self._error, ProviderUnavailable):
            return self._error
        if self.failures < FAILURES_TO_OPEN:
            return None
        message = f"the last {self.failures} worker starts failed: {self._error.message}"
        return CrashLoop(message, retry_after_s=self.pause_s, mend=self._error.mend)
