"""All providers of this process as they are now, down to their workers, as plain data for the dashboard."""

from __future__ import annotations

import time
from dataclasses import dataclass

from providers import runtime
from providers.engine import Engine
from providers.errors import ShuttingDown
from providers.pool import WorkerPool
from providers.provider import Provider
from providers.roster import State
from providers.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """One process. `started_at` is a Unix time; `rss_bytes` is that of all it has started, as last looked at."""

    pid: int
    state: str
    started_at: int
    turns: int
    rss_bytes: int
    is_unwanted: bool


@dataclass(frozen=True, slots=True)
class WindowNow:
    """A usage window of the vendor's as last told, by whichever hub of the same Redis."""

    name: str
    status: str
    used: float | None
    resets_at: float | None


@dataclass(frozen=True, slots=True)
class PoolNow:
    floor: int
    ceiling: int
    live: int
    busy: int
    starting: int
    waiting: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class ProviderNow:
    """Times are Unix times. `pool` is None where the program is not there."""

    name: str
    title: str
    state: str
    is_serving: bool
    is_drained: bool
    since: float
    until: float | None
    why: str
    mend: str
    version: str
    cooldown_until: float | None
    windows: tuple[WindowNow, ...]
    pool: PoolNow | None
    workers: tuple[WorkerNow, ...]


def take() -> list[ProviderNow] | None:
    """None if no engine runs in this process."""
    try:
        return runtime.ask_engine(_all)
    except ShuttingDown:
        return None


def replace_worker(provider: str, pid: int) -> bool:
    """Let one worker of this process go, at once or after its turn. Whether there was such a worker."""

    def ask(engine: Engine) -> bool:
        found = engine.providers.get(provider)
        return found is not None and found.pool is not None and found.pool.replace(pid)

    try:
        return runtime.ask_engine(ask)
    except ShuttingDown:
        return False


def _all(engine: Engine) -> list[ProviderNow]:
    return [_provider(engine, it) for it in engine.providers.values()]


def _provider(engine: Engine, provider: Provider) -> ProviderNow:
    status, cooldown_s = provider.status, engine.board.cooldown_s(provider.name)
    return ProviderNow(
        name=provider.name,
        title=provider.info.title,
        state=status.state,
        is_serving=status.is_serving,
        is_drained=provider.config.is_drained,
        since=round(status.since),
        until=_rounded(status.until),
        why=status.why,
        mend=status.mend,
        version=provider.version,
        cooldown_until=round(engine.board.clock() + cooldown_s) if cooldown_s else None,
        windows=tuple(WindowNow(it.name, it.status, it.used, _rounded(it.resets_at)) for it in provider.windows),
        pool=_pool(provider.pool) if provider.pool else None,
        # Those of before a restart, which still end their turns, too.
        workers=tuple(_worker(pool, it) for pool in engine.pools if pool.name == provider.name for it in pool.roster),
    )


def _pool(pool: WorkerPool) -> PoolNow:
    return PoolNow(
        floor=pool.limits.floor,
        ceiling=pool.limits.ceiling,
        live=pool.live,
        busy=pool.count(State.BUSY),
        starting=pool.roster.starting,
        waiting=pool.waiting,
        rss_bytes=pool.roster.total_rss_bytes,
    )


def _worker(pool: WorkerPool, worker: Worker) -> WorkerNow:
    roster, state = pool.roster, pool.roster.state(worker)
    is_kept = state is State.IDLE and worker.memory is not None
    return WorkerNow(
        pid=worker.pid,
        state="kept" if is_kept else str(state),
        started_at=round(time.time() - (time.monotonic() - worker.started_at)),
        turns=worker.turns,
        rss_bytes=roster.rss_bytes(worker),
        is_unwanted=worker in roster.unwanted,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds)
