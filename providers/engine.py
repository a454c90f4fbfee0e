"""All providers of one hub: found and started together, closed together.

The one thing of this room others use. It knows no key, no session and no wire format, and no provider by name.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from providers.errors import ProviderUnknown
from providers.pool import WorkerPool
from providers.process import parent_death_argv
from providers.provider import Provider, ProviderConfig, Shared
from providers.workspace import sweep_leftovers

logger = logging.getLogger(__name__)


class Engine:
    """The providers of this hub. `start` and `close` belong to the event loop that runs the turns.

    `data_folder` holds installed CLIs and the workers' private folders; `environ` is the hub's own environment, from
    which each child sees only its allow-list; at most `max_starts` processes start at a time.
    """

    def __init__(
        self, configs: list[ProviderConfig], *, data_folder: Path, environ: Mapping[str, str], max_starts: int
    ) -> None:
        self._shared = Shared(data_folder, data_folder / "run" / "workers", environ, asyncio.Semaphore(max_starts))
        self.providers = {config.adapter.info.name: Provider(config, self._shared) for config in configs}

    @property
    def is_closing(self) -> bool:
        return self._shared.is_closing

    async def start(self) -> None:
        """Clear what a killed hub left behind, then find the programs and begin to warm up their pools."""
        parent_death_argv()
        if count := sweep_leftovers(self._shared.workers_folder):
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
        self._shared.is_closing = True
        await asyncio.gather(*(pool.close(grace_s=grace_s) for pool in self._pools()))

    def kill(self) -> None:
        """End every child process at once, and remove what they left."""
        self._shared.is_closing = True
        for pool in self._pools():
            pool.kill()
        shutil.rmtree(self._shared.workers_folder, ignore_errors=True)

    def _pools(self) -> list[WorkerPool]:
        return [provider.pool for provider in self.providers.values() if provider.pool is not None]
