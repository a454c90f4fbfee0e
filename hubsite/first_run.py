"""What a fresh data folder gets: tables, an admin user, the machine's own API key."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import call_command

from chat.key_ring import is_good_key
from chat.keys import active_keys, create_key, revoke_key

LOCAL_KEY_NAME = "this machine"


def prepare_data_folder(folder: Path) -> None:
    """Make the folder its owner's alone, then migrate."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    call_command("migrate", verbosity=0, interactive=False)


def ensure_local_key(folder: Path) -> Path:
    """The file with the machine's own key; a lost file gets a new key, and the old one is revoked with it."""
    path = folder / "local.key"
    if path.exists() and is_good_key(path.read_text().strip()):
        return path
    for key in active_keys(LOCAL_KEY_NAME):
        revoke_key(key)
    write_secret(path, create_key(LOCAL_KEY_NAME))
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
