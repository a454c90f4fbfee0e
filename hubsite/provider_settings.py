"""The settings every provider has: HUB_<PROVIDER>_BIN and its like, for each adapter there is.

They are the defaults of the rows in admin, and what rows may name at all.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from hubsite.env import Env
from providers.adapters.base import Adapter, AdapterInfo
from providers.host import MEMORY_PER_WORKER_BYTES, HostLimits
from providers.names import is_env, is_link
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.programs import is_never_passed
from providers.provider_config import ProviderConfig
from providers.registry import adapters_by_name
from providers.worker import Deadlines

MB = 1024 * 1024

ALLOWED = "HUB_ALLOWED_COMMANDS"


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """By adapter what its providers go by, those that are there without a row, and what rows may name.

    `fallback_chain` holds `provider` or `provider/model`, in the order in which they stand in for one that fails.
    `allowed_commands` are whole command lines; a program alone may also be a row's binary.
    """

    configs: dict[str, ProviderConfig]
    names: tuple[str, ...]
    fallback_chain: tuple[str, ...]
    allowed_commands: tuple[tuple[str, ...], ...]
    allowed_env: tuple[str, ...]


def read_provider_settings(env: Env) -> ProviderSettings:
    adapters = adapters_by_name()
    ready = sorted(name for name, adapter in adapters.items() if not adapter.info.needs_command)
    names = env.words("HUB_PROVIDERS", ",".join(ready), known=tuple(adapters))
    process, deadlines, shared = _read_process(env), _read_deadlines(env), _read_shared(env)
    configs = {name: _read_one(env, adapter, process, deadlines, shared) for name, adapter in adapters.items()}
    return ProviderSettings(
        configs,
        tuple(dict.fromkeys(names)),
        _read_names(env, "HUB_FALLBACK_CHAIN", is_link, "Use providers' names, such as claude,gemini/gemini-3-flash"),
        tuple(filter(None, (_read_command(env, ALLOWED, it) for it in env.words(ALLOWED, "")))),
        _read_allowed_env(env),
    )


def _read_names(env: Env, name: str, fits: Callable[[str], bool], hint: str) -> tuple[str, ...]:
    words = env.words(name, "")
    if unfit := [word for word in words if not fits(word)]:
        env.refuse(name, f"can't hold {unfit[0][:40]!r}", hint)
    return tuple(filter(fits, words))


def _read_allowed_env(env: Env) -> tuple[str, ...]:
    name, hint = "HUB_ALLOWED_ENV", "Use names of variables for CLIs, such as MISTRAL_API_KEY"
    names = _read_names(env, name, is_env, hint)
    if own := [it for it in names if is_never_passed(it)]:
        env.refuse(name, f"can't hold {', '.join(own)}: no CLI may be given that", hint)
    return tuple(it for it in names if not is_never_passed(it))


def _read_command(env: Env, name: str, line: str) -> tuple[str, ...]:
    """The words of a command line, as a shell would part them; no shell ever sees it."""
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        env.refuse(name, f"can't be read ({error}): {line[:40]!r}", "Use a program and its arguments: opencode acp")
        return ()
    if words and "/" in words[0] and not words[0].startswith("/"):
        env.refuse(name, f"can't be {line[:40]!r}", "Begin it with an absolute path, or with a name on the PATH")
        return ()
    return words


def _read_one(
    env: Env, adapter: type[Adapter], process: ProcessLimits, deadlines: Deadlines, shared: dict[str, float]
) -> ProviderConfig:
    info, prefix = adapter.info, f"HUB_{adapter.info.name.upper()}_"
    may_reuse = env.flag(f"{prefix}REUSE", default=True)
    pool = _read_pool(env, info, prefix, shared)
    return ProviderConfig(
        adapter=adapter,
        binary=env.text(f"{prefix}BIN") if info.program and not info.needs_command else "",
        command=_read_command(env, f"{prefix}COMMAND", env.text(f"{prefix}COMMAND")) if info.needs_command else (),
        default_model=env.text(f"{prefix}MODEL") if info.program or info.needs_command else "",
        may_reuse=may_reuse,
        requests_per_minute=env.integer(f"{prefix}REQUESTS_PER_MINUTE", 0, most=1_000_000) or None,
        concurrent_turns=env.integer(f"{prefix}CONCURRENT_TURNS", 0, most=100_000) or None,
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
        cpu_weight=env.integer("HUB_WORKER_CPU_WEIGHT", 0, most=10_000) or None,
        max_processes=env.integer("HUB_WORKER_PROCESSES", 32, most=10_000),
        memory_bytes=env.integer("HUB_WORKER_MEMORY_MAX_MB", 0) * MB,
    )


def read_host_limits(env: Env) -> HostLimits:
    """What all workers together may take of this machine."""
    by_memory = max(1, psutil.virtual_memory().total // MEMORY_PER_WORKER_BYTES)
    return HostLimits(
        max_workers=env.integer("HUB_MAX_WORKERS", by_memory, most=10_000),
        memory_bytes=env.integer("HUB_MEMORY_MB", 0) * MB,
        cgroups=env.flag("HUB_CGROUPS", default=True),
    )
