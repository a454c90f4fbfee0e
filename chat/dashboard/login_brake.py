"""What slows down who guesses an administrator's password: the same bound as for API keys, by address."""

from __future__ import annotations

import logging
import math
from threading import Lock
from typing import Any

from django.http import HttpRequest, HttpResponse

from chat.addresses import address_of
from chat.auth import FailedAttempts
from chat.errors import TooManyFailures

logger = logging.getLogger(__name__)


class LoginBrake:
    """Failed logins of this process. Thread-safe: pages are made in threads."""

    def __init__(self) -> None:
        self._failures = FailedAttempts("wrong passwords")
        self._lock = Lock()

    def begin(self, request: HttpRequest) -> HttpResponse | None:
        """Count a try, before its password is looked at: many at once would all be looked at else. The refusal, if it
        comes too soon."""
        address = _address_of(request)
        with self._lock:
            try:
                self._failures.check(address)
            except TooManyFailures as error:
                return _refusal(error)
            self._failures.note(address)
        return None

    def end(self, request: HttpRequest, *, is_in: bool) -> None:
        """Nobody's name is logged: what stands in its field may be the password."""
        address = _address_of(request)
        if not is_in:
            logger.warning("a login to the admin failed, from %s", address, extra={"event": "login_failed"})
            return
        with self._lock:
            self._failures.forgive(address)


def _address_of(request: HttpRequest) -> str:
    scope: dict[str, Any] = getattr(request, "scope", {})
    return address_of(scope)


def _refusal(error: TooManyFailures) -> HttpResponse:
    wait_s = math.ceil(error.retry_after_s or 1)
    headers = {"Retry-After": str(wait_s)}
    return HttpResponse(f"{error}.\n", status=429, content_type="text/plain; charset=utf-8", headers=headers)
