"""Count all turns anew for the dashboard's figures."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from chat.rollups import rebuild


class Command(BaseCommand):
    help = "Count all turns anew for the dashboard's figures by the hour. The hub may go on meanwhile."

    def handle(self, *args: Any, **options: Any) -> None:
        total = rebuild(self.stdout.write)
        self.stdout.write(self.style.SUCCESS(f"Counted {total:,} turns."))
