"""Give the groups `viewers` and `operators` the permissions they came with."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from chat.roles import OPERATORS, VIEWERS, reset_role


class Command(BaseCommand):
    help = "Give the groups viewers and operators the permissions they came with, for example after an upgrade."

    def handle(self, *args: Any, **options: Any) -> None:
        for name in (VIEWERS, OPERATORS):
            reset_role(name)
        self.stdout.write(self.style.SUCCESS(f"Reset: {VIEWERS}, {OPERATORS}."))
