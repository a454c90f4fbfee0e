"""Backs off when workers fail to start, and says when there is no point in waiting."""

from __future__ import annotations

import copy
import time

from providers.errors import CrashLoop, ProviderError, ProviderUnavailable

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
FAILURES_TO_OPEN = 3


class StartBreaker:
    """Closed: start freely. After a failure: pause, doubled each time. Open: callers are refused at once."""

    def __init__(self) -> None:
        self.failures = 0
        self._until = 0.0
        self._error: ProviderError | None = None

    def failed(self, error: ProviderError) -> None:
        self.failures += 1
        self._error = copy.copy(error)  # without the frames of the failed start
        self._until = time.monotonic() + min(FIRST_PAUSE_S * 2 ** (self.failures - 1), LONGEST_PAUSE_S)

    def succeeded(self) -> None:
        self.failures = 0
        self._until = 0.0
        self._error = None

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
