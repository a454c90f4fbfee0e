"""One provider: its program if it is there, its pool, and what is known about its state."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from providers.adapters.base import Adapter, AdapterInfo, Program
from providers.cooldowns import Window
from providers.errors import (
    NeedsLogin,
    NotInstalled,
    Overloaded,
    ProviderChanged,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    ShuttingDown,
    WorkerCrashed,
    WorkerFailed,
)
from providers.events import Event, LimitNotice, ReasoningDelta, TextDelta, Turn, TurnFinished, TurnStarted, Working
from providers.health import Health
from providers.history_digest import history_digest
from providers.pool import Lease, WorkerPool
from providers.programs import find_command, find_program, passed_env
from providers.provider_config import ProviderConfig, Shared
from providers.roster import State
from providers.score import ProviderStats
from providers.status import ProviderState, Status
from providers.throttle import OutboundLimits
from providers.worker import Worker

logger = logging.getLogger(__name__)

# After this long `auto` gives a provider in trouble another real turn: the owner may have mended it meanwhile.
TRY_AGAIN_S = 60.0

# A turn sent here just before the provider was disabled is still served.
LINGER_S = 1.5
# What counts against a provider: not a request's own fault, nor a limit that is known and waited for.
FAILURES = (ProviderUnavailable, Overloaded, WorkerFailed)


class Provider:
    """One provider: its program if it is there, its pool, and what is known about its state."""

    def __init__(self, config: ProviderConfig, shared: Shared) -> None:
        self.config = config
        self.version = ""
        self.pool: WorkerPool | None = None
        self.stats = ProviderStats()
        self.is_leaving = False
        self._disabled_at = -math.inf
        self._shared = shared
        self._adapter: Adapter | None = None
        self._health = Health(self, shared.board, shared.on_change)
        self.status  # noqa: B018 (from now on it is known since when)

    @property
    def info(self) -> AdapterInfo:
        return self.config.adapter.info

    @property
    def name(self) -> str:
        return self.config.name or self.info.name

    @property
    def default_model(self) -> str:
        """What answers when the caller names no model."""
        return self.config.default_model or self.info.default_model

    @property
    def models(self) -> tuple[str, ...]:
        return self.config.models or self.info.models

    @property
    def aliases(self) -> dict[str, str]:
        """More names for models, by the name the caller may use."""
        return dict(self.config.aliases)

    @property
    def context_tokens(self) -> int:
        """What a prompt may hold."""
        return self.config.context_tokens or self.info.context_tokens

    def named(self, model: str | None) -> str:
        """The vendor's name of a model as a caller may write it, of the default for None."""
        model = model or self.default_model
        return self.aliases.get(model, model)

    # --- how it is -------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        return self._health.status

    @property
    def state(self) -> ProviderState:
        return self.status.state

    @property
    def mend(self) -> str:
        """The command or act that makes the provider usable; empty if it is."""
        return self.status.mend

    def obstacle(self, model: str | None = None) -> ProviderError | None:
        """Why a turn for this model (None: the default) would be refused now; None if it may be tried."""
        return self._health.obstacle(self.named(model), again_s=TRY_AGAIN_S)

    @property
    def load(self) -> float:
        """Turns that run or wait, as a multiple of what may run."""
        if self.pool is None:
            return 0.0
        return (self.pool.count(State.BUSY) + self.pool.waiting) / max(1, self.pool.limits.ceiling)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The vendor's usage windows as last told."""
        return self._shared.board.windows(self.name)

    @property
    def used_quota(self) -> float:
        """The share of the fullest usage window that has not been reset since it was told."""
        return self._shared.board.used_quota(self.name)

    def note(self, trouble: ProviderUnavailable | None) -> None:
        """Remember what the last turn or check showed of the provider's state."""
        self._health.note(trouble)

    async def recheck(self) -> None:
        """Look whether trouble was mended on this machine. Cheap, asks no vendor, may be called at any time."""
        await self._health.recheck()

    def clear(self) -> None:
        """Forget trouble, cooldowns and failed starts, by the owner's will: the next turn tries."""
        if self.pool is not None:
            self.pool.breaker.forgive()
        self.note(None)
        self._shared.board.clear(self.name)

    # --- its program and its workers -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Look for the program again if it was not there; start the pool once it is."""
        if self._shared.is_closing:
            return
        if self.pool is not None:
            await self.recheck()
            return
        program = self.find() if self.config.is_enabled or self._lingers else None
        if program is None:
            return
        adapter = self._adapter = self.config.adapter(program)
        shared, start = self._shared, partial(self._start_worker, adapter)
        self.pool = WorkerPool(self.name, start, self.config.bounds, shared.starts, shared.host)
        self.pool.open()
        try:
            await self._examine(adapter, program)
        except Exception:  # one provider's trouble must not keep the others from serving
            logger.exception("examining %s", self.name)

    def change(self, config: ProviderConfig) -> None:
        """Go by other settings, of an equal `launch`, from now on. Neither a worker nor a turn is ended for it."""
        if self.config.is_enabled and not config.is_enabled:
            self._disabled_at = time.monotonic()
        self.config = config
        if self.pool is not None:
            self.pool.adjust(config.bounds)

    def leave(self) -> None:
        """Take no new turns any more, but such as were sent here an instant ago; let workers go as turns end."""
        self.is_leaving = True
        self.change(replace(self.config, is_enabled=False))

    @property
    def is_idle(self) -> bool:
        """Whether it has neither a worker nor a turn, and none can come to it."""
        return not self._lingers and (self.pool is None or not (self.pool.live or self.pool.waiting))

    @property
    def _lingers(self) -> bool:
        return not self.config.is_enabled and time.monotonic() - self._disabled_at <= LINGER_S

    async def _examine(self, adapter: Adapter, program: Program) -> None:
        self.version = await adapter.version(program)
        if (obstacle := await self.find_obstacle()) is not None:
            self.note(obstacle)

    async def find_obstacle(self) -> ProviderUnavailable | None:
        """What keeps the program from being used here, by a local look; None if nothing seems to."""
        if self._adapter is None:
            return None
        program = self._adapter.program
        if (obstacle := await self._adapter.obstacle(program)) is not None:
            return obstacle
        if await self._adapter.login_state(program) == "needs_login":
            return NeedsLogin(f"{self.info.title} is not logged in", mend=self.info.mend_login)
        return None

    def watched_files(self) -> tuple[Path, ...]:
        """The program and the files of its login: a change of one may mean that trouble is mended."""
        if self._adapter is None:
            return ()
        program = self._adapter.program
        return (program.path, *self._adapter.login_files(program.env))

    def find(self) -> Program | None:
        """The program with the variables it may see, without starting anything."""
        environ, config = self._shared.environ, self.config
        path_env = environ.get("PATH", os.defpath)
        if config.command:
            path = find_command(config.command[0], path_env)
        else:
            clis = self._shared.data_folder / "clis"
            path = find_program(self.info, override=config.binary, clis_folder=clis, path=path_env)
        if path is None:
            return None
        env = passed_env(self.info, environ, extra=config.extra_env)
        return Program(path, env, may_reuse=config.may_reuse, args=config.command[1:])

    async def _start_worker(self, adapter: Adapter) -> Worker:
        root = self._shared.workers_folder
        with self._redacted(adapter):
            cgroups = self._shared.host.cgroups
            return await Worker.start(adapter, root, self.config.process, self.config.deadlines, cgroups)

    @contextmanager
    def _redacted(self, adapter: Adapter) -> Iterator[None]:
        """No error leaves with a secret that the CLI was given."""
        try:
            yield
        except ProviderError as error:
            given = adapter.program.env
            secret = (*self.info.secret_env, *self.config.extra_env)
            error.redact(tuple(given[name] for name in secret if name in given))
            raise

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Answer one turn with a worker of the pool. Raises ProviderError; may be closed at any event."""
        if self._shared.is_closing:
            raise ShuttingDown("the hub is shutting down")
        if self.is_leaving and not self._lingers:
            raise ProviderChanged(f"{self.name} was removed or changed meanwhile", retry_after_s=1.0)
        await self.open()
        if self.pool is None or self._adapter is None:
            raise self.obstacle() or NotInstalled(f"{self.info.title} is not installed", mend=self.info.mend_install)
        if (refusal := self._refusal()) is not None:
            raise refusal
        if turn.model is not None or self.config.default_model:
            turn = replace(turn, model=self.named(turn.model))
        if (lack := self.info.lack(turn.needs)) is not None:
            raise lack
        self._adapter.check(turn)
        async with (
            self._admitted(self.named(turn.model)),
            aclosing(self._observed(turn, self.pool, self._adapter)) as events,
        ):
            async for event in events:
                yield event

    def _refusal(self) -> ProviderError | None:
        """What refuses even a turn that names the provider, without asking the vendor."""
        is_off = not self.config.is_enabled and not self._lingers
        return self.obstacle() if is_off else self._health.refusal()

    # --- what the vendor lets it do --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _admitted(self, model: str) -> AsyncIterator[None]:
        """A place among the turns the vendor sees. Raises RateLimited while it is not to be asked, Busy at a limit."""
        board, throttle, turn_id = self._shared.board, self._shared.throttle, ""
        if (cooldown := board.cooling(self.name, model)) is not None:
            raise self._health.rate_limited(cooldown)
        is_probe = board.needs_probe(self.name, model)
        if is_probe and not await self._takes_probe(model):
            raise RateLimited(f"{self.name}: another request tries whether its vendor serves again", retry_after_s=1.0)
        limits = OutboundLimits(self.config.requests_per_minute, self.config.concurrent_turns)
        try:
            if limits:
                turn_id = uuid4().hex
                await throttle.enter(self.name, turn_id, limits)
            yield
        finally:
            # Nothing here awaits, so cancelling the caller can't keep a place.
            if limits:
                throttle.leave(self.name, turn_id)
            if is_probe:
                board.end_probe(self.name, model)

    async def _takes_probe(self, model: str) -> bool:
        try:
            return await self._shared.board.may_probe(self.name, model)
        except BaseException:  # a caller who leaves meanwhile must not keep it
            self._shared.board.end_probe(self.name, model)
            raise

    async def _observed(self, turn: Turn, pool: WorkerPool, adapter: Adapter) -> AsyncGenerator[Event, None]:
        """The events of a turn, and what they and its failure tell of the provider."""
        board, asked_at = self._shared.board, time.monotonic()
        is_told = has_word = False
        try:
            with self._redacted(adapter):
                async with aclosing(self._answer(turn, pool, adapter)) as events:
                    async for event in events:
                        match event:
                            case LimitNotice():
                                board.note_limit(self.name, event)
                                is_told = is_told or event.status == "rejected"
                            case TurnStarted():
                                self.note(None)
                                board.succeeded(self.name, self.named(turn.model))
                            case TextDelta() | ReasoningDelta() | Working() | TurnFinished() if not has_word:
                                has_word = True
                                self.stats.note_answer(time.monotonic() - asked_at)
                        yield event
        except RateLimited as error:
            if not is_told:
                until = None if error.retry_after_s is None else board.clock() + error.retry_after_s
                # Keys are limited by model; what concerns an account comes as a notice.
                cooldown = board.cool(self.name, error.code, until=until, model=self.named(turn.model))
                error.retry_after_s = cooldown.until - board.clock()
            raise
        except FAILURES as error:
            self.stats.note_failure()
            # Why workers don't start, and until when, is the breaker's to tell.
            if isinstance(error, ProviderUnavailable) and not pool.breaker.failures and self._may_judge(turn.model):
                self.note(error)
            raise

    def _may_judge(self, model: str | None) -> bool:
        """Whether a refusal of this model tells of the provider: of one that only the caller names it may be about that
        name, and hold words of it."""
        return model in (None, self.named(None), *self.models, *self.aliases.values())

    # --- the turn on a worker --------------------------------------------------------------------------------------

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
                        yield self._marked(event, lease)
                return
            except WorkerCrashed as error:
                if has_begun or not may_retry:
                    raise
                logger.info("%s, one more try: %s", self.name, error)
                may_retry = False

    def _marked(self, event: Event, lease: Lease) -> Event:
        if isinstance(event, TurnStarted):
            return replace(event, provider=self.name, start=lease.start)
        return event
