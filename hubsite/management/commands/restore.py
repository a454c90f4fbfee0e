from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from redis import Redis, RedisError

from hubsite.backup import BackupFailed, checked_parts, read_manifest, read_secret
from hubsite.first_run import one_at_a_time, prepare_data_folder, write_secret
from hubsite.lock import DataFolderLock, DataFolderTaken
from hubsite.private_redis import PrivateRedis, PrivateRedisFailed
from hubsite.restoring import restore_backup

# What the vendors said of their limits is true whatever the database says.
KEPT_KEYS = b"hub:provider:"
KEYS_AT_A_TIME = 1_000


class Command(BaseCommand):
    help = "Put a backup in the place of the database. No hub may run on it: here that is checked, elsewhere see to it."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="what `backup` made")
        parser.add_argument("--force", action="store_true", help="replace what is there, instead of refusing")
        parser.add_argument("--check", action="store_true", help="only say whether the file is whole; change nothing")

    def handle(self, *args: Any, file: Path, force: bool, check: bool, **options: Any) -> None:
        try:
            if check:
                self._check(file)
            else:
                self._restore(file, force=force)
        except (BackupFailed, DataFolderTaken, PrivateRedisFailed, DatabaseError, RedisError, OSError) as error:
            raise CommandError(str(error)) from error

    def _check(self, file: Path) -> None:
        manifest = read_manifest(file)
        with checked_parts(file, manifest):
            pass
        rows = sum(part.rows for part in manifest.parts)
        self.stdout.write(f"{file} is whole: {rows} rows, made at {manifest.made_at} by version {manifest.version}")

    def _restore(self, file: Path, *, force: bool) -> None:
        manifest = read_manifest(file)
        secret = read_secret(file) if manifest.has_secret else ""  # before anything is changed
        lock = DataFolderLock(settings.HUB_DATA_DIR)
        lock.take()
        try:
            with one_at_a_time(settings.HUB_DATA_DIR), _redis() as redis:
                prepare_data_folder(settings.HUB_DATA_DIR)
                restore_backup(file, force=force)
                _forget_conversations(redis)
            if secret:
                write_secret(settings.HUB_DATA_DIR / "secret.key", secret)
        finally:
            lock.release()
        rows = sum(part.rows for part in manifest.parts)
        self.stdout.write(f"restored {rows} rows, as they were at {manifest.made_at}")


@contextlib.contextmanager
def _redis() -> Iterator[Redis]:
    private = None if settings.HUB_REDIS_URL else PrivateRedis(settings.HUB_PRIVATE_REDIS_DIR)
    if private is not None:
        private.attach()
    try:
        with Redis.from_url(settings.HUB_REDIS_LOCATION) as redis:
            redis.ping()
            yield redis
    finally:
        if private is not None:
            private.detach()


def _forget_conversations(redis: Redis) -> None:
    """What Redis holds belongs to the database that was replaced; sessions are rebuilt from the new one."""
    for key in redis.scan_iter(match="hub:*", count=KEYS_AT_A_TIME):
        if not key.startswith(KEPT_KEYS):
            redis.delete(key)
