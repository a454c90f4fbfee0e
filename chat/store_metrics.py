"""What Redis and the database take, and the limits of keys that have refused somebody."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

# A private Redis answers within 0.2 ms; two seconds are HUB_REDIS_TIMEOUT_S.
REDIS_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2)
DATABASE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LIMITS = (
    "requests per minute",
    "concurrent turns",
    "tokens per minute",
    "tokens per day",
    "budget per day",
    "budget per month",
)

REDIS = Histogram(
    "hub_redis_seconds", "Exchanges with Redis that it answered; scripts travel together.", buckets=REDIS_BUCKETS_S
)
REDIS_FAILURES = Counter("hub_redis_failures", "Exchanges that Redis did not answer, or refused.")
DATABASE = Histogram(
    "hub_database_job_seconds",
    "Jobs of the database's own threads, commits included.",
    ["thread"],
    buckets=DATABASE_BUCKETS_S,
)
LIMITS_HIT = Counter("hub_limits_hit", "Requests refused by a limit of their key.", ["limit"])

for _limit in LIMITS:
    LIMITS_HIT.labels(_limit)


def note_limit(name: str) -> None:
    LIMITS_HIT.labels(name if name in LIMITS else "other").inc()
