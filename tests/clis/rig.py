"""One adapter with its real program, a pool, and the vendor it talks to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from providers.adapters.base import Adapter
from providers.clis import pins
from providers.engine import Engine
from providers.errors import ProviderError
from providers.events import (
    Event,
    Message,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Toolbox,
    ToolCall,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
)
from providers.pool_limits import PoolLimits
from providers.provider import Provider
from providers.provider_config import ProviderConfig
from providers.registry import adapters_by_name
from providers.worker import Deadlines
from tests.clis.dialects import DIALECTS, Dialect, Lack, Upstream
from tests.programs import require_cli
from tests.vendor_api import Received, Script, VendorApi

T = TypeVar("T")

# The adapters with a program of their own.
REAL = tuple(name for name in pins.names() if name in adapters_by_name())

# All whose requests arrive at a stand-in vendor.
VENDORED = tuple(name for name, dialect in DIALECTS.items() if dialect.cli)

# Longer than any turn here with a worker's start; a hanging test fails after that.
TURN_S = 20.0
# What a hub's environment holds beside the CLI's variables.
HUB_SECRETS = {
    "SECRET_X": "hub-secret-x",
    "DATABASE_URL": "postgres://hub-secret-db",
    "HUB_SECRET_KEY": "hub-secret-key",
    "AWS_SECRET_ACCESS_KEY": "hub-secret-aws",
    "NODE_OPTIONS": "--no-warnings",
    "BUN_OPTIONS": "--silent",
    "LD_LIBRARY_PATH": "/hub-secret-lib",
}
# One process, started when it is needed: every turn of a binding goes to the same one.
ONE_WORKER = PoolLimits(floor=0, ceiling=1, kept=1, turns=100_000, watch_s=0.2)


def needs(rig: Rig, *abilities: Lack) -> None:
    """Skip a test that does not count for a CLI which can't do this."""
    if missing := rig.dialect.lacks.intersection(abilities):
        pytest.skip(f"{rig.name} has no {' and no '.join(sorted(missing))}")


def needs_sampling(rig: Rig, *names: str) -> None:
    """Skip a test of sampling that the adapter says it can't pass on."""
    if missing := set(names).intersection(rig.provider.info.unsupported_sampling):
        pytest.skip(f"{rig.name} does not take {' and '.join(sorted(missing))}")


def user(*blocks: str) -> Message:
    return Message("user", blocks)


def assistant(*blocks: str) -> Message:
    return Message("assistant", blocks)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and what the vendor received for it."""

    events: list[Event]
    received: list[Received]
    error: ProviderError | None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def pieces(self) -> int:
        return sum(isinstance(event, TextDelta) for event in self.events)

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def calls(self) -> list[ToolCall]:
        return [event for event in self.events if isinstance(event, ToolCall)]

    @property
    def started(self) -> TurnStarted:
        assert self.error is None, self.error
        assert isinstance(self.events[0], TurnStarted)
        return self.events[0]

    @property
    def finished(self) -> TurnFinished:
        assert self.error is None, self.error
        assert isinstance(self.events[-1], TurnFinished)
        return self.events[-1]


@dataclass(slots=True)
class Rig:
    """A provider as the engine runs it, alone. `home` is what its owner's HOME would be."""

    name: str
    vendor: VendorApi
    engine: Engine
    home: Path
    data: Path
    dialect: Dialect
    plain: Script = field(default_factory=lambda: Script(text="well then"))

    @property
    def provider(self) -> Provider:
        return self.engine.provider(self.name)

    @property
    def workers_folder(self) -> Path:
        return self.data / "run" / "workers"

    def pids(self) -> set[int]:
        """The live worker processes, by the folders they work in."""
        return {child.pid for child in psutil.Process().children() if self._is_worker(child)}

    def _is_worker(self, child: psutil.Process) -> bool:
        try:
            return Path(child.cwd()).is_relative_to(self.workers_folder) and child.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    async def pid(self) -> int:
        """The one live worker, bound as the turns of `ask` are."""
        await self.ask(user("hello"))
        (pid,) = self.pids()
        return pid

    async def ask(
        self,
        *messages: Message,
        script: Script | None = None,
        system: str = "",
        sampling: Sampling | None = None,
        model: str | None = None,
        toolbox: Toolbox | None = None,
        json_schema: bytes = b"",
        owner: str = "alice",
    ) -> Answer:
        """One turn to its end, good or bad. The vendor's record holds that turn alone afterwards."""
        turn = self.turn(*messages, system=system, sampling=sampling, model=model, owner=owner)
        return await self.run(replace(turn, toolbox=toolbox or Toolbox(), json_schema=json_schema), script)

    def turn(
        self,
        *messages: Message,
        system: str = "",
        sampling: Sampling | None = None,
        model: str | None = None,
        owner: str = "alice",
    ) -> Turn:
        return Turn(messages, system=system, model=model, sampling=sampling or Sampling(), owner=owner, caller=owner)

    async def soon(self, awaited: Awaitable[T]) -> T:
        """What comes within the time a turn may take."""
        async with asyncio.timeout(TURN_S):
            return await awaited

    async def first_word(self, answer: AsyncIterator[Event]) -> TextDelta:
        """What an answer begins with, after its start."""
        assert isinstance(await self.soon(anext(answer)), TurnStarted)
        while not isinstance(event := await self.soon(anext(answer)), TextDelta):
            assert isinstance(event, Usage)
        return event

    async def run(self, turn: Turn, script: Script | None = None, *, keep_record: bool = False) -> Answer:
        if not keep_record:
            self.vendor.clear()
        self.vendor.script = script or self.plain
        self.engine.board.clear(self.name)  # what its vendor said of limits in an earlier test
        events: list[Event] = []
        error: ProviderError | None = None
        try:
            async with asyncio.timeout(TURN_S), aclosing(self.provider.run(turn)) as answer:
                async for event in answer:
                    events.append(event)
        except ProviderError as exc:
            error = exc
        return Answer(events, list(self.vendor.received), error)

    def upstream(self, answer: Answer) -> Upstream:
        """The only request the vendor received for an answer."""
        seen = [(received.method, received.path) for received in answer.received]
        assert len(seen) == 1, f"one request was expected, the vendor received {seen} (error: {answer.error!r})"
        return self.dialect.read(answer.received[0])

    async def settled(self) -> None:
        """Return once no worker is busy or being tidied."""
        await self.pool_shows("0 busy, 0 tidying, 0 retiring")

    async def pool_shows(self, state: str) -> None:
        async with asyncio.timeout(TURN_S):
            while state not in repr(self.provider.pool):  # noqa: ASYNC110 (a pool tells nobody of its changes)
                await asyncio.sleep(0.005)


@asynccontextmanager
async def open_rig(
    name: str,
    folder: Path,
    *,
    env: Callable[[str], Mapping[str, str]] | None = None,
    adapter: type[Adapter] | None = None,
    binary: Path | None = None,
    pool: PoolLimits = ONE_WORKER,
    deadlines: Deadlines | None = None,
    may_reuse: bool = True,
    dialect: Dialect | None = None,
) -> AsyncIterator[Rig]:
    """A rig of its own below `folder`. `env` says how to reach the vendor's address, else it is with a dummy key."""
    dialect = dialect or DIALECTS[name]
    program = require_cli(dialect.cli) if dialect.cli else Path()
    home, data = folder / "home", folder / "data"
    home.mkdir(parents=True, exist_ok=True)
    config = ProviderConfig(
        adapter=adapter or adapters_by_name()[name],
        binary=str(binary or program),
        command=dialect.command(program) if dialect.command else (),
        extra_env=dialect.extra_env,
        may_reuse=may_reuse,
        pool=pool,
        deadlines=deadlines or Deadlines(),
    )
    async with VendorApi() as vendor:
        reach = env or dialect.env
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), **HUB_SECRETS, **reach(vendor.url)}
        engine = Engine([config], data_folder=data, environ=environ, max_starts=2)
        try:
            await engine.start()
            yield Rig(name, vendor, engine, home, data, dialect)
        finally:
            await engine.close(grace_s=0)
