"""Who a key belongs to, asked on every request.

A revocation counts within HUB_KEY_CACHE_S plus one query, on every hub that shares the database. A key expires on the
second, remembered or not. While the database can't be asked, a key that was good shortly before goes on holding.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.db.models import Q
from django.utils import timezone

from chat.errors import DatabaseUnavailable, KeyRefused
from chat.keys import NEVER, PREFIX, SHOWN_CHARS, Caller, digest_of
from chat.limits import KeyLimits
from chat.models import ApiKey
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

# Anything else can't be a key, and is refused without asking the database.
SHAPE = re.compile(rf"{PREFIX}[\w-]{{32,196}}", re.ASCII)

REMEMBERED_KEYS = 10_000
# A revocation is a database write: while there is no database there is none. Bounded, as another hub may have one.
HOLD_S = 300.0
# For so long a key counts as known when an address has sent too many wrong ones.
FAMILIAR_S = 3_600.0
# The database is given this long; once it has failed, less, so that known keys hardly feel that it hangs.
LOOKUP_WAIT_S, LOOKUP_WAIT_AWAY_S = 5.0, 1.0
# After a failure it is left alone for so long.
AWAY_S = 0.5
# Questions a hanging database has not answered; only then are there ever so many.
MAX_LOOKUPS = 1_000
RETRY_AFTER_S = 2.0

UNKNOWN = "this API key is unknown or revoked"
EXPIRED = "this API key has expired"
REPLACED = "this API key has expired: it was replaced by a new one"

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the database says of a secret. `refusal` is what its sender hears without a caller, or from the end on."""

    refusal: str
    caller: Caller | None = None
    ends_at: datetime = NEVER

    def caller_at(self, now: datetime) -> Caller:
        """Raises KeyRefused."""
        if self.caller is None or self.ends_at <= now:
            raise KeyRefused(self.refusal)
        return self.caller


class _Memory:
    """Verdicts by digest with the time they were asked for; the one asked for longest ago is dropped first."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, _Verdict]] = {}

    def get(self, digest: str, *, since: float) -> _Verdict | None:
        """The verdict if it was asked for after `since`."""
        held = self._held.get(digest)
        return held[1] if held is not None and held[0] > since else None

    def put(self, digest: str, asked_at: float, verdict: _Verdict) -> None:
        self.drop(digest)
        self._held[digest] = (asked_at, verdict)
        if len(self._held) > REMEMBERED_KEYS:
            self.drop(next(iter(self._held)))

    def drop(self, digest: str) -> None:
        self._held.pop(digest, None)


class KeyRing:
    """Finds the caller of a key; one per process. `clock` in seconds, `now` for the time keys expire by."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = timezone.now
    ) -> None:
        self._clock = clock
        self._now = now
        # Apart, so that a flood of wrong keys can't push out the good ones.
        self._good, self._bad = _Memory(), _Memory()
        self._lookups: dict[str, asyncio.Future[_Verdict | None]] = {}
        self._tasks = Tasks()
        self._away_since: float | None = None

    async def find(self, key: str) -> Caller:
        """The key's caller. Raises KeyRefused, or DatabaseUnavailable."""
        if not SHAPE.fullmatch(key):
            raise KeyRefused(UNKNOWN)
        digest = digest_of(key)
        since = self._clock() - settings.HUB_KEY_CACHE_S
        verdict = self._good.get(digest, since=since) or self._bad.get(digest, since=since)
        if verdict is None:
            verdict = await self._ask(key[:SHOWN_CHARS], digest)
        return verdict.caller_at(self._now())

    def recall(self, key: str) -> Caller | None:
        """The caller of a key that was found good a moment ago; None where `find` has to look."""
        verdict = self._good.get(digest_of(key), since=self._clock() - settings.HUB_KEY_CACHE_S)
        return verdict.caller if verdict is not None and verdict.ends_at > self._now() else None

    def is_familiar(self, key: str) -> bool:
        """Whether this process has seen the key good within the last hour."""
        return self._good.get(digest_of(key), since=self._clock() - FAMILIAR_S) is not None

    async def _ask(self, prefix: str, digest: str) -> _Verdict:
        verdict = await self._answer(prefix, digest) or self._good.get(digest, since=self._clock() - HOLD_S)
        if verdict is None:
            raise DatabaseUnavailable(
                "the API key can't be checked: the database can't be asked", retry_after_s=RETRY_AFTER_S
            )
        return verdict

    async def _answer(self, prefix: str, digest: str) -> _Verdict | None:
        """The database's answer, shared by all who wait for it; None if it gives none."""
        wait_s = LOOKUP_WAIT_S
        if self._away_since is not None:
            wait_s = LOOKUP_WAIT_AWAY_S
            if self._clock() < self._away_since + AWAY_S or len(self._lookups) >= MAX_LOOKUPS:
                return None
        lookup = self._lookups.get(digest) or self._begin(prefix, digest)
        await asyncio.wait([lookup], timeout=wait_s)
        if not lookup.done():
            self._note_away(f"no answer within {wait_s:g} s")
            return None
        return lookup.result()

    def _begin(self, prefix: str, digest: str) -> asyncio.Future[_Verdict | None]:
        lookup: asyncio.Future[_Verdict | None] = asyncio.get_running_loop().create_future()
        self._lookups[digest] = lookup
        # A task of its own: the others' answer must not end with the client that happened to ask first.
        self._tasks.start(self._look_up(prefix, digest, lookup), name="key lookup")
        return lookup

    async def _look_up(self, prefix: str, digest: str, lookup: asyncio.Future[_Verdict | None]) -> None:
        asked_at = self._clock()  # before the question: a revocation may come right after the row was read
        verdict = None
        try:
            verdict = await sync_to_async(_read)(prefix, digest)
            self._away_since = None
            self._remember(digest, asked_at, verdict)
        except (OperationalError, InterfaceError) as error:
            self._note_away(type(error).__name__)
        finally:
            del self._lookups[digest]
            lookup.set_result(verdict)

    def _remember(self, digest: str, asked_at: float, verdict: _Verdict) -> None:
        is_good = verdict.caller is not None and verdict.ends_at > self._now()
        mine, other = (self._good, self._bad) if is_good else (self._bad, self._good)
        other.drop(digest)
        mine.put(digest, asked_at, verdict)

    def _note_away(self, problem: str) -> None:
        if self._away_since is None:
            logger.warning("API keys can't be looked up (%s); known ones hold for %g s", problem, HOLD_S)
        self._away_since = self._clock()


def is_good_key(secret: str) -> bool:
    """Whether the secret is a key's, and that one neither expired nor revoked. For commands: it asks the database."""
    verdict = _read(secret[:SHOWN_CHARS], digest_of(secret))
    return verdict.caller is not None and verdict.ends_at > timezone.now()


def _read(prefix: str, digest: str) -> _Verdict:
    # The lean chain sends no request signals, so nobody else drops a connection the database has closed.
    close_old_connections()
    for key in ApiKey.objects.filter(Q(prefix=prefix) | Q(previous_prefix=prefix), revoked_at=None):
        expiry = (key.expires_at or NEVER, EXPIRED)
        if hmac.compare_digest(key.digest, digest):
            ends_at, refusal = expiry
            return _Verdict(refusal, as_caller(key), ends_at)
        if hmac.compare_digest(key.previous_digest, digest):
            ends_at, refusal = min((key.previous_expires_at or LONG_AGO, REPLACED), expiry)
            return _Verdict(refusal, as_caller(key), ends_at)
    return _Verdict(UNKNOWN)


def as_caller(key: ApiKey) -> Caller:
    """What a key's row lets its caller do."""
    return Caller(
        key_id=key.pk,
        name=key.name,
        owner=key.owner,
        scopes=frozenset(_words(key.scopes)),
        providers=_words(key.allowed_providers),
        models=_words(key.allowed_models),
        limits=_limits(key),
        session_ttl_s=key.session_ttl_s or settings.HUB_SESSION_TTL_S,
        fallback=key.fallback,
    )


def _words(value: object) -> tuple[str, ...]:
    """A list of an admin's JSON. What is no list must not read as an empty one, which would allow everything."""
    if isinstance(value, list):
        return tuple(str(it) for it in value)
    return (str(value),) if value else ()


def _limits(key: ApiKey) -> KeyLimits:
    per_minute = key.requests_per_minute
    if per_minute is None:
        per_minute = settings.HUB_KEY_REQUESTS_PER_MINUTE
    return KeyLimits(
        requests_per_minute=per_minute or None,
        concurrent_turns=key.concurrent_turns or None,
        tokens_per_minute=key.tokens_per_minute or None,
        tokens_per_day=key.tokens_per_day or None,
        # A budget of 0 is one: nothing may be spent.
        budget_day_usd=None if key.budget_day_usd is None else float(key.budget_day_usd),
        budget_month_usd=None if key.budget_month_usd is None else float(key.budget_month_usd),
    )
