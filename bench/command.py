"""What a command of the benchmark consists of: parts, each of which measures something and can be run alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.report import Section


class WrongRun(RuntimeError):
    """A run failed, or was again and again not the kind it was meant to be."""


class Skipped(Exception):
    """What a part compares with is not there, and need not be; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is run: rounds of single turns, rounds of bursts and blocks, how many at once, requests per line."""

    runs: int = 1
    rounds: int = 1
    count: int = 1
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Setup:
    """What a part may use. `clis` are the CLIs that are installed; `server` and `litellm` are the caller's wishes."""

    folder: Path
    vendor_url: str
    clis: Mapping[str, Path]
    sizes: Sizes
    server: str
    litellm: Path | None


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to measure. Without the CLI it needs it counts as failed."""

    name: str
    measure: Callable[[Setup], Awaitable[list[Section]]]
    cli: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """`python -m bench NAME`. `flags` are those of bench/options.py that it has beside the common ones."""

    name: str
    help: str
    parts: tuple[Part, ...]
    full: Sizes
    quick: Sizes
    flags: tuple[str, ...] = ()
