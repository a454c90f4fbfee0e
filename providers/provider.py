"""One provider: its program if it is there, its pool, and what is known about its state."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
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
    ShuttingDown,
    UnsupportedAccount,
    WorkerCrashed,
)
from providers.events import Event, Turn, TurnStarted
from providers.history_digest import history_digest
from providers.planning import PoolLimits
from providers.pool import Lease, WorkerPool
from providers.process import ProcessLimits
from providers.programs import find_program, passed_env
from providers.worker import Deadlines, Worker

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


@dataclass(slots=True)
class Shared:
    """What all providers of one hub share."""

    data_folder: Path
    workers_folder: Path
    environ: Mapping[str, str]
    starts: asyncio.Semaphore
    is_closing: bool = False


class Provider:
    """One provider: its program if it is there, its pool, and what is known about its state."""

    def __init__(self, config: ProviderConfig, shared: Shared) -> None:
        self.config = config
        self.version = ""
        self.since = time.time()
        self.pool: WorkerPool | None = None
        self._shared = shared
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
    def default_model(self) -> str:
        """What answers when the caller names no model."""
        return self.config.default_model or self.info.default_model

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
        if self.pool is not None or self._shared.is_closing:
            return
        program = self.find()
        if program is None:
            return
        adapter = self._adapter = self.config.adapter(program)
        self.pool = WorkerPool(self.name, partial(self._start_worker, adapter), self.config.pool, self._shared.starts)
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
        environ = self._shared.environ
        path = find_program(
            self.info,
            override=self.config.binary,
            clis_folder=self._shared.data_folder / "clis",
            path=environ.get("PATH", os.defpath),
        )
        if path is None:
            return None
        return Program(path, passed_env(self.info, environ), may_reuse=self.config.may_reuse)

    async def _start_worker(self, adapter: Adapter) -> Worker:
        root = self._shared.workers_folder
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
        if self._shared.is_closing:
            raise ShuttingDown("the hub is shutting down")
        await self.open()
        if self.pool is None or self._adapter is None:
            raise NotInstalled(f"{self.info.title} is not installed", mend=self.info.mend_install)
        if turn.model is None and self.config.default_model:
            turn = replace(turn, model=self.config.default_model)
        self._adapter.check(turn)
        try:
            with self._redacted(self._adapter):
                async with aclosing(self._answer(turn, self.pool, self._adapter)) as events:
                    async for event in events:
                        yield event
        except ProviderUnavailable as error:
            if not self.pool.breaker.failures:  # why workers don't start, and until when, is the breaker's to tell
                self.note(error)
            raise

    async def _answer(self, turn: Turn, pool: WorkerPool, adapter: Adapter) -> AsyncGenerator[Event, None]:
        """The events of one worker; of a second one if the first turns out to have died while it was idle."""
        history = history_digest(turn) if pool.limits.kept else None
        may_retry, has_begun = True, False
        while True:
            try:
                async with (
                    pool.lease(caller=turn.caller, binding=adapter.binding(turn), history=history) as lease,
                    aclosing(lease.worker.run(turn)) as events,
                ):
                    may_retry = may_retry and lease.start != "cold"
                    async for event in events:
                        has_begun = True
                        yield self._noted(event, lease)
                return
            except WorkerCrashed as error:
                if has_begun or not may_retry:
                    raise
                logger.info("%s, one more try: %s", self.name, error)
                may_retry = False

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
