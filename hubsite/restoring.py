"""A backup back into the database, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from django.contrib.auth import get_user_model
from django.core import serializers
from django.core.management.color import no_style
from django.core.serializers.base import DeserializationError, DeserializedObject
from django.db import DatabaseError, connection, models, transaction

from chat.models import ApiKey, Session, TurnRecord
from hubsite.backup import BackupFailed, Manifest, applied_migrations, checked_parts, read_manifest, table_models

WRITE_ROWS = 1_000
# What lines that were made up or spoilt come to.
UNREADABLE = (DeserializationError, ValueError, TypeError, AttributeError, OverflowError)
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
            _replace_all(lines, {part.model: part.rows for part in manifest.parts})
    except (DatabaseError, *UNREADABLE) as error:
        # Of what it could not read the deserializer has only the cause to tell.
        why = str(error) or repr(error.__cause__ or error)
        raise BackupFailed(f"the rows could not be written, nothing was changed: {why}") from error
    return manifest


def _check_tables(manifest: Manifest) -> None:
    here, there = set(applied_migrations()), set(manifest.migrations)
    if here != there:
        differ = ", ".join(sorted(here ^ there))
        raise BackupFailed(
            f"the archive was made by version {manifest.version} with other tables ({differ}); restore it with that "
            "version of the hub, and upgrade then"
        )
    if lacking := {it._meta.label_lower for it in table_models()} - {part.model for part in manifest.parts}:
        raise BackupFailed(f"the archive is no whole backup: it lacks {', '.join(sorted(lacking))}")


def _replace_all(lines: dict[str, IO[bytes]], counts: dict[str, int]) -> None:
    ordered = table_models()
    for model in reversed(ordered):
        for field in model._meta.local_many_to_many:
            _empty(cast(type[models.Model], field.remote_field.through))
        _empty(model)
    for model in ordered:
        label, written = model._meta.label_lower, 0
        rows = _rows(model, lines[label])
        while batch := list(islice(rows, WRITE_ROWS)):
            _insert(model, batch)
            written += len(batch)
        if written != counts[label]:
            raise BackupFailed(f"the archive has {written} rows of {label}, and says {counts[label]}")
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), ordered):
            cursor.execute(statement)
    connection.check_constraints()


def _empty(model: type[models.Model]) -> None:
    model._base_manager.all()._raw_delete(connection.alias)


def _rows(model: type[models.Model], lines: Iterable[bytes]) -> Iterator[DeserializedObject]:
    for row in serializers.deserialize("jsonl", (line.decode() for line in lines)):
        if type(row.object) is not model:
            raise BackupFailed(f"a row of {row.object._meta.label_lower} is among those of {model._meta.label_lower}")
        yield row


def _insert(model: type[models.Model], rows: list[DeserializedObject]) -> None:
    """As they were: `bulk_create` would put the present time into what keeps the time of a change."""
    columns, objects = model._meta.local_concrete_fields, [row.object for row in rows]
    size = connection.ops.bulk_batch_size(columns, objects) or len(objects)
    manager: Any = model._base_manager
    for start in range(0, len(objects), size):
        manager._insert(objects[start : start + size], fields=columns, raw=True)
    for row in rows:
        for name, related in (row.m2m_data or {}).items():
            getattr(row.object, name).set(related)
