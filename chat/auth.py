"""Who asks, at every door: where a key stands in a request, and what happens to those who guess."""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache, partial

from django.conf import settings
from django.http import HttpRequest
from ninja.security.base import AuthBase

from chat import log_ids
from chat.addresses import address_of, neighbourhood
from chat.errors import KeyMissing, KeyRefused, TooManyFailures
from chat.key_ring import KeyRing
from chat.keys import Caller
from chat.requests import header

HOW = "send an API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
NOT_IN_THE_URL = "keys belong in headers: in the URL, which is logged everywhere, they are not read"
URL_KEY = re.compile(r"(?:^|&)(?:x[-_])?(?:api[-_]?)?(?:key|access_token|token)=", re.IGNORECASE)

WINDOW_S = 60.0
REMEMBERED_ADDRESSES = 10_000


def key_from_headers(get: Callable[[str], str], *, query: str = "") -> str:
    """The key of a request; `get` gives a header's value, empty if it is not there. Raises KeyMissing or KeyRefused.

    The URL's `query` is only looked at to tell who has put a key there what is wrong.
    """
    scheme, _, rest = get("Authorization").strip().partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else ""
    named = get("X-API-Key").strip()
    if bearer and named and bearer != named:
        raise KeyRefused("Authorization and X-API-Key hold different keys; send one of them")
    if not bearer and not named:
        raise KeyMissing(f"{HOW}; {NOT_IN_THE_URL}" if URL_KEY.search(query) else HOW)
    return bearer or named


class FailedAttempts:
    """Failures of the last minute by client address. Bounded: the address that failed longest ago is dropped.

    `what` failed stands in the refusal.
    """

    def __init__(self, what: str = "wrong API keys", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises TooManyFailures."""
        times = self._times.get(neighbourhood(address))
        limit = settings.HUB_AUTH_FAILURES_PER_MINUTE
        if not times or not limit or len(times) < limit:
            return
        wait_s = times[-limit] + WINDOW_S - self._clock()
        if wait_s > 0:
            message = f"{limit} {self._what} came from this address within {WINDOW_S:g} s; wait {math.ceil(wait_s)} s"
            raise TooManyFailures(message, retry_after_s=wait_s)

    def note(self, address: str) -> None:
        limit = settings.HUB_AUTH_FAILURES_PER_MINUTE
        if not limit:
            return
        place = neighbourhood(address)
        times = self._times.setdefault(place, deque())
        times.append(self._clock())
        while len(times) > limit:
            times.popleft()
        self._times.move_to_end(place)
        self._forget()

    def forgive(self, address: str) -> None:
        """Take the last failure back."""
        place = neighbourhood(address)
        if times := self._times.get(place):
            times.pop()
            if not times:
                del self._times[place]

    def _forget(self) -> None:
        long_ago = self._clock() - WINDOW_S
        while len(self._times) > REMEMBERED_ADDRESSES or next(iter(self._times.values()))[-1] <= long_ago:
            self._times.popitem(last=False)


class Gate:
    """Lets in who has a good key. All doors of a process share one, so that guesses at any of them count together."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = KeyRing(clock=clock)
        self._failures = FailedAttempts(clock=clock)

    def recall(self, key: str) -> Caller | None:
        """The caller of a key that was let in a moment ago, wherever it comes from; None for any other."""
        return self._keys.recall(key)

    async def admit(self, key: str, *, address: str) -> Caller:
        """The key's caller. Raises KeyRefused, TooManyFailures, or DatabaseUnavailable.

        An address that has failed too often still gets in with a key that was good lately: its neighbours behind the
        same NAT or proxy have done nothing wrong.
        """
        if not self._keys.is_familiar(key):
            self._failures.check(address)
        try:
            return await self._keys.find(key)
        except KeyRefused:
            self._failures.note(address)
            raise


@cache
def gate() -> Gate:
    """The gate of this process."""
    return Gate()


async def caller_of(request: HttpRequest) -> Caller:
    """Who asks over HTTP. Raises KeyMissing and whatever Gate.admit does."""
    query = request.META.get("QUERY_STRING", "")
    key = key_from_headers(partial(header, request), query=query)
    caller = gate().recall(key) or await gate().admit(key, address=address_of(getattr(request, "scope", {})))
    log_ids.add(key_id=caller.key_id)
    return caller


class BearerKey(AuthBase):
    """`Authorization: Bearer KEY`."""

    openapi_type = "http"
    openapi_scheme = "bearer"

    async def __call__(self, request: HttpRequest) -> Caller:
        return await caller_of(request)


class HeaderKey(AuthBase):
    """`X-API-Key: KEY`."""

    openapi_type = "apiKey"
    openapi_in = "header"
    openapi_name = "X-API-Key"

    async def __call__(self, request: HttpRequest) -> Caller:
        return await caller_of(request)


# For routers. Each reads both headers, so the first one decides; OpenAPI documents one scheme per class.
KEY_AUTH = (BearerKey(), HeaderKey())
