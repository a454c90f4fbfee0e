"""How well a provider does lately, as one number: the seconds a new turn may expect to lose there. Lower is better.

    first_token_s * (1 + load) + 30 s * error_rate + 20 s * (used_quota above one half) + 5 s if it starts
                                                                           + 1,000 s if it does not serve

`first_token_s` and `error_rate` are those of the last minutes: each answer and failure counts half as much every
HALF_LIFE_S seconds. A provider that is not known yet is taken for an ordinary one without failures.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from providers.status import SERVING

HALF_LIFE_S = 300.0
# What is assumed of a provider nobody has asked lately; it counts as much as one answer.
USUAL_FIRST_TOKEN_S = 2.0

ERROR_COST_S = 30.0
QUOTA_COST_S = 20.0
QUOTA_FREE = 0.5  # up to here a vendor's usage window is nothing to save
START_COST_S = 5.0
# Far above all else: who is in trouble comes last, however fast it was.
TROUBLE_COST_S = 1_000.0


class ProviderStats:
    """The first-token times and failures of one provider, fading with time. `clock` gives seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._answers = 0.0
        self._failures = 0.0
        self._first_tokens_s = 0.0

    def note_answer(self, first_token_s: float) -> None:
        """A turn's first token came this long after the provider was asked."""
        self._fade()
        self._answers += 1
        self._first_tokens_s += first_token_s

    def note_failure(self) -> None:
        """A turn failed for a reason that is the provider's, not the request's."""
        self._fade()
        self._failures += 1

    @property
    def first_token_s(self) -> float:
        """The mean of late, drawn towards USUAL_FIRST_TOKEN_S where there were few."""
        fading = self._fading()
        return (self._first_tokens_s * fading + USUAL_FIRST_TOKEN_S) / (self._answers * fading + 1)

    @property
    def error_rate(self) -> float:
        """The share of late turns that failed, 0 to below 1."""
        fading = self._fading()
        return self._failures * fading / ((self._answers + self._failures) * fading + 1)

    def _fading(self) -> float:
        return float(0.5 ** (max(0.0, self._clock() - self._at) / HALF_LIFE_S))

    def _fade(self) -> None:
        fading = self._fading()
        self._answers *= fading
        self._failures *= fading
        self._first_tokens_s *= fading
        self._at = self._clock()


def score(stats: ProviderStats, *, load: float, used_quota: float, state: str) -> float:
    """Seconds a turn may expect to lose; see above.

    `load` is (busy + waiting) / ceiling, `used_quota` the fullest usage window as a share of 0 to 1.
    """
    lost_s = stats.first_token_s * (1 + max(0.0, load)) + ERROR_COST_S * stats.error_rate
    lost_s += QUOTA_COST_S * max(0.0, used_quota - QUOTA_FREE)
    if state == "starting":
        lost_s += START_COST_S
    return lost_s if state in SERVING else lost_s + TROUBLE_COST_S
