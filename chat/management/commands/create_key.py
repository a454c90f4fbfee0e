from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chat.keys import create_key


class Command(BaseCommand):
    help = "Make an API key and print it once; it can't be shown again."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="what the key is for, for example n8n")
        parser.add_argument("--owner", default="default", help="keys of one owner share sessions")
        parser.add_argument("--quiet", action="store_true", help="print the key alone, for scripts")

    def handle(self, *args: Any, name: str, owner: str, quiet: bool, **options: Any) -> None:
        if not name.strip() or len(name) > 100 or not owner.strip() or len(owner) > 100:
            raise CommandError("name and owner are texts of 1 to 100 characters")
        key = create_key(name, owner=owner)
        if quiet:
            self.stdout.write(key)
            return
        self.stdout.write(f"Key {name!r} of owner {owner!r}, shown this once:\n{key}")
