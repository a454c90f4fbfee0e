"""What a provider goes by: the owner's settings of it, and what all providers of one hub share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from providers.adapters.base import Adapter
from providers.cooldowns import Board
from providers.host import Host
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.status import Listener
from providers.throttle import LocalThrottle, Throttle
from providers.worker import Deadlines


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """The owner's settings of one provider. `binary` overrides where its program is looked for.

    `name` is the adapter's unless several providers share one. `command` is the command line of an adapter that drives
    any program, `extra_env` names more variables it may see. `models`, `context_tokens` override what the adapter says;
    `aliases` are more names for models. Limits towards the vendor are None for none. One that is not enabled gets no
    new turns, those it has end well; `is_drained`: that is for a while. A new `generation` asks for new workers.
    """

    adapter: type[Adapter]
    binary: str = ""
    default_model: str = ""
    may_reuse: bool = True
    name: str = ""
    is_enabled: bool = True
    is_drained: bool = False
    generation: int = 0
    command: tuple[str, ...] = ()
    extra_env: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    context_tokens: int = 0
    requests_per_minute: int | None = None
    concurrent_turns: int | None = None
    pool: PoolLimits = field(default_factory=PoolLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    process: ProcessLimits = field(default_factory=ProcessLimits)

    @property
    def launch(self) -> tuple[object, ...]:
        """What its processes are started with: where that is equal, those that run may go on."""
        program = (self.adapter, self.binary, self.command, self.extra_env, self.may_reuse)
        return (*program, self.deadlines, self.process, self.generation)

    @property
    def bounds(self) -> PoolLimits:
        """The pool's, by which one without new turns lets go of each worker that nobody waits for."""
        return self.pool if self.is_enabled else replace(self.pool, floor=0, kept=0, idle_s=0.0)


@dataclass(slots=True)
class Shared:
    """What all providers of one hub share."""

    data_folder: Path
    workers_folder: Path
    environ: Mapping[str, str]
    starts: asyncio.Semaphore
    board: Board = field(default_factory=Board)
    on_change: list[Listener] = field(default_factory=list)
    throttle: Throttle = field(default_factory=LocalThrottle)
    host: Host = field(default_factory=Host)
    is_closing: bool = False
