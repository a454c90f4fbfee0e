from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from chat.keys import revoke_key
from chat.management.commands.create_key import one_key


class Command(BaseCommand):
    help = "End an API key for good; running hubs refuse it within a second."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("key", metavar="PREFIX_OR_NAME", help="the key, as the admin's list shows it")

    def handle(self, *args: Any, key: str, **options: Any) -> None:
        try:
            found = one_key(key)
            revoke_key(found)
        except DatabaseError as error:
            raise CommandError(f"the database can't be used ({error})") from error
        self.stdout.write(f"Key {found.name!r} ({found.prefix}...) of owner {found.owner!r} is revoked.")
