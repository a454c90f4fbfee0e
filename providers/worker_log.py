"""A worker's coming and going: told to the log, and counted."""

from __future__ import annotations

import logging
import time

from providers import metrics
from providers.errors import ProviderError
from providers.worker import Worker

logger = logging.getLogger(__name__)

# Ends that somebody should look at.
TROUBLE = {"crashed", "died_early", "out_of_bounds"}


def started(provider: str, worker: Worker, took_s: float) -> None:
    metrics.STARTS.labels(provider, "ok").inc()
    metrics.START_SECONDS.labels(provider).observe(took_s)
    told = {"event": "worker_started", "provider": provider, "pid": worker.pid, "duration_ms": round(took_s * 1_000)}
    logger.info("%s worker %d started within %.1f s", provider, worker.pid, took_s, extra=told)


def not_started(provider: str, error: ProviderError) -> None:
    metrics.STARTS.labels(provider, error.code).inc()
    told = {"event": "worker_start_failed", "provider": provider, "reason": error.code}
    logger.warning("%s worker did not start: %s", provider, error, extra=told)


def ended(provider: str, worker: Worker, reason: str) -> None:
    """To be told before it is stopped, while its exit code is still its own."""
    metrics.WORKER_ENDS.labels(provider, reason).inc()
    age_s, code = time.monotonic() - worker.started_at, worker.exit_code
    is_trouble = reason in TROUBLE
    told = {
        "event": "worker_crashed" if is_trouble else "worker_ended",
        "provider": provider,
        "pid": worker.pid,
        "reason": reason,
        "exit_code": code,
        "turns": worker.turns,
        "age_s": round(age_s, 1),
    }
    level, end = logging.WARNING if is_trouble else logging.INFO, "" if code is None else f", exit code {code}"
    what = (provider, worker.pid, reason.replace("_", " "), worker.turns, age_s, end)
    logger.log(level, "%s worker %d ended: %s, after %d turns and %.0f s%s", *what, extra=told)
