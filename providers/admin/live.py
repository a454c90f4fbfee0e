"""Providers as the engine of this process has them, in words; nothing where admin runs without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from providers import runtime
from providers.engine import Engine
from providers.errors import ShuttingDown
from providers.provider import Provider
from providers.roster import State

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Live:
    """One provider now. Times are UTC, empty where there is none."""

    state: str = UNKNOWN
    since: str = ""
    until: str = ""
    why: str = ""
    mend: str = ""
    version: str = ""
    workers: str = ""
    windows: str = ""


def look() -> Mapping[str, Live]:
    """All providers by name; none if no engine runs in this process."""
    try:
        return runtime.ask_engine(_all)
    except ShuttingDown:
        return {}


def _all(engine: Engine) -> dict[str, Live]:
    return {provider.name: _live(provider) for provider in engine.providers.values()}


def _live(provider: Provider) -> Live:
    status = provider.status
    return Live(
        state=status.state.replace("_", " "),
        since=_time(status.since),
        until=_time(status.until),
        why=status.why,
        mend=status.mend,
        version=provider.version,
        workers=_workers(provider),
        windows=_windows(provider),
    )


def _workers(provider: Provider) -> str:
    pool = provider.pool
    if pool is None:
        return "none"
    waiting = f", {pool.waiting} turns wait" if pool.waiting else ""
    return f"{pool.live} of {pool.limits.ceiling}, {pool.count(State.BUSY)} busy{waiting}"


def _windows(provider: Provider) -> str:
    told = []
    for window in provider.windows:
        used = f"{window.used:.0%} used" if window.used is not None else window.status
        told.append(f"{window.name}: {used}" + (f", until {_time(window.resets_at)}" if window.resets_at else ""))
    return "; ".join(told)


def _time(seconds: float | None) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else ""
    except (ValueError, OverflowError, OSError):  # a vendor may name any number
        return ""


def clear(name: str) -> bool:
    """Have a provider forget its cooldowns and its last trouble; whether this process has it."""

    def ask(engine: Engine) -> bool:
        provider = engine.providers.get(name)
        if provider is not None:
            provider.clear()
        return provider is not None

    try:
        return runtime.ask_engine(ask)
    except ShuttingDown:
        return False
