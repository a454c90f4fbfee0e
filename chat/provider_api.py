"""The REST door to the providers: what there is, how it is, and what to do if it can't answer."""

from __future__ import annotations

from typing import Literal

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import BaseModel

from chat import choice
from chat.auth import KEY_AUTH
from chat.requests import count, hub_request
from chat.schemas import ERRORS
from providers import runtime
from providers.cooldowns import Window
from providers.provider import Provider
from providers.status import ProviderState

router = Router(auth=KEY_AUTH, tags=["providers"])


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


@router.get("/providers", response={200: ProviderList, **ERRORS})
async def list_providers(request: HttpRequest) -> ProviderList:
    """The providers, whether they can answer, and what to do if not."""
    await count(request)
    return ProviderList(providers=[describe(it) for it in await choice.list_providers(hub_request(request).auth)])


@router.get("/providers/{name}", response={200: ProviderBody, **ERRORS})
async def get_provider(request: HttpRequest, name: Path[str]) -> ProviderBody:
    """One of them."""
    await count(request)
    provider = runtime.engine().provider(name)
    hub_request(request).auth.check_provider(provider.name)
    await provider.open()
    return describe(provider)


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
