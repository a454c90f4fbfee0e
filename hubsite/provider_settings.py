"""The settings every provider has: HUB_<PROVIDER>_BIN and its like, for each adapter there is."""

from __future__ import annotations

from dataclasses import replace

import psutil

from hubsite.env import Env
from providers.adapters.base import Adapter, AdapterInfo
from providers.planning import PoolLimits
from providers.process import ProcessLimits
from providers.provider import ProviderConfig
from providers.registry import adapters_by_name
from providers.worker import Deadlines

MB = 1024 * 1024
# What a busy worker may need; the default ceilings leave that much for each.
MEMORY_PER_WORKER_BYTES = 256 * MB


def read_provider_configs(env: Env) -> list[ProviderConfig]:
    """The enabled providers in the order `auto` tries them."""
    adapters = adapters_by_name()
    enabled = env.words("HUB_PROVIDERS", ",".join(sorted(adapters)), known=tuple(adapters))
    process, deadlines, shared = _read_process(env), _read_deadlines(env), _read_shared(env)
    configs = {name: _read_one(env, adapter, process, deadlines, shared) for name, adapter in adapters.items()}
    return [configs[name] for name in enabled]


def _read_one(
    env: Env, adapter: type[Adapter], process: ProcessLimits, deadlines: Deadlines, shared: dict[str, float]
) -> ProviderConfig:
    info, prefix = adapter.info, f"HUB_{adapter.info.name.upper()}_"
    may_reuse = env.flag(f"{prefix}REUSE", default=True)
    pool = _read_pool(env, info, prefix, shared)
    return ProviderConfig(
        adapter=adapter,
        binary=env.text(f"{prefix}BIN") if info.program else "",
        default_model=env.text(f"{prefix}MODEL") if info.program else "",
        may_reuse=may_reuse,
        pool=pool if may_reuse else replace(pool, turns=1, kept=0),
        deadlines=deadlines,
        process=process,
    )


def _read_pool(env: Env, info: AdapterInfo, prefix: str, shared: dict[str, float]) -> PoolLimits:
    by_memory = max(1, psutil.virtual_memory().total // MEMORY_PER_WORKER_BYTES)
    ceiling = env.integer(f"{prefix}CEILING", min(info.ceiling, by_memory), least=1, most=1_000)
    floor = env.integer(f"{prefix}FLOOR", min(info.floor, ceiling), most=ceiling)
    kept = _read_kept(env, prefix, floor, ceiling) if info.can_keep else 0
    return PoolLimits(
        floor=floor,
        ceiling=ceiling,
        memory_bytes=env.integer(f"{prefix}MEMORY_MB", 0) * MB,
        queue=int(shared["queue"]),
        queue_wait_s=shared["queue_wait_s"],
        idle_s=shared["idle_s"],
        kept=kept if shared["kept_s"] else 0,
        kept_s=shared["kept_s"],
        age_s=shared["age_s"],
        turns=int(shared["turns"]),
        rss_bytes=int(shared["rss_mb"]) * MB,
        hard_rss_bytes=int(shared["hard_rss_mb"]) * MB,
    )


def _read_kept(env: Env, prefix: str, floor: int, ceiling: int) -> int:
    # A quarter of them, but never so many that there is no room for the floor.
    default = min((ceiling + 3) // 4, max(1, ceiling - floor))
    return env.integer(f"{prefix}KEPT", default, most=ceiling)


def _read_shared(env: Env) -> dict[str, float]:
    return {
        "queue": env.integer("HUB_QUEUE", 200, most=100_000),
        "queue_wait_s": env.number("HUB_QUEUE_WAIT_S", 120.0, least=0.1, most=3_600),
        "idle_s": env.number("HUB_WORKER_IDLE_S", 900.0, least=1),
        "kept_s": env.number("HUB_KEPT_S", 300.0),
        "age_s": env.number("HUB_WORKER_AGE_S", 14_400.0, least=1),
        "turns": env.integer("HUB_WORKER_TURNS", 200, least=1),
        "rss_mb": env.integer("HUB_WORKER_RSS_MB", 512),
        "hard_rss_mb": env.integer("HUB_WORKER_HARD_RSS_MB", 1_024),
    }


def _read_deadlines(env: Env) -> Deadlines:
    return Deadlines(
        ready_s=env.number("HUB_READY_TIMEOUT_S", 30.0, least=0.1, most=600),
        first_event_s=env.number("HUB_FIRST_EVENT_TIMEOUT_S", 120.0, least=0.1, most=3_600),
        silence_s=env.number("HUB_SILENCE_TIMEOUT_S", 180.0, least=0.1, most=3_600),
        turn_s=env.number("HUB_TURN_TIMEOUT_S", 1_800.0, least=0.1, most=86_400),
    )


def _read_process(env: Env) -> ProcessLimits:
    return ProcessLimits(
        max_line_bytes=env.integer("HUB_WORKER_LINE_BYTES", 64 * MB, least=64 * 1024),
        # A backstop far above the watched limit: claude reserves 5.5 GB of such memory at its start without using it,
        # and with less than that crashes now and then.
        data_bytes=env.integer("HUB_WORKER_DATA_MB", 8_192) * MB,
        cpu_s=env.integer("HUB_WORKER_CPU_S", 0),
        nice=env.integer("HUB_WORKER_NICE", 0, most=19),
    )
