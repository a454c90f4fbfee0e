from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from hubsite.backup import BackupFailed, write_backup


class Command(BaseCommand):
    help = "Write the database into one file, while hubs go on. It holds conversations in plain text: keep it safe."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the archive to make, such as hub.tar.gz; never overwritten")
        parser.add_argument(
            "--with-secret-key", action="store_true", help="also Django's secret, so that admin's logins go on"
        )

    def handle(self, *args: Any, file: Path, with_secret_key: bool, **options: Any) -> None:
        # A timer that stops it must not leave conversations in a half-made file.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            manifest = write_backup(file, with_secret=with_secret_key)
        except (BackupFailed, DatabaseError, OSError) as error:
            raise CommandError(f"no backup was made: {error}") from error
        rows = sum(part.rows for part in manifest.parts)
        self.stdout.write(f"{file}: {rows} rows of {len(manifest.parts)} tables, {file.stat().st_size} bytes, verified")
