"""All providers of one hub: finds their programs, owns their pools, runs turns.

The one thing of this room others use. It knows no key, no session and no wire format, and no provider by name.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import shutil
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from providers.adapters.base import Adapter, AdapterInfo, Program
from providers.errors import (
    CrashLoop,
    NeedsLogin,
    NotInstalled,
    ProviderError,
    ProviderUnavailable,
    ProviderUnknown,
    ShuttingDown,
    UnsupportedAccount,
)
from providers.events import Event, Turn, TurnStarted
from providers.pool import Lease, PoolLimits, WorkerPool
from providers.process import ProcessLimits, parent_death_argv
from providers.programs import find_program, passed_env
from providers.worker import Deadlines, Worker
from providers.workspace import sweep_leftovers

logger = logging.getLogger(__name__)

# After this long `auto` gives a provider in trouble another real turn: the owner may have mended it meanwhile.
TRY_AGAIN_S = 60.0

ProviderState = Literal["ready", "not_installed", "needs_login", "unsupported_account", "crash_loop"]


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """The owner's settings of one provider. `binary` overrides where its program is looked for."""

    adapter: type[Adapter]
    binary: str = ""
    default_model: str = ""
    may_reuse: bool = True
    pool: PoolLimits = field(default_factory=PoolLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    process: ProcessLimits = field(default_factory=ProcessLimits)


class Provider:
    """One provider: its program if it is there, its pool, and what is known about its state."""

    def __init__(self, config: ProviderConfig, hub: _Hub) -> None:
        self.config = config
        self.version = ""
        self.since = time.time()
        self.pool: WorkerPool | None = None
        self._hub = hub
        self._adapter: Adapter | None = None
        self._trouble: ProviderUnavailable | None = None
        self._noted_at = 0.0

    @property
    def info(self) -> AdapterInfo:
        return self.config.adapter.info

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def state(self) -> ProviderState:
        if self.pool is None:
            return "not_installed"
        match self._trouble or self.pool.breaker.trouble:
            case NeedsLogin():
                return "needs_login"
            case UnsupportedAccount():
                return "unsupported_account"
            case NotInstalled():
                return "not_installed"
            case CrashLoop():
                return "crash_loop"
        return "ready"

    @property
    def may_be_tried(self) -> bool:
        """Whether `auto` may send a turn here: it is ready, or its trouble is long enough ago."""
        if self.pool is None or self.pool.breaker.verdict is not None:
            return False
        return self._trouble is None or time.monotonic() - self._noted_at >= TRY_AGAIN_S

    @property
    def mend(self) -> str:
        """The command or act that makes the provider usable; empty if it is."""
        if self.pool is None:
            return self.info.mend_install
        trouble = self._trouble or self.pool.breaker.trouble
        return trouble.mend if trouble else ""

    async def open(self) -> None:
        """Look for the program again if it was not there; start the pool once it is."""
        if self.pool is not None or self._hub.is_closing:
            return
        program = self.find()
        if program is None:
            return
        adapter = self._adapter = self.config.adapter(program)
        self.pool = WorkerPool(self.name, partial(self._start_worker, adapter), self.config.pool, self._hub.starts)
        self.pool.open()
        try:
            await self._examine(adapter, program)
        except Exception:  # one provider's trouble must not keep the others from serving
            logger.exception("examining %s", self.name)

    async def _examine(self, adapter: Adapter, program: Program) -> None:
        self.version = await adapter.version(program)
        if (obstacle := await adapter.obstacle(program)) is not None:
            self.note(obstacle)
        elif await adapter.login_state(program) == "needs_login":
            self.note(NeedsLogin(f"{self.info.title} is not logged in", mend=self.info.mend_login))

    def find(self) -> Program | None:
        """The program with the variables it may see, without starting anything."""
        environ = self._hub.environ
        path = find_program(
            self.info,
            override=self.config.binary,
            clis_folder=self._hub.data_folder / "clis",
            path=environ.get("PATH", os.defpath),
        )
        if path is None:
            return None
        return Program(path, passed_env(self.info, environ), may_reuse=self.config.may_reuse)

    async def _start_worker(self, adapter: Adapter) -> Worker:
        root = self._hub.workers_folder
        with self._redacted(adapter):
            return await Worker.start(adapter, root, self.config.process, self.config.deadlines)

    @contextmanager
    def _redacted(self, adapter: Adapter) -> Iterator[None]:
        """No error leaves with a secret that the CLI was given."""
        try:
            yield
        except ProviderError as error:
            given = adapter.program.env
            error.redact(tuple(given[name] for name in self.info.secret_env if name in given))
            raise

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Answer one turn with a worker of the pool. Raises ProviderError; may be closed at any event."""
        if self._hub.is_closing:
            raise ShuttingDown("the hub is shutting down")
        await self.open()
        if self.pool is None or self._adapter is None:
            raise NotInstalled(f"{self.info.title} is not installed", mend=self.info.mend_install)
        if turn.model is None and self.config.default_model:
            turn = replace(turn, model=self.config.default_model)
        self._adapter.check(turn)
        try:
            with self._redacted(self._adapter):
                async with (
                    self.pool.lease(caller=turn.caller, binding=self._adapter.binding(turn)) as lease,
                    aclosing(lease.worker.run(turn)) as events,
                ):
                    async for event in events:
                        yield self._noted(event, lease)
        except ProviderUnavailable as error:
            if not self.pool.breaker.failures:  # why workers don't start, and until when, is the breaker's to tell
                self.note(error)
            raise

    def _noted(self, event: Event, lease: Lease) -> Event:
        if not isinstance(event, TurnStarted):
            return event
        self.note(None)
        return replace(event, provider=self.name, start=lease.start)

    def note(self, trouble: ProviderUnavailable | None) -> None:
        """Remember what the last turn or check showed of the provider's state."""
        if type(trouble) is not type(self._trouble):
            self.since = time.time()
        # A copy: the error itself holds on to the frames of its turn, with what the caller wrote.
        self._trouble = copy.copy(trouble)
        self._noted_at = time.monotonic()


@dataclass(slots=True)
class _Hub:
    """What all providers share."""

    data_folder: Path
    workers_folder: Path
    environ: Mapping[str, str]
    starts: asyncio.Semaphore
    is_closing: bool = False


class Engine:
    """The providers of this hub. `start` and `close` belong to the event loop that runs the turns.

    `data_folder` holds installed CLIs and the workers' private folders; `environ` is the hub's own environment, from
    which each child sees only its allow-list; at most `max_starts` processes start at a time.
    """

    def __init__(
        self, configs: list[ProviderConfig], *, data_folder: Path, environ: Mapping[str, str], max_starts: int
    ) -> None:
        self._hub = _Hub(data_folder, data_folder / "run" / "workers", environ, asyncio.Semaphore(max_starts))
        self.providers = {config.adapter.info.name: Provider(config, self._hub) for config in configs}

    @property
    def is_closing(self) -> bool:
        return self._hub.is_closing

    async def start(self) -> None:
        """Clear what a killed hub left behind, then find the programs and begin to warm up their pools."""
        parent_death_argv()
        if count := sweep_leftovers(self._hub.workers_folder):
            logger.warning("removed %d worker folders of a killed hub", count)
        await self.find_programs()

    async def find_programs(self) -> None:
        """Open every provider whose program is there by now: one may be installed while the hub runs."""
        await asyncio.gather(*(provider.open() for provider in self.providers.values()))

    def provider(self, name: str) -> Provider:
        """Raises ProviderUnknown, with the names there are."""
        if name not in self.providers:
            known = ", ".join([*self.providers, "auto"])
            raise ProviderUnknown(f"there is no provider {name[:50]!r}; known: {known}")
        return self.providers[name]

    async def close(self, *, grace_s: float) -> None:
        """Refuse new turns, give running ones `grace_s` seconds, then end every child process."""
        self._hub.is_closing = True
        await asyncio.gather(*(pool.close(grace_s=grace_s) for pool in self._pools()))

    def kill(self) -> None:
        """End every child process at once, and remove what they left."""
        self._hub.is_closing = True
        for pool in self._pools():
            pool.kill()
        shutil.rmtree(self._hub.workers_folder, ignore_errors=True)

    def _pools(self) -> list[WorkerPool]:
        return [provider.pool for provider in self.providers.values() if provider.pool is not None]
