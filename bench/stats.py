"""What one answer took, and the few numbers many of them come down to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Taken:
    """One answer: seconds to its first text and to its end, what the hub said of its worker, and the session's id.

    `error` is empty only for an answer that came whole and was the right one.
    """

    first_s: float
    total_s: float
    start: str = ""
    error: str = ""
    session: str = ""


def median(values: Iterable[float]) -> float:
    """NaN for none, so that a table with a hole can still be printed."""
    kept = list(values)
    return statistics.median(kept) if kept else math.nan


def percentile(values: Iterable[float], percent: float) -> float:
    """By nearest rank: a value that really occurred. NaN for none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def quotient(value: float, base: float) -> float:
    """NaN where there is no base to compare with."""
    return value / base if base else math.nan
