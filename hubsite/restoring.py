"""A backup back into the database, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, cast

from django.contrib.auth import get_user_model
from django.core import serializers
from django.core.management.color import no_style
from django.core.serializers.base import DeserializationError, DeserializedObject
from django.db import DatabaseError, connection, models, transaction

from chat.models import ApiKey, Session, TurnRecord
from hubsite.backup import BackupFailed, Manifest, applied_migrations, checked_parts, read_manifest, table_models

WRITE_ROWS = 1_000
# What no hub makes by itself: with one of these somebody's data is there.
TELLING = (ApiKey, Session, TurnRecord, get_user_model())


def restore_backup(path: Path, *, force: bool) -> Manifest:
    """Put the archive's rows in the place of all there are. The tables have to be there (`migrate`).

    Raises BackupFailed: for a damaged archive, one of another version's tables, and a target that is not empty
    unless `force` says so. The database is then as it was.
    """
    manifest = read_manifest(path)
    _check_tables(manifest)
    if not force and any(model._base_manager.exists() for model in TELLING):
        raise BackupFailed("the database is not empty; --force replaces everything in it")
    try:
        with checked_parts(path, manifest) as lines, transaction.atomic():
            _replace_all(lines)
    except (DatabaseError, DeserializationError) as error:
        raise BackupFailed(f"the rows could not be written, nothing was changed: {error}") from error
    return manifest


def _check_tables(manifest: Manifest) -> None:
    here, there = set(applied_migrations()), set(manifest.migrations)
    if here != there:
        differ = ", ".join(sorted(here ^ there))
        raise BackupFailed(
            f"the archive was made by version {manifest.version} with other tables ({differ}); restore it with that "
            "version of the hub, and upgrade then"
        )


def _replace_all(lines: dict[str, IO[bytes]]) -> None:
    ordered = table_models()
    for model in reversed(ordered):
        for field in model._meta.local_many_to_many:
            _empty(cast(type[models.Model], field.remote_field.through))
        _empty(model)
    for model in ordered:
        rows = _rows(lines.get(model._meta.label_lower, ()))
        while batch := list(islice(rows, WRITE_ROWS)):
            _insert(model, batch)
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), ordered):
            cursor.execute(statement)
    connection.check_constraints()


def _empty(model: type[models.Model]) -> None:
    model._base_manager.all()._raw_delete(connection.alias)


def _rows(lines: Iterable[bytes]) -> Iterator[DeserializedObject]:
    yield from serializers.deserialize("jsonl", (line.decode() for line in lines))


def _insert(model: type[models.Model], rows: list[DeserializedObject]) -> None:
    model._base_manager.bulk_create(row.object for row in rows)
    for row in rows:
        for name, related in (row.m2m_data or {}).items():
            getattr(row.object, name).set(related)
