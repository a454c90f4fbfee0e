"""The note by which programs of the same user find the running hub: `hub.json` in the data folder.

It holds the machine's own key, so it is readable to its owner only, and believed only if it is. Standard library only:
the bridge starts with it.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILE = "hub.json"
OTHERS = 0o077
MOST_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub: its address without a path, a key it takes, its process and its version."""

    url: str
    key: str = field(repr=False)
    pid: int
    version: str


def write_discovery(folder: Path, hub: Hub) -> None:
    """Let the note appear, or replace an older one, complete. Raises OSError."""
    draft = folder / f"{FILE}.{os.getpid()}"
    draft.unlink(missing_ok=True)  # of a process that had this number before
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(hub), file)
    draft.replace(folder / FILE)


def read_discovery(folder: Path) -> Hub | None:
    """The hub that runs on this folder; None if there is none, or nothing that can be believed."""
    hub = _read(folder / FILE)
    return hub if hub is not None and _is_running(hub.pid) else None


def has_discovery(folder: Path) -> bool:
    """Whether a hub has left its note here, though it may have ended since."""
    return (folder / FILE).is_file()


def remove_discovery(folder: Path) -> None:
    """Take back this process's own note; another hub's stays."""
    hub = _read(folder / FILE)
    if hub is not None and hub.pid == os.getpid():
        (folder / FILE).unlink(missing_ok=True)


def _read(path: Path) -> Hub | None:
    try:
        # No link is followed, no pipe waited for: who may make those here must not choose what is read.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s is left aside: %s", path, error.strerror)
        return None
    try:
        reason = _objection(os.fstat(handle))
        hub = None if reason else _parse(os.read(handle, MOST_BYTES))
    finally:
        os.close(handle)
    if hub is None:
        logger.warning("%s is left aside: %s", path, reason or "it is no hub's note")
    return hub


def _objection(status: os.stat_result) -> str:
    """Why something with this status is not to be believed, empty if it is."""
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_uid != os.geteuid():
        return "it belongs to another user"
    if status.st_mode & OTHERS:
        return "other users can read or change it (chmod 600 it, or let the hub write it anew)"
    return ""


def _parse(text: bytes) -> Hub | None:
    known: Any = None
    with suppress(ValueError, RecursionError):
        known = json.loads(text)
    match known:
        case {"url": str(url), "key": str(key), "pid": int(pid), "version": str(version)} if pid > 0 and is_key(key):
            return Hub(url, key, pid, version)
    return None


def is_key(text: str) -> bool:
    """Whether a header can carry it."""
    return text.isascii() and text.isprintable()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):  # gone; or another user's by now, who is not the note's writer
        return False
    return True
