"""Keys at the REST door."""

from __future__ import annotations

from django.http import HttpRequest
from ninja.security import HttpBearer

from chat.errors import KeyMissing, KeyRefused
from chat.keys import Caller, KeyRing


class BearerKey(HttpBearer):
    """`Authorization: Bearer KEY`. Raises KeyMissing or KeyRefused, which tell the caller what to send."""

    def __init__(self) -> None:
        super().__init__()
        self._keys = KeyRing()

    async def __call__(self, request: HttpRequest) -> Caller:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise KeyMissing("send an API key as `Authorization: Bearer KEY`")
        return await self.authenticate(request, key.strip())

    async def authenticate(self, request: HttpRequest, token: str) -> Caller:
        caller = await self._keys.find(token)
        if caller is None:
            raise KeyRefused("this API key is unknown or revoked")
        return caller
