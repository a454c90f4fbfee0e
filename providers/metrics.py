"""What the engine counts: processes that come and go, the wait for one, vendors that refuse.

The states of all this at a moment are read when somebody asks (state_metrics.py), not kept here.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from providers.errors import Busy

# Why a worker's process ended.
ENDS = (
    "crashed",  # by itself, after a turn or a while
    "died_early",  # by itself, soon after its start and before any turn
    "out_of_bounds",  # killed within a turn: it held too much
    "turns",  # worn: it has served as many as it may
    "age",
    "memory",
    "processes",
    "unclean",  # it could not be emptied for the next conversation
    "idle",  # nobody has needed it for long
    "surplus",  # more than the pool may have by now
    "room",  # another turn needed its place
    "shutdown",
)
START_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30)
WAIT_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

STARTS = Counter("hub_worker_starts", "Worker processes started, by what came of it.", ["provider", "outcome"])
START_SECONDS = Histogram(
    "hub_worker_start_seconds", "From starting a worker to its being ready.", ["provider"], buckets=START_BUCKETS_S
)
WORKER_ENDS = Counter("hub_worker_ends", "Worker processes that ended, by why.", ["provider", "reason"])
QUEUE_WAIT = Histogram(
    "hub_queue_wait_seconds", "How long turns waited for a worker.", ["provider"], buckets=WAIT_BUCKETS_S
)
QUEUE_REFUSALS = Counter("hub_queue_refusals", "Turns that got no worker, by the error's code.", ["provider", "code"])
COOLDOWNS = Counter("hub_cooldowns", "Times a vendor's refusal set a provider aside.", ["provider"])


M = TypeVar("M", bound=MetricWrapperBase)


@cache
def series(meter: M, *labels: str) -> M:
    """`meter.labels(...)`, which locks and looks for what hardly ever is new. For labels of bounded numbers only."""
    return meter.labels(*labels)


def expect(provider: str) -> None:
    """Have a provider's counters exist before they count: from nothing to 1 is no increase to Prometheus."""
    STARTS.labels(provider, "ok")
    COOLDOWNS.labels(provider)
    QUEUE_REFUSALS.labels(provider, Busy.code)
    for reason in ENDS:
        WORKER_ENDS.labels(provider, reason)
