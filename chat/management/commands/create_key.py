from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from chat.keys import CannotRotate, KeyTerms, active_keys, create_key, rotate_key
from chat.models import SCOPES, ApiKey, default_scopes
from providers.rows import provider_names

MAX_CHARS = 100
MAX_COUNT = 2**31 - 1  # what every database's column takes
MAX_USD = 10_000_000
MIN_DAYS, MAX_DAYS = 0.001, 36_500
MAX_TTL_S = 31_536_000
DEFAULT_GRACE_HOURS = 24.0

# Options that say what a new key may do; a rotated key keeps its own.
TERMS = ("owner", "expires_days", "scope", "provider", "model", "session_ttl", "fallback")
LIMITS = ("rpm", "tpm", "tpd", "concurrent", "budget_day", "budget_month")


class Command(BaseCommand):
    help = "Make an API key, or give one a new secret, and print it once; it can't be shown again."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", help="what the key is for, for example n8n")
        parser.add_argument("--quiet", action="store_true", help="no hints beside the key, for scripts")
        _add_terms(parser.add_argument_group("a new key"))
        _add_limits(parser.add_argument_group("its limits (0: none; not given: the hub's settings)"))
        rotation = parser.add_argument_group("a new secret for a key")
        rotation.add_argument("--rotate", metavar="PREFIX_OR_NAME", help="the key that gets it; all else stays")
        rotation.add_argument(
            "--grace-hours",
            type=number(0, 24 * MAX_DAYS),
            metavar="H",
            help=f"the old secret holds on for so long (default {DEFAULT_GRACE_HOURS:g}; 0: it ends at once)",
        )

    def handle(self, *args: Any, name: str | None, rotate: str | None, **options: Any) -> None:
        try:
            secret, hints = _rotate(rotate, name, options) if rotate is not None else _create(name, options)
        except DatabaseError as error:
            raise CommandError(f"the database can't be used ({error}); has the hub run, or `migrate`?") from error
        # The key alone goes to stdout, so that $(manage.py create_key n8n) is the key.
        self.stdout.write(secret)
        if not options["quiet"]:
            self.stderr.write("\n".join(hints))


def _add_terms(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--owner", help="keys of one owner share sessions (default: default)")
    group.add_argument(
        "--expires-days", type=number(MIN_DAYS, MAX_DAYS), metavar="N", help="it ends after so many days"
    )
    group.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help=f"may be given several times (default: {', '.join(default_scopes())})",
    )
    group.add_argument("--provider", action="append", type=provider, help="one it may use; none given means all")
    group.add_argument("--model", action="append", help="one it may use, * allowed; none given means all")
    # No default: a rotated key keeps its own.
    group.add_argument(
        "--fallback",
        action="store_true",
        default=None,
        help="where a named provider fails, another one may answer (a request may say otherwise)",
    )
    group.add_argument("--session-ttl", type=count(1, MAX_TTL_S), metavar="S", help="seconds its sessions live")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rpm", type=count(0, MAX_COUNT), metavar="N", help="requests per minute")
    group.add_argument("--tpm", type=count(0, MAX_COUNT), metavar="N", help="tokens per minute")
    group.add_argument("--tpd", type=count(0, MAX_COUNT), metavar="N", help="tokens per day")
    group.add_argument("--concurrent", type=count(0, MAX_COUNT), metavar="N", help="turns at a time")
    group.add_argument("--budget-day", type=usd, metavar="USD", help="per day; 0: nothing may be spent")
    group.add_argument("--budget-month", type=usd, metavar="USD", help="per month; 0: nothing may be spent")


def provider(text: str) -> str:
    if text not in (known := provider_names()):
        raise argparse.ArgumentTypeError(f"there is no provider {text[:50]!r}; there are {', '.join(known)}")
    return text


def count(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return value

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return read


def usd(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    # Rounded to the column's places, a tiny budget would become 0: nothing may be spent.
    if value.is_nan() or not 0 <= value <= MAX_USD or value != round(value, 4):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount from 0 to {MAX_USD} with at most 4 decimals")
    return value


def one_key(word: str) -> ApiKey:
    """The key with this name or prefix. Raises CommandError if there is none, or more than one."""
    keys = list(active_keys(word))
    if not keys:
        raise CommandError(f"no key that is not revoked has the name or the prefix {word[:MAX_CHARS]!r}")
    if len(keys) > 1:
        listed = ", ".join(f"{key.prefix} (owner {key.owner})" for key in keys)
        raise CommandError(f"{len(keys)} keys are called {word!r}; name one of them by its prefix: {listed}")
    return keys[0]


def _create(name: str | None, options: dict[str, Any]) -> tuple[str, list[str]]:
    if name is None:
        raise CommandError("say what the key is for, for example: manage.py create_key n8n")
    if options["grace_hours"] is not None:
        raise CommandError("--grace-hours goes with --rotate")
    owner = "default" if options["owner"] is None else options["owner"]
    if not all(text.strip() and len(text) <= MAX_CHARS for text in (name, owner)):
        raise CommandError(f"name and owner are texts of 1 to {MAX_CHARS} characters")
    terms = _terms(options)
    same = [key.prefix for key in ApiKey.objects.filter(name=name, revoked_at=None)]
    secret = create_key(name, owner=owner, terms=terms)
    hints = [f"Key {name!r} of owner {owner!r}, shown this once."]
    if terms.expires_at is not None:
        hints.append(f"It ends at {_shown(terms.expires_at)}.")
    if same:
        hints.append(f"Of that name there is also {', '.join(same)}, which goes on working.")
    return secret, hints


def _terms(options: dict[str, Any]) -> KeyTerms:
    models = options["model"] or []
    if not all(model.strip() and len(model) <= 2 * MAX_CHARS for model in models):
        raise CommandError(f"--model wants a text of 1 to {2 * MAX_CHARS} characters")
    days = options["expires_days"]
    return KeyTerms(
        scopes=_once(options["scope"] or default_scopes()),
        allowed_providers=_once(options["provider"] or []),
        allowed_models=_once(models),
        expires_at=None if days is None else timezone.now() + timedelta(days=days),
        requests_per_minute=options["rpm"],
        tokens_per_minute=options["tpm"],
        tokens_per_day=options["tpd"],
        concurrent_turns=options["concurrent"],
        budget_day_usd=options["budget_day"],
        budget_month_usd=options["budget_month"],
        session_ttl_s=options["session_ttl"],
        fallback=bool(options["fallback"]),
    )


def _once(words: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _rotate(word: str, name: str | None, options: dict[str, Any]) -> tuple[str, list[str]]:
    if name is not None:
        raise CommandError("give either a name for a new key or --rotate, not both")
    if given := [f"--{term.replace('_', '-')}" for term in (*TERMS, *LIMITS) if options[term] is not None]:
        raise CommandError(f"a rotated key keeps all but its secret: {', '.join(given)} can't go with --rotate")
    key = one_key(word)
    hours = DEFAULT_GRACE_HOURS if options["grace_hours"] is None else options["grace_hours"]
    has_older = key.previous_expires_at is not None and key.previous_expires_at > timezone.now()
    old = key.prefix
    try:
        secret = rotate_key(key, grace_s=hours * 3_600)
    except CannotRotate as error:
        raise CommandError(str(error)) from error
    hints = [f"New secret of key {key.name!r} of owner {key.owner!r}, shown this once.", _end_of(old, key)]
    if has_older:
        hints.append("The one before that, still in its grace time, has ended now.")
    return secret, hints


def _end_of(old: str, key: ApiKey) -> str:
    ends_at = key.previous_expires_at
    if ends_at is None or ends_at <= timezone.now():
        return f"The old one ({old}...) has ended."
    return f"The old one ({old}...) works until {_shown(ends_at)}."


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
