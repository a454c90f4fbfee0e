"""API keys: what one lets its caller do; made once, shown once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase

from django.db.models import Q, QuerySet
from django.utils import timezone

from chat.errors import ModelNotAllowed, ProviderNotAllowed, ScopeMissing
from chat.limits import KeyLimits
from chat.models import ApiKey, default_scopes

PREFIX = "hub_"
SHOWN_CHARS = len(PREFIX) + 6
GRACE_S = 86_400.0
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the key's id for fairness and limits, its owner for sessions and processes, and what it may do.

    No providers or no models named means all; models may hold `*` and `?`. `fallback`: others may answer for a provider
    that was named, where the request doesn't say.
    """

    key_id: int
    name: str
    owner: str
    scopes: frozenset[str]
    providers: tuple[str, ...]
    models: tuple[str, ...]
    limits: KeyLimits
    session_ttl_s: int
    fallback: bool = False

    def require(self, scope: str) -> None:
        """Raises ScopeMissing."""
        if scope not in self.scopes:
            raise ScopeMissing(f"this needs a key with the scope {scope!r}; this key has {_listed(self.scopes)}")

    def may_use_provider(self, name: str) -> bool:
        return not self.providers or name in self.providers

    def check_provider(self, name: str) -> None:
        """Raises ProviderNotAllowed."""
        if not self.may_use_provider(name):
            message = f"this key may not use the provider {name[:80]!r}, only {_listed(self.providers)}"
            raise ProviderNotAllowed(message, param="provider")

    def check_model(self, name: str) -> None:
        """Raises ModelNotAllowed."""
        if self.models and not any(matches(name, pattern) for pattern in self.models):
            message = f"this key may not use the model {name[:80]!r}, only {_listed(self.models)}"
            raise ModelNotAllowed(message, param="model")


def matches(name: str, pattern: str) -> bool:
    """Whether a model is meant by a pattern with `*` and `?`."""
    # Models are called sonnet[1m], which is not meant as a set of characters.
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"


# --- making, rotating, revoking --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a new key may do and how much: the fields of ApiKey by their names. None leaves it to the settings."""

    scopes: tuple[str, ...] = field(default_factory=lambda: tuple(default_scopes()))
    allowed_providers: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrent_turns: int | None = None
    budget_day_usd: Decimal | None = None
    budget_month_usd: Decimal | None = None
    session_ttl_s: int | None = None
    fallback: bool = False


class CannotRotate(Exception):
    """The key is revoked or expired, or somebody else was faster."""


def create_key(name: str, *, owner: str = "default", terms: KeyTerms | None = None) -> str:
    """Make a key and return it; it can't be read back later."""
    secret = _new_secret()
    ApiKey.objects.create(
        name=name, owner=owner, prefix=secret[:SHOWN_CHARS], digest=digest_of(secret), **asdict(terms or KeyTerms())
    )
    return secret


def rotate_key(key: ApiKey, *, grace_s: float = GRACE_S) -> str:
    """Give a key a new secret and return it; the present one holds on for `grace_s` seconds, an older one ends now.

    Id, limits and figures stay the key's. Raises CannotRotate.
    """
    now = timezone.now()
    if key.revoked_at is not None or (key.expires_at or NEVER) <= now:
        raise CannotRotate(f"the key {key} is {'revoked' if key.revoked_at else 'expired'}; make a new one")
    secret = _new_secret()
    # Filtered, so that of two rotations at once one fails instead of losing the other's secret.
    changed = ApiKey.objects.filter(pk=key.pk, digest=key.digest, revoked_at=None).update(
        prefix=secret[:SHOWN_CHARS],
        digest=digest_of(secret),
        previous_prefix=key.prefix,
        previous_digest=key.digest,
        previous_expires_at=now + timedelta(seconds=grace_s),
    )
    if not changed:
        raise CannotRotate(f"the key {key} was rotated, revoked or deleted meanwhile")
    key.refresh_from_db()
    return secret


def revoke_key(key: ApiKey) -> None:
    """End a key for good, and with it a secret that a rotation has left in its grace time."""
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
    key.refresh_from_db()


def active_keys(word: str) -> QuerySet[ApiKey]:
    """The keys with this name or prefix that are not revoked."""
    return ApiKey.objects.filter(Q(name=word) | Q(prefix=word), revoked_at=None)


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
