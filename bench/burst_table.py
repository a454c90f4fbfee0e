"""The bursts as a table, with their gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

from bench.burst import ANSWERS, CEILING, MEMORY_MB, MIXED, RAW, SAME, Burst
from bench.processes import MB
from bench.report import Gate, Section, megabytes, ms, number, ratio
from bench.stats import median, quotient

# The gates are for a hundred at once: fewer hardly use the raw runs' memory, or the hub's warm pool.
FULL_COUNT = 100
LEAST_OF_RAW = {SAME: 5.0, MIXED: 1.0}

HEAD = [
    *("", "answers", "errors", "requests/s", "/ raw", "first p50 ms", "first p99 ms", "end p50 ms", "CPU s each"),
    *("processes", "RSS MB", "PSS MB", "hub RSS MB"),
]


def section_of(bursts: list[Burst], *, count: int, rounds: int) -> Section:
    groups: dict[tuple[str, str], list[Burst]] = {}
    for burst in bursts:
        groups.setdefault((burst.answer, burst.way), []).append(burst)
    failures = Counter(error for burst in bursts for error in burst.errors)
    shown = "".join(f"\n  {times} x {error}" for error, times in failures.most_common(5))
    return Section(
        title=f"claude: {count} new conversations at once, medians of {rounds} interleaved rounds, memory at its peak",
        head=HEAD,
        rows=[_row(group, groups[group[0].answer, RAW]) for group in groups.values()],
        note=f"The hub's ceiling is {CEILING} workers and {MEMORY_MB} MB of RSS. RSS counts shared pages in each "
        f"process, PSS once.{' Errors:' + shown if shown else ''}",
        gates=[gate for answer in ANSWERS for way in LEAST_OF_RAW for gate in _gates(groups, answer.name, way, count)],
        data={"bursts": [asdict(burst) for burst in bursts]},
    )


def _of(group: list[Burst], value: Callable[[Burst], float]) -> float:
    return median(value(burst) for burst in group)


def _times_raw(group: list[Burst], raw: list[Burst]) -> float:
    return quotient(_of(group, lambda it: it.per_s), _of(raw, lambda it: it.per_s))


def _row(group: list[Burst], raw: list[Burst]) -> list[str]:
    return [
        group[0].way,
        group[0].answer,
        str(sum(len(burst.errors) for burst in group)),
        number(_of(group, lambda it: it.per_s)),
        ratio(_times_raw(group, raw)),
        ms(_of(group, lambda it: it.first_s(50))),
        ms(_of(group, lambda it: it.first_s(99))),
        ms(_of(group, lambda it: it.end_s(50))),
        number(_of(group, lambda it: it.cpu_s)),
        str(max(it.processes for it in group)),
        *(megabytes(max(it.rss_bytes for it in group)), megabytes(max(it.pss_bytes for it in group))),
        megabytes(max(it.hub_rss_bytes for it in group)),
    ]


def _gates(groups: dict[tuple[str, str], list[Burst]], answer: str, way: str, count: int) -> list[Gate]:
    group, raw = groups[answer, way], groups[answer, RAW]
    what = f"{count} x {answer}, {way.removeprefix('hub, ')}"
    peak_mb = max(it.rss_bytes for it in group) / MB
    return [
        Gate.at_most(f"{what}: errors", sum(len(it.errors) for it in group), 0),
        Gate.at_least(
            f"{what}: requests/s / raw", _times_raw(group, raw), LEAST_OF_RAW[way], "x", is_judged=count >= FULL_COUNT
        ),
        Gate.at_most(f"{what}: RSS of the workers", peak_mb, MEMORY_MB, " MB"),
        Gate.at_most(f"{what}: worker processes", max(it.processes for it in group), CEILING),
    ]
