"""Providers as the doors show them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from providers.cooldowns import Window
from providers.provider import Provider
from providers.status import ProviderState


class WindowBody(BaseModel):
    """A usage window of the vendor's as last told; `used` is a share of 0 to 1, `resets_at` a Unix time."""

    name: str
    status: str
    used: float | None
    resets_at: int | None


class ProviderBody(BaseModel):
    """One provider. `state` says more than `status`; times are Unix times, `until` null where no end is known.

    `why` says what is wrong, `mend` is the command or act that makes it usable. `aliases` are more names of models,
    `load` the turns that run or wait as a multiple of what may run at a time.
    """

    name: str
    status: Literal["available", "unavailable"]
    models: list[str]
    state: ProviderState
    since: int
    until: int | None
    why: str
    mend: str
    version: str
    aliases: dict[str, str]
    context_tokens: int
    windows: list[WindowBody]
    load: float


class ProviderList(BaseModel):
    providers: list[ProviderBody]


def describe(provider: Provider) -> ProviderBody:
    status = provider.status
    return ProviderBody(
        name=provider.name,
        status="available" if status.is_serving else "unavailable",
        models=list(provider.models),
        state=status.state,
        since=int(status.since),
        until=None if status.until is None else int(status.until),
        why=status.why,
        mend=status.mend,
        version=provider.version,
        aliases=provider.aliases,
        context_tokens=provider.context_tokens,
        windows=[_window(it) for it in provider.windows],
        load=round(provider.load, 3),
    )


def _window(window: Window) -> WindowBody:
    resets_at = None if window.resets_at is None else int(window.resets_at)
    return WindowBody(name=window.name, status=window.status, used=window.used, resets_at=resets_at)
