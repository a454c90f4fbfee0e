from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, connection

from hubsite.first_run import ensure_admin, ensure_local_key, one_at_a_time, prepare_data_folder
from hubsite.greeting import greeting
from hubsite.lock import DataFolderLock, DataFolderTaken
from mcpbridge.discovery import Hub, remove_discovery, write_discovery
from providers import runtime

# The address to call a hub that listens on all of them.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing is bound here)


class Command(BaseCommand):
    help = "Run the hub: prepare the data folder, start the providers, serve until a signal."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--bind", default="127.0.0.1:8000", help="address:port to listen on (port 0 picks one)")

    def handle(self, *args: Any, bind: str, **options: Any) -> None:
        host, port = _address(bind)
        lock = DataFolderLock(settings.HUB_DATA_DIR)
        try:
            lock.take()
        except (DataFolderTaken, OSError) as error:
            raise CommandError(str(error)) from error
        local_key, admin = _prepare(settings.HUB_DATA_DIR)
        if admin:
            # Now, not in the greeting: a password shown once must not be lost because the port is taken.
            self.stdout.write(f"Made an admin: {admin}")
        # Who binds to an address means to be called by it; host names are HUB_ALLOWED_HOSTS' business.
        shown = _in_url(ANY_ADDRESS.get(host, host))
        settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, shown]

        def on_ready(bound_port: int) -> None:
            url = f"http://{shown}:{bound_port}"
            write_discovery(
                settings.HUB_DATA_DIR, Hub(url, local_key.read_text().strip(), os.getpid(), settings.VERSION)
            )
            self.stdout.write(greeting(runtime.engine(), url=url, local_key=local_key))
            self.stdout.flush()

        from hubsite.serve import serve  # late: it installs an event loop, which no other command needs

        failure = serve(host=host, port=port, on_ready=on_ready)
        remove_discovery(settings.HUB_DATA_DIR)
        if failure:
            raise CommandError(f"the hub can't serve on {bind}: {failure}")


def _prepare(folder: Path) -> tuple[Path, str]:
    """The file with the machine's own key, and how to learn an admin's password if one was made."""
    try:
        with one_at_a_time(folder):
            prepare_data_folder(folder)
            return ensure_local_key(folder), ensure_admin(folder)
    except (OperationalError, InterfaceError) as error:
        raise CommandError(f"the database can't be used: {_told(error)}") from error


def _told(error: Exception) -> str:
    """A driver's words on one line, without the password should it quote that."""
    password = str(connection.settings_dict.get("PASSWORD") or "")
    words = str(error).replace(password, "***") if password else str(error)
    return " ".join(words.split())


def _address(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise CommandError(f"--bind wants address:port, for example 127.0.0.1:8000, not {bind!r}")
    return host.strip("[]"), int(port)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
