"""All providers of one hub: found and started together, changed while they run, closed together.

The one thing of this room others use. It knows no key, no session and no wire format, and no provider by name.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from providers.cooldowns import Board
from providers.errors import ProviderUnknown
from providers.host import Host, HostLimits
from providers.pool import WorkerPool
from providers.process import parent_death_argv
from providers.provider import Provider
from providers.provider_config import ProviderConfig, Shared
from providers.status import Listener
from providers.tasks import Tasks
from providers.throttle import Throttle
from providers.workspace import guest_folder, leave_folder, sweep_guests, sweep_leftovers

if TYPE_CHECKING:
    from providers.rules import Rule

logger = logging.getLogger(__name__)

# How often one looks whether a provider that has left still has anything to do.
SEE_OFF_EVERY_S = 0.5


class Engine:
    """The providers of this hub. `start`, `apply` and `close` belong to the event loop that runs the turns.

    `data_folder` holds installed CLIs and the workers' private folders; `environ` is the hub's own environment, from
    which each child sees only its allow-list; at most `max_starts` processes start at a time. `board` is where limits
    of the vendors are noted, `throttle` counts what they are asked. `on_change` are told of every provider whose
    status changes. `limits` bound all workers together. `is_guest`: another process may be the folder's hub, so its
    workers' folders and cgroups are left alone.
    """

    def __init__(
        self,
        configs: Sequence[ProviderConfig],
        *,
        data_folder: Path,
        environ: Mapping[str, str],
        max_starts: int,
        board: Board | None = None,
        throttle: Throttle | None = None,
        limits: HostLimits | None = None,
        rules: Sequence[Rule] = (),
        fallback_chain: Sequence[str] = (),
        is_guest: bool = False,
    ) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.fallback_chain: tuple[str, ...] = tuple(fallback_chain)
        run = data_folder / "run"
        workers_folder = guest_folder(run) if is_guest else run / "workers"
        starts = asyncio.Semaphore(max_starts)
        self._shared = Shared(data_folder, workers_folder, environ, starts, board or Board())
        self._shared.throttle = throttle or self._shared.throttle
        self._shared.host = Host(limits)
        self.providers = {provider.name: provider for provider in map(self._made, configs)}
        self._leaving: list[Provider] = []
        self._tasks = Tasks()

    def _made(self, config: ProviderConfig) -> Provider:
        return Provider(config, self._shared)

    @property
    def board(self) -> Board:
        return self._shared.board

    @property
    def on_change(self) -> list[Listener]:
        return self._shared.on_change

    @property
    def is_closing(self) -> bool:
        return self._shared.is_closing

    async def start(self) -> None:
        """Clear what a killed hub left behind, then find the programs and begin to warm up their pools."""
        parent_death_argv()
        self._shared.host.prepare(self._shared.data_folder)
        if count := sweep_leftovers(self._shared.workers_folder) + sweep_guests(self._shared.data_folder / "run"):
            logger.warning("removed %d worker folders of a killed hub", count)
        await self.find_programs()

    async def find_programs(self) -> None:
        """Open every enabled provider whose program is there by now: one may be installed while the hub runs."""
        enabled = [provider for provider in self.providers.values() if provider.config.is_enabled]
        await asyncio.gather(*(provider.open() for provider in enabled))

    def provider(self, name: str) -> Provider:
        """Raises ProviderUnknown, with the names there are."""
        if name not in self.providers:
            known = ", ".join([*self.providers, "auto"])
            raise ProviderUnknown(f"there is no provider {name[:50]!r}; known: {known}")
        return self.providers[name]

    # --- providers come and go -------------------------------------------------------------------------------------

    async def apply(self, configs: Sequence[ProviderConfig], rules: Sequence[Rule]) -> None:
        """Have these providers, in this order, and these rules from now on.

        Turns go on: those that run or wait end where they are, also such as were sent there an instant ago. A
        provider that needs other processes is replaced by a new one, one that is gone gets no new turns. Returns once
        new turns go by it; programs are looked for, and workers end, in the background.
        """
        if self.is_closing:
            return
        before = self.providers
        providers = [self._applied(config) for config in configs]
        self.providers = {provider.name: provider for provider in providers}
        self.rules = tuple(rules)
        for provider in before.values():
            if self.providers.get(provider.name) is not provider:
                self._let_go(provider)
        self._open_new()

    def _applied(self, config: ProviderConfig) -> Provider:
        made = self._made(config)
        present = self.providers.get(made.name)
        if present is None or present.config.launch != config.launch:
            return made
        if present.config != config:
            present.change(config)
        return present

    def _open_new(self) -> None:
        for provider in self.providers.values():
            if provider.config.is_enabled and provider.pool is None:
                self._tasks.start(provider.open(), name=f"open {provider.name}")

    def _let_go(self, provider: Provider) -> None:
        logger.info("%s ends its turns and goes", provider.name)
        provider.leave()
        self._leaving.append(provider)
        self._tasks.start(self._see_off(provider), name=f"see off {provider.name}")

    async def _see_off(self, provider: Provider) -> None:
        """End a provider once it has nothing to do, and nothing can come to it any more."""
        while not provider.is_idle:  # noqa: ASYNC110 (pools announce nothing)
            await asyncio.sleep(SEE_OFF_EVERY_S)
        if provider.pool is not None:
            await provider.pool.close(grace_s=0)
        self._leaving.remove(provider)

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self, *, grace_s: float) -> None:
        """Refuse new turns, give running ones `grace_s` seconds, then end every child process."""
        self._shared.is_closing = True
        await self._tasks.cancel()
        await asyncio.gather(*(pool.close(grace_s=grace_s) for pool in self.pools))
        leave_folder(self._shared.workers_folder)

    def kill(self) -> None:
        """End every child process at once, and remove what they left."""
        self._shared.is_closing = True
        for pool in self.pools:
            pool.kill()
        shutil.rmtree(self._shared.workers_folder, ignore_errors=True)

    @property
    def pools(self) -> list[WorkerPool]:
        """Of all providers, also of those that have left and still end their turns."""
        everyone = [*self.providers.values(), *self._leaving]
        return [provider.pool for provider in everyone if provider.pool is not None]
