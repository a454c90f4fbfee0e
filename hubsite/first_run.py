"""What a fresh data folder gets: tables, an admin user, the machine's own API key."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection

from chat.key_ring import is_good_key
from chat.keys import active_keys, create_key, revoke_key

LOCAL_KEY_NAME = "this machine"
MAX_NAME = 100
# Any number that nobody else locks in the hub's database.
FIRST_RUN_LOCK = 0x_4C4C_4D48


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that share a data folder, and hubs that share a PostgreSQL, prepare them one after the other."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / "first-run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with _alone_in_the_database():
            yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone_in_the_database() -> Iterator[None]:
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [FIRST_RUN_LOCK])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [FIRST_RUN_LOCK])


def local_key_name(folder: Path) -> str:
    """Of this folder alone: other hubs may keep theirs in the same database."""
    return f"{LOCAL_KEY_NAME} ({socket.gethostname()}, {folder})"[:MAX_NAME]


def prepare_data_folder(folder: Path) -> None:
    """Make the folder its owner's alone, and whatever this process puts there, then migrate."""
    os.umask(0o077)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    call_command("migrate", verbosity=0, interactive=False)


def ensure_local_key(folder: Path) -> Path:
    """The file with the machine's own key; a lost file gets a new key, and the old one is revoked with it."""
    path = folder / "local.key"
    if path.exists() and is_good_key(path.read_text().strip()):
        return path
    name = local_key_name(folder)
    for key in active_keys(name):
        revoke_key(key)
    write_secret(path, create_key(name))
    return path


def ensure_admin(folder: Path) -> str:
    """Make the user `admin` if there is no superuser. Returns how to learn the password, empty if nobody was made.

    The password is shown on a terminal only; without one it goes to a file only the owner can read.
    """
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return ""
    password = secrets.token_urlsafe(12)
    if sys.stdout.isatty():
        users.create_superuser(username="admin", password=password)
        return f"user admin, password {password} (shown this once)"
    write_secret(folder / "admin.password", password)  # first: a user whose password is lost is worse than none
    users.create_superuser(username="admin", password=password)
    return f"user admin, password in {folder / 'admin.password'}"


def write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secret + "\n")
