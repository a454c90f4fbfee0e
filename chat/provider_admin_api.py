"""The REST door to the providers' rows, for keys with the scope `admin`: made, changed, removed, restarted, drained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone
from ninja import Path, Router
from pydantic import ValidationError as WrongKind

from chat.auth import KEY_AUTH
from chat.database import ask_database
from chat.errors import BadRequest, ProviderConflict, ProviderNotFound
from chat.provider_admin_schemas import (
    AdminProvider,
    AdminProviderList,
    NewProvider,
    ProviderChange,
    ProviderDeleted,
    ProviderSettings,
    Workers,
)
from chat.provider_bodies import describe
from chat.requests import count
from chat.schemas import ERRORS
from providers import runtime
from providers.models import ProviderRow
from providers.provider import Provider
from providers.roster import State
from providers.rows import problem_of, read_rows

WHAT = "providers"
# Fields of a body whose columns are called otherwise.
COLUMNS = {"enabled": "is_enabled", "models": "model_names"}
FIELDS = {column: field for field, column in COLUMNS.items()}
SETTABLE = tuple(ProviderChange.model_fields)

router = Router(auth=KEY_AUTH, tags=["providers (admin)"])

Change = Callable[[ProviderRow], None]


@router.get("/admin/providers", response={200: AdminProviderList, **ERRORS})
async def list_rows(request: HttpRequest) -> AdminProviderList:
    """Every provider as it is set, and as it is in this hub."""
    await count(request, "admin")
    rows = await ask_database(lambda: list(ProviderRow.objects.all()), WHAT)
    return AdminProviderList(providers=[_body(row) for row in rows])


@router.post("/admin/providers", response={201: AdminProvider, **ERRORS})
async def add_provider(request: HttpRequest, body: NewProvider) -> tuple[int, AdminProvider]:
    """Add one. It serves at once in this hub, within two seconds in every other one on the same database."""
    await count(request, "admin")
    row = await ask_database(partial(_add, _values(body.model_dump())), WHAT)
    return 201, await _applied(row)


@router.get("/admin/providers/{name}", response={200: AdminProvider, **ERRORS})
async def get_row(request: HttpRequest, name: Path[str]) -> AdminProvider:
    """One of them."""
    await count(request, "admin")
    return _body(await ask_database(partial(_find, name), WHAT))


@router.patch("/admin/providers/{name}", response={200: AdminProvider, **ERRORS})
async def change_provider(request: HttpRequest, name: Path[str], body: ProviderChange) -> AdminProvider:
    """Change what is named; turns that run or wait are not disturbed. null: as the hub's settings say."""
    await count(request, "admin")
    values = _values(body.model_dump(exclude_unset=True))
    return await _applied(await ask_database(partial(_change, name, values), WHAT))


@router.delete("/admin/providers/{name}", response={200: ProviderDeleted, **ERRORS})
async def remove_provider(request: HttpRequest, name: Path[str]) -> ProviderDeleted:
    """Remove one; turns that run or wait end first. Those of HUB_PROVIDERS can only be disabled."""
    await count(request, "admin")
    await ask_database(partial(_remove, name), WHAT)
    await _apply()
    return ProviderDeleted(success=True, message=f"the provider {name} was removed")


@router.post("/admin/providers/{name}/restart", response={200: AdminProvider, **ERRORS})
async def restart_provider(request: HttpRequest, name: Path[str]) -> AdminProvider:
    """Give it new workers in every hub; turns end on the old ones."""
    await count(request, "admin")
    return await _applied(await ask_database(partial(_set, name, generation=F("generation") + 1), WHAT))


@router.post("/admin/providers/{name}/drain", response={200: AdminProvider, **ERRORS})
async def drain_provider(request: HttpRequest, name: Path[str]) -> AdminProvider:
    """Send it no new turns, in no hub, until that is undone."""
    await count(request, "admin")
    return await _applied(await ask_database(partial(_set, name, is_drained=True), WHAT))


@router.post("/admin/providers/{name}/undrain", response={200: AdminProvider, **ERRORS})
async def undrain_provider(request: HttpRequest, name: Path[str]) -> AdminProvider:
    """Let it have turns again."""
    await count(request, "admin")
    return await _applied(await ask_database(partial(_set, name, is_drained=False), WHAT))


@router.post("/admin/providers/{name}/clear-cooldown", response={200: AdminProvider, **ERRORS})
async def clear_cooldown(request: HttpRequest, name: Path[str]) -> AdminProvider:
    """Forget what its vendor or its last failure said: the next turn tries."""
    await count(request, "admin")
    row = await ask_database(partial(_find, name), WHAT)
    if (provider := runtime.engine().providers.get(name)) is not None:
        provider.clear()
    return _body(row)


# --- rows, asked for in a thread -------------------------------------------------------------------------------------


def _find(name: str) -> ProviderRow:
    row = ProviderRow.objects.filter(name=name).first() if "\0" not in name else None
    if row is None:
        raise ProviderNotFound(f"there is no provider {name[:50]!r}")
    return row


def _add(values: Mapping[str, Any]) -> ProviderRow:
    row = ProviderRow(**values)
    _check(row)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as exc:
        raise ProviderConflict(f"there is a provider {row.name!r} already", param="name") from exc
    return row


def _change(name: str, values: Mapping[str, Any]) -> ProviderRow:
    with transaction.atomic():
        row = _find(name)
        for column, value in values.items():
            setattr(row, column, value)
        _check(row)
        row.save(update_fields=[*values, "updated_at"])
    return row


def _check(row: ProviderRow) -> None:
    """Raises BadRequest, which names the first field that can't be as it is."""
    try:
        row.clean_fields()
        row.clean()
    except ValidationError as error:
        column, whys = next(iter(error.message_dict.items()))
        field = FIELDS.get(column, column)
        raise BadRequest(f"{field}: {' '.join(whys)}", param=field) from None


def _remove(name: str) -> None:
    row = _find(name)
    if name in settings.HUB_PROVIDER_SETTINGS.names:
        raise ProviderConflict(f"{name} is one of HUB_PROVIDERS: disable it here, or take it out there")
    row.delete()


def _set(name: str, **values: Any) -> ProviderRow:
    if not ProviderRow.objects.filter(name=_find(name).name).update(**values, updated_at=timezone.now()):
        raise ProviderNotFound(f"there is no provider {name[:50]!r}")
    return _find(name)


# --- bodies ----------------------------------------------------------------------------------------------------------


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns a body names."""
    return {COLUMNS.get(field, field): value for field, value in fields.items()}


async def _applied(row: ProviderRow) -> AdminProvider:
    await _apply()
    return _body(row)


async def _apply() -> None:
    await runtime.apply_rows(lambda: ask_database(read_rows, WHAT))


def _body(row: ProviderRow) -> AdminProvider:
    provider = runtime.engine().providers.get(row.name)
    return AdminProvider(
        name=row.name,
        adapter=row.adapter,
        origin="settings" if row.name in settings.HUB_PROVIDER_SETTINGS.names else "row",
        drained=row.is_drained,
        problem=problem_of(row),
        now=None if provider is None else describe(provider),
        workers=None if provider is None else _workers(provider),
        **_settings_of(row).model_dump(),
    )


def _settings_of(row: ProviderRow) -> ProviderSettings:
    """As the row has them; of a broken one, which tells its problem beside, what is of the right kind at all."""
    fields = {field: getattr(row, COLUMNS.get(field, field)) for field in SETTABLE}
    try:
        return ProviderSettings.model_validate(fields)
    except WrongKind as error:
        wrong = {str(it["loc"][0]) for it in error.errors()}
        return ProviderSettings.model_validate({it: value for it, value in fields.items() if it not in wrong})


def _workers(provider: Provider) -> Workers:
    pool = provider.pool
    if pool is None:
        return Workers(live=0, busy=0, waiting=0)
    return Workers(live=pool.live, busy=pool.count(State.BUSY), waiting=pool.waiting)
