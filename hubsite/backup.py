"""The whole database in one file that restores into SQLite and PostgreSQL alike, whichever it came from.

A tar.gz, readable by its owner alone: `manifest.json` (what it was made by, the state of the tables, how many rows and
which SHA-256 each part has) and one file of JSON lines per table. Left out are login sessions of admin, what Django
makes by itself, and all of Redis: conversations are in the archive's tables, and are rebuilt from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import orjson
from django.apps import apps
from django.conf import settings
from django.core import serializers
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from pydantic import TypeAdapter

FORMAT = 1
MANIFEST = "manifest.json"
SECRET = "secret.key"  # noqa: S105 (a file's name)
# Of a table's apps: what callers, conversations, providers and administrators are.
APPS = ("auth", "admin", "chat", "providers")
# Made by `migrate` on every database, and named by their natural keys where others refer to them.
LEFT_OUT = {"auth.permission"}
READ_ROWS = 2_000


class BackupFailed(Exception):
    """The archive can't be made, or is not what it should be; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table's file in the archive."""

    model: str
    rows: int
    sha256: str

    @property
    def file(self) -> str:
        return f"tables/{self.model}.jsonl"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the archive says of itself. `migrations` are those that had made its tables."""

    version: str
    made_at: str
    database: str
    migrations: list[str]
    parts: list[Part]
    has_secret: bool
    format: int = FORMAT


MANIFESTS: TypeAdapter[Manifest] = TypeAdapter(Manifest)


class Exact(DjangoJSONEncoder):
    """Times to the microsecond: Django's own ends at milliseconds."""

    def default(self, o: Any) -> Any:
        return o.isoformat() if isinstance(o, datetime) else super().default(o)


def table_models() -> list[type[models.Model]]:
    """What is kept, in an order in which rows only refer to rows before them."""
    kept = [
        (apps.get_app_config(label), [it for it in apps.get_app_config(label).get_models() if _is_kept(it)])
        for label in APPS
    ]
    return serializers.sort_dependencies(kept, allow_cycles=True)


def _is_kept(model: type[models.Model]) -> bool:
    return model._meta.label_lower not in LEFT_OUT and not model._meta.proxy and model._meta.managed


def applied_migrations() -> list[str]:
    """Of the apps whose tables are kept."""
    applied = MigrationRecorder(connection).applied_migrations()
    return sorted(f"{app}.{name}" for app, name in applied if app in APPS)


def write_backup(path: Path, *, with_secret: bool) -> Manifest:
    """Write the archive and read it back. Hubs go on meanwhile: it holds one moment of the database.

    Raises BackupFailed, and FileExistsError for a file that is there already. A failure leaves no file.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already")
    if not applied_migrations():
        raise BackupFailed("the database has no tables yet: there is nothing to keep")
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".backup-") as work:
        draft = Path(work) / "draft"
        manifest = _write(draft, Path(work), with_secret=with_secret)
        with checked_parts(draft, read_manifest(draft)):
            pass
        os.link(draft, path)  # refuses what has come there meanwhile, and appears complete
    return manifest


def _write(draft: Path, work: Path, *, with_secret: bool) -> Manifest:
    with one_moment():
        parts = [_write_table(model, work) for model in table_models()]
        migrations = applied_migrations()
    manifest = Manifest(
        version=settings.VERSION,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        database=connection.vendor,
        migrations=migrations,
        parts=parts,
        has_secret=with_secret,
    )
    (work / MANIFEST).write_bytes(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(work / MANIFEST, MANIFEST, filter=_private)
        for part in parts:
            archive.add(work / part.model, part.file, filter=_private)
        if with_secret:
            archive.add(_secret_file(work), SECRET, filter=_private)
    return manifest


def _private(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Unpacked by hand it is still its owner's alone."""
    member.mode = 0o600
    return member


@contextlib.contextmanager
def one_moment() -> Iterator[None]:
    """All that is read within is of one moment; writers are not kept waiting."""
    if connection.vendor == "sqlite":
        # Not Django's transaction: that one would take the lock for writing.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _write_table(model: type[models.Model], work: Path) -> Part:
    label, rows, digest = model._meta.label_lower, 0, hashlib.sha256()
    everything: Any = model._base_manager.order_by("pk").iterator(chunk_size=READ_ROWS)
    # Closed before the transaction, also where the disk is full.
    with contextlib.closing(everything), (work / label).open("wb") as file:
        for row in everything:
            line = serializers.serialize("jsonl", [row], use_natural_foreign_keys=True, cls=Exact).encode()
            digest.update(line)
            file.write(line)
            rows += 1
    return Part(label, rows, digest.hexdigest())


def _secret_file(work: Path) -> Path:
    path = work / SECRET
    path.write_text(settings.SECRET_KEY)
    return path


def read_manifest(path: Path) -> Manifest:
    """Raises BackupFailed where the file is no backup of this format."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            given = orjson.loads(_member(archive, MANIFEST).read())
        if given["format"] != FORMAT:
            raise BackupFailed(f"{path} has format {given['format']}; this hub reads {FORMAT}")
        return MANIFESTS.validate_python(given)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise BackupFailed(f"{path} is no backup of this hub, or is damaged: {error}") from error


@contextlib.contextmanager
def checked_parts(path: Path, manifest: Manifest) -> Iterator[dict[str, IO[bytes]]]:
    """Every table's lines by its model, once all are found to be what was written. Raises BackupFailed."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            if manifest.has_secret:
                _member(archive, SECRET)
            for part in manifest.parts:
                digest = hashlib.file_digest(cast(Any, _member(archive, part.file)), "sha256").hexdigest()
                if digest != part.sha256:
                    raise BackupFailed(f"{path} is damaged: {part.file} is not what was written")
            yield {part.model: _member(archive, part.file) for part in manifest.parts}
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BackupFailed(f"{path} is damaged: {error}") from error


def read_secret(path: Path) -> str:
    """Raises BackupFailed."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            return _member(archive, SECRET).read().decode()
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise BackupFailed(f"{path} is damaged: {error}") from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        member = archive.extractfile(name)
    except KeyError:
        member = None
    if member is None:
        raise BackupFailed(f"the archive lacks {name}")
    return member
