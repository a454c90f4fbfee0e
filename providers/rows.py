"""The rows of admin, over the settings, as what the engine goes by. A broken row costs itself, never the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import Error, connection, models

from providers.default_rules import DEFAULT_RULES
from providers.models import ProviderRow, RouteRule
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.provider_config import ProviderConfig
from providers.rules import Rule, Target
from providers.worker import Deadlines

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=models.Model)
M = TypeVar("M")

MB = 1024 * 1024
TABLES = (ProviderRow, RouteRule)


@dataclass(frozen=True, slots=True)
class Rows:
    """What the rows come to; `broken` tells which were left out, and why."""

    configs: tuple[ProviderConfig, ...]
    rules: tuple[Rule, ...]
    broken: tuple[tuple[str, str], ...] = ()

    def report(self) -> None:
        """Log what was left out."""
        for name, why in self.broken:
            logger.warning("%s is left out: %s", name, why)


def fingerprint() -> tuple[str, ...]:
    """Other rows have another one. Cheap; raises what the database raises."""
    with connection.cursor() as cursor:
        return tuple(_contents(cursor, model) for model in TABLES)


def _contents(cursor: object, model: type[models.Model]) -> str:
    # All there is, not its newest time: clocks differ, and a column set by SQL says nothing of when.
    table = connection.ops.quote_name(model._meta.db_table)
    cursor.execute(f"SELECT * FROM {table} ORDER BY id")  # type: ignore[attr-defined]  # noqa: S608 (a constant)
    return repr(cursor.fetchall())  # type: ignore[attr-defined]


def without_rows() -> Rows:
    """What the settings alone come to."""
    known = settings.HUB_PROVIDER_SETTINGS
    return Rows(tuple(known.configs[name] for name in known.names), DEFAULT_RULES)


def first_rows() -> Rows:
    """What a hub starts with; the settings' own providers have a row from now on."""
    with suppress(Error):
        ensure_rows()
    return known_rows()


def known_rows() -> Rows:
    """What the rows come to, broken ones logged; the settings alone where the database can't be asked."""
    try:
        rows = read_rows()
    except Error as error:
        logger.warning("providers and rules are as the settings say, the database can't be asked: %s", error)
        return without_rows()
    rows.report()
    return rows


def provider_names() -> list[str]:
    """Every provider there is or is to be, whether or not it can be used."""
    rows = ProviderRow.objects.values_list("name", flat=True)
    return list(dict.fromkeys([*settings.HUB_PROVIDER_SETTINGS.names, *rows]))


def ensure_rows() -> None:
    """Give each provider of HUB_PROVIDERS its row, so that admin shows it."""
    present = set(ProviderRow.objects.values_list("name", flat=True))
    missing = [name for name in settings.HUB_PROVIDER_SETTINGS.names if name not in present]
    # Another hub on the same database may be about to do the same.
    ProviderRow.objects.bulk_create([ProviderRow(name=it, adapter=it) for it in missing], ignore_conflicts=True)


def read_rows() -> Rows:
    """What the rows come to now, the providers of HUB_PROVIDERS first. Raises what the database raises."""
    broken: list[tuple[str, str]] = []
    configs = {config.adapter.info.name: config for config in without_rows().configs}
    for row in _each(ProviderRow, broken):
        if (config := _good(row, to_config, broken)) is not None:
            configs[row.name] = config
        elif row.name in configs:  # of the settings' own, a row that can't be read still says whether it is wanted
            configs[row.name] = replace(configs[row.name], is_enabled=row.is_enabled is True and not row.is_drained)
    rules = [rule for row in _each(RouteRule, broken) if (rule := _good(row, to_rule, broken)) is not None]
    return Rows(tuple(configs.values()), tuple(rules), tuple(broken))


def _each(model: type[R], broken: list[tuple[str, str]]) -> Iterator[R]:
    """One by one: a column that holds no JSON at all must not keep the others from being read."""
    for pk in [*model._default_manager.values_list("pk", flat=True)]:
        try:
            row = model._default_manager.filter(pk=pk).first()
        except (ValueError, TypeError) as error:
            broken.append((f"{model._meta.verbose_name} {pk}", f"it can't be read: {error}"))
            continue
        if row is not None:
            yield row


def _good(row: R, convert: Callable[[R], M], broken: list[tuple[str, str]]) -> M | None:
    if problem := problem_of(row):
        broken.append((f"{row._meta.verbose_name} {row}", problem))
        return None
    return convert(row)


def problem_of(row: models.Model) -> str:
    """Why a row can't be used, on one line; empty if it can."""
    try:
        row.clean_fields()
        row.clean()
    except ValidationError as error:
        found = error.message_dict.items()
        return "; ".join(f"{column}: {' '.join(whys)}" for column, whys in found)[:500]
    except (TypeError, ValueError, AttributeError, Error) as error:  # no check foresaw this
        return f"it can't be read: {error}"[:500]
    return ""


# --- a row as the engine has it --------------------------------------------------------------------------------------


def to_config(row: ProviderRow) -> ProviderConfig:
    """Of a row without a problem."""
    base: ProviderConfig = settings.HUB_PROVIDER_SETTINGS.configs[row.adapter]
    return replace(
        base,
        name=row.name,
        is_enabled=row.is_enabled and not row.is_drained,
        is_drained=row.is_enabled and row.is_drained,
        generation=row.generation,
        binary=row.binary or base.binary,
        command=tuple(row.command) or base.command,
        extra_env=tuple(row.extra_env),
        default_model=row.default_model or base.default_model,
        models=tuple(row.model_names),
        aliases=tuple(row.aliases.items()),
        context_tokens=row.context_tokens or 0,
        requests_per_minute=_limit(row.requests_per_minute, base.requests_per_minute),
        concurrent_turns=_limit(row.concurrent_turns, base.concurrent_turns),
        pool=_pool(row, base.pool),
        deadlines=_deadlines(row, base.deadlines),
        process=_process(row, base.process),
    )


def _limit(value: int | None, default: int | None) -> int | None:
    """0 is said to mean none."""
    return default if value is None else value or None


def _pool(row: ProviderRow, base: PoolLimits) -> PoolLimits:
    ceiling = _or(row.ceiling, base.ceiling)
    rss_bytes = base.rss_bytes if row.rss_mb is None else row.rss_mb * MB
    return replace(
        base,
        ceiling=ceiling,
        floor=min(_or(row.floor, base.floor), ceiling),
        kept=min(base.kept, ceiling),
        memory_bytes=base.memory_bytes if row.memory_mb is None else row.memory_mb * MB,
        rss_bytes=rss_bytes,
        # Above what a worker may hold for long, unless there is no such mark at all.
        hard_rss_bytes=base.hard_rss_bytes and max(base.hard_rss_bytes, 2 * rss_bytes),
    )


def _process(row: ProviderRow, base: ProcessLimits) -> ProcessLimits:
    return replace(
        base,
        nice=_or(row.nice, base.nice),
        cpu_weight=_limit(row.cpu_weight, base.cpu_weight),
        cpu_s=_or(row.cpu_s, base.cpu_s),
        max_processes=_or(row.max_processes, base.max_processes),
        memory_bytes=base.memory_bytes if row.memory_max_mb is None else row.memory_max_mb * MB,
    )


def _deadlines(row: ProviderRow, base: Deadlines) -> Deadlines:
    return replace(
        base,
        ready_s=_or(row.ready_s, base.ready_s),
        first_event_s=_or(row.first_event_s, base.first_event_s),
        silence_s=_or(row.silence_s, base.silence_s),
        turn_s=_or(row.turn_s, base.turn_s),
    )


def _or(value: M | None, default: M) -> M:
    return default if value is None else value


def to_rule(row: RouteRule) -> Rule:
    """Of a row without a problem."""
    return Rule(
        name=row.name,
        targets=tuple(Target(**target) for target in row.targets),
        fallback=tuple(row.fallback),
        is_enabled=row.is_enabled,
        least_tokens=row.least_tokens,
        most_tokens=row.most_tokens,
        is_code=row.is_code,
        languages=tuple(row.languages),
        has_images=row.has_images,
        has_tools=row.has_tools,
        wants_json=row.wants_json,
        models=tuple(row.model_names),
        keys=tuple(row.keys),
        session_providers=tuple(row.session_providers),
        hours=row.hours,
        time_zone=row.time_zone or "UTC",
        days=tuple(row.days),
    )


def rule_values(rule: Rule) -> dict[str, object]:
    """The columns of a rule's row."""
    return {
        "name": rule.name,
        "targets": [{"provider": it.provider, "model": it.model, "weight": it.weight} for it in rule.targets],
        "fallback": list(rule.fallback),
        "is_enabled": rule.is_enabled,
        "least_tokens": rule.least_tokens,
        "most_tokens": rule.most_tokens,
        "is_code": rule.is_code,
        "languages": list(rule.languages),
        "has_images": rule.has_images,
        "has_tools": rule.has_tools,
        "wants_json": rule.wants_json,
        "model_names": list(rule.models),
        "keys": list(rule.keys),
        "session_providers": list(rule.session_providers),
        "hours": rule.hours,
        "time_zone": rule.time_zone,
        "days": list(rule.days),
    }
