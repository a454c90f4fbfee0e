from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from chat.archive_writer import purge_expired
from chat.models import Session

# A transaction each, so that a running hub's turns find a place between them.
BATCH = 1_000
MAX_DAYS = 36_500


class Command(BaseCommand):
    help = "Delete sessions from the archive that expired long ago; the figures of their turns stay."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--days",
            type=int,
            default=settings.HUB_ARCHIVE_DAYS,
            help="keep what expired in the last so many days (default: HUB_ARCHIVE_DAYS, %(default)s)",
        )
        parser.add_argument("--dry-run", action="store_true", help="only tell how many it would be")

    def handle(self, *args: Any, days: int, dry_run: bool, **options: Any) -> None:
        if not 0 <= days <= MAX_DAYS:
            raise CommandError(f"--days is a number of 0 to {MAX_DAYS}")
        before = timezone.now() - timedelta(days=days)
        if dry_run:
            count = Session.objects.filter(expires_at__lt=before).count()
            self.stdout.write(f"would delete {count} sessions that expired more than {days} days ago")
            return
        count = 0
        while deleted := purge_expired(before, BATCH):
            count += deleted
        self.stdout.write(f"deleted {count} sessions that expired more than {days} days ago")
