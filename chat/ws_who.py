"""Who speaks over a WebSocket: somebody with an API key, or somebody logged in to the admin in this browser.

Who is logged in has a key of his own, which nobody knows: his limits, figures and revocation are a key's like any.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db import close_old_connections
from django.http import HttpRequest, parse_cookie
from django.utils import timezone

from chat.auth import gate
from chat.database import ask_database
from chat.errors import KeyMissing, KeyRefused
from chat.key_ring import as_caller
from chat.keys import NEVER, Caller
from chat.models import ApiKey

MAX_OWNER = 100
PAGE_SCOPES = ["chat", "sessions"]
HOW = "send an API key in the field `key`, or log in to the hub's admin in this browser"


class Visitor(Protocol):
    """Whoever is at the other end. `how` names what he has shown."""

    how: str

    async def caller(self) -> Caller:
        """Who he is, looked up anew. Raises KeyMissing, KeyRefused, TooManyFailures, DatabaseUnavailable."""


class KeyHolder:
    how = "key"

    def __init__(self, key: str, address: str) -> None:
        self._key = key
        self._address = address

    async def caller(self) -> Caller:
        return await gate().admit(self._key, address=self._address)


class LoggedIn:
    how = "login"

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._session_key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME, "")
        # Only a page has a login, and a page tells its origin, which was looked at.
        self._is_page = "origin" in headers

    async def caller(self) -> Caller:
        if not self._session_key or not self._is_page:
            raise KeyMissing(HOW)
        return await ask_database(lambda: _caller_of_session(self._session_key), "who is logged in")


def visitor_of(headers: Mapping[str, str], key: str, *, address: str) -> Visitor:
    return KeyHolder(key, address) if key else LoggedIn(headers)


def _caller_of_session(session_key: str) -> Caller:
    close_old_connections()
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    if not _may_chat(user):
        raise KeyMissing(HOW)
    assert isinstance(user, User)
    key = page_key(user)
    if key.revoked_at is not None or (key.expires_at or NEVER) <= timezone.now():
        raise KeyRefused(f"{user.get_username()} may not use the page any more: the key {key} was ended in admin")
    return as_caller(key)


def _may_chat(user: AbstractBaseUser | AnonymousUser) -> bool:
    return isinstance(user, User) and user.is_active and user.is_staff


def page_key(user: User) -> ApiKey:
    """The key by which a user is counted and limited on the page. No secret leads to it: its digest is none."""
    name, number = user.get_username(), f"user_{user.pk}"
    defaults = {
        "name": f"{name} on the page"[:MAX_OWNER],
        "owner": name if len(name) <= MAX_OWNER else number,
        "prefix": number[:16],
        "scopes": PAGE_SCOPES,
    }
    return ApiKey.objects.get_or_create(digest=f"page:{number}", defaults=defaults)[0]
