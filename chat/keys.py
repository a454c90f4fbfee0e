"""API keys: made once, shown once, checked on every request."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections

from chat.models import ApiKey

PREFIX = "hub_"
SHOWN_CHARS = len(PREFIX) + 6
MAX_KEY_CHARS = 200
CACHE_ENTRIES = 1_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the key's id for fairness and limits, its owner for sessions and processes."""

    key_id: int
    name: str
    owner: str


def create_key(name: str, *, owner: str = "default") -> str:
    """Make a key and return it; it can't be read back later."""
    key = PREFIX + secrets.token_urlsafe(32)
    ApiKey.objects.create(name=name, owner=owner, prefix=key[:SHOWN_CHARS], digest=_digest(key))
    return key


class KeyRing:
    """Finds the caller of a key; remembers answers for `HUB_KEY_CACHE_S` seconds, so a revocation counts that soon."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Caller | None]] = {}

    async def find(self, key: str) -> Caller | None:
        """The caller, None for a key that is unknown or revoked."""
        if len(key) > MAX_KEY_CHARS:
            return None
        digest = _digest(key)
        until, caller = self._known.get(digest, (0.0, None))
        if time.monotonic() < until:
            return caller
        caller = await sync_to_async(_look_up)(digest)
        if len(self._known) >= CACHE_ENTRIES:
            self._known.clear()
        self._known[digest] = (time.monotonic() + settings.HUB_KEY_CACHE_S, caller)
        return caller


def _look_up(digest: str) -> Caller | None:
    # The lean chain sends no request signals, so nobody else drops a connection the database has closed.
    close_old_connections()
    key = ApiKey.objects.filter(digest=digest, revoked_at=None).first()
    if key is None:
        return None
    return Caller(key_id=key.pk, name=key.name, owner=key.owner)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
