"""Backs off when workers fail to start, and says when there is no point in waiting."""

from __future__ import annotations

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
        self._error = error
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
        """What to tell those who wait, once waiting is pointless: too many failures, or one only the owner can mend."""
        if self._error is None or not self.pause_s:
            return None
        if isinstance(self._error, ProviderUnavailable):
            return self._error
        if self.failures < FAILURES_TO_OPEN:
            return None
        message = f"the last {self.failures} worker starts failed: {self._error.message}"
        return CrashLoop(message, retry_after_s=self.pause_s, mend=self._error.mend)
