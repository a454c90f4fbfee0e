from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand

from hubsite import stores
from providers import runtime
from providers.health import mend_of
from providers.provider import Provider


class Command(BaseCommand):
    help = "Say of Redis, the database and each provider where they are, whether they work, and what to do. Free."

    def handle(self, *args: Any, **options: Any) -> None:
        has_stores = self._report_stores()
        self._cooldowns = stores.cooldowns()
        providers = runtime.make_engine().providers.values()
        usable = asyncio.run(self._report(list(providers)))
        if not usable:
            self.stderr.write("No provider but the demo is usable.")
        if not (usable and has_stores):
            sys.exit(1)

    def _report_stores(self) -> bool:
        troubles = {
            "redis": (stores.redis_place(), stores.redis_trouble(), "start it, or change REDIS_URL"),
            "database": (stores.database_place(), stores.database_trouble(), "start it, or change DATABASE_URL"),
        }
        for name, (place, trouble, mend) in troubles.items():
            self._say(
                name, f"can't be used, {place}: {trouble}" if trouble else f"ready, {place}", mend if trouble else ""
            )
        return not any(trouble for _, trouble, _ in troubles.values())

    async def _report(self, providers: list[Provider]) -> bool:
        return any([await self._report_one(provider) for provider in providers])

    async def _report_one(self, provider: Provider) -> bool:
        """Whether the provider is usable; the demo does not count."""
        info, program = provider.info, provider.find()
        if not provider.config.is_enabled:
            self._say(provider.name, "disabled", provider.mend)
            return False
        if program is None:
            self._say(provider.name, "not installed", info.mend_install)
            return False
        if (obstacle := await provider.config.adapter.obstacle(program)) is not None:
            self._say(provider.name, obstacle.message, obstacle.mend)
            return False
        version = await provider.config.adapter.version(program) or "unknown"
        login = await provider.config.adapter.login_state(program)
        tested = f", tested with {info.tested_version}" if info.tested_version not in ("", version) else ""
        where = f"{program.path} version {version}{tested}" if program.path.name else "built in"
        state = {"ready": "ready", "needs_login": "needs login", "unknown": "login unknown"}[login]
        mend = info.mend_login if login != "ready" else ""
        for cooldown in self._cooldowns:
            if cooldown.provider == provider.name:
                state, mend = f"cooling down{f' ({cooldown.model})' if cooldown.model else ''}", mend_of(cooldown)
        self._say(provider.name, f"{state}, {where}", mend)
        return login != "needs_login" and not info.by_name_only

    def _say(self, name: str, state: str, mend: str) -> None:
        self.stdout.write(f"{name:8} {state}" + (f"\n         to mend it: {mend}" if mend else ""))
