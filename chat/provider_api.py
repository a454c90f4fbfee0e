"""The REST door to the providers: what there is, how it is, and what to do if it can't answer."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Path, Router

from chat import choice
from chat.auth import KEY_AUTH
from chat.errors import ProviderNotFound
from chat.provider_bodies import ProviderBody, ProviderList, describe
from chat.requests import count, hub_request
from chat.schemas import ERRORS
from providers import runtime
from providers.errors import ProviderUnknown
from providers.provider import Provider

router = Router(auth=KEY_AUTH, tags=["providers"])


@router.get("/providers", response={200: ProviderList, **ERRORS})
async def list_providers(request: HttpRequest) -> ProviderList:
    """The providers, whether they can answer, and what to do if not."""
    await count(request)
    return ProviderList(providers=[describe(it) for it in await choice.list_providers(hub_request(request).auth)])


def _provider(name: str) -> Provider:
    try:
        return runtime.engine().provider(name)
    except ProviderUnknown as error:  # of a request's field a fault in the request, here an address of nothing
        raise ProviderNotFound(error.message) from error


@router.get("/providers/{name}", response={200: ProviderBody, **ERRORS})
async def get_provider(request: HttpRequest, name: Path[str]) -> ProviderBody:
    """One of them."""
    await count(request)
    provider = _provider(name)
    hub_request(request).auth.check_provider(provider.name)
    await provider.open()
    return describe(provider)
