"""Keeps the private Redis server of one data folder: starts it, restarts it, ends it with its last user.

Run by its file path, with the standard library alone: `python -I -S redis_keeper.py FOLDER LOCK COMMAND...`.
Three locks, all let go of by the kernel however their holder ends: `keeper.lock` comes with the keeper's start and
makes it the only one; `users.lock` is shared by every process that uses the folder, so that to get it alone is to
know that nobody is left; `server.lock` goes down to the server, so that no second one writes its files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from enum import Enum
from pathlib import Path

# macOS takes 103 bytes for a socket's path, Linux 107.
MAX_SOCKET_BYTES = 103
# Not tempfile's choice: that one follows TMPDIR, and all processes of a folder must come to the same path.
TEMP_FOLDER = Path("/tmp")  # noqa: S108
MAX_LOG_BYTES = 1_000_000
# Time enough to write what is in memory to the file; the append-only file loses nothing by a kill after that.
STOP_GRACE_S = 3.0
# How long an earlier server, whose keeper was killed, may take to end.
TAKEOVER_S = 5.0
ASK_TIMEOUT_S = 0.5
POLL_S = 0.02
# A server that lived longer worked: its end begins a new count of failures.
QUICK_END_S = 2.0
MAX_FAILURES = 6
# Before starts 2 to 6: 0.05, 0.15, 0.35, 0.75 and 1.55 s.
PAUSE_STEP_S = 0.05
# One refusal may have a passing cause; the data is blamed after the second.
REFUSALS_BEFORE_EMPTY = 2
MOST_ASIDE = 3  # unreadable data is worth keeping for whoever may mend it, but not without end


def socket_path(folder: Path) -> Path:
    """Where the server of a data folder listens; a path too long for a socket moves to the temp folder."""
    folder = folder.resolve()
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return TEMP_FOLDER / f"llm-mcp-hub-{os.getuid()}-{digest}" / "redis.sock"


def is_trusted(path: Path, folder: Path) -> bool:
    """Whether nobody else can have put the socket there: anyone may make a folder in the temp folder."""
    if path.parent == folder.resolve():
        return True
    try:
        found = path.parent.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def ask(folder: Path, command: bytes) -> bytes:
    """The first words a folder's server has for a command, empty if it has none."""
    path = socket_path(folder)
    if not is_trusted(path, folder):
        return b""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(ASK_TIMEOUT_S)
        try:
            connection.connect(os.fsencode(path))
            connection.sendall(command + b"\r\n")
            return connection.recv(256)
        except OSError:
            return b""


def try_lock(path: Path, kind: int) -> int | None:
    """An open file that holds the lock, None while somebody else does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def server_options(folder: Path, **address: str) -> list[str]:
    options = {
        **address,
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


class Event(Enum):
    """What a keeper waits for."""

    USERS_GONE = 1
    SERVER_ENDED = 2


class Keeper:
    """One server at a time. `command` is the server's program, behind what makes it die with its parent."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._folder = folder
        self._command = command
        self._socket = socket_path(folder)
        self._aside: Path | None = None  # where data that can't be read was put by this keeper
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._server: subprocess.Popen[bytes]
        self._failures = 0
        self._refusals = 0

    def run(self) -> bool:
        """Returns False when the server can't be made to run."""
        users = os.open(self._folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        threading.Thread(target=self._watch_users, args=(users,), daemon=True).start()
        while self._failures < MAX_FAILURES:
            if self._users_leave_in_a_pause():
                return True
            started_at = time.monotonic()
            self._start_server()
            if self._events.get() is Event.USERS_GONE:
                self._stop_server()
                return True
            self._count_end(time.monotonic() - started_at)
        log(f"gave up after {MAX_FAILURES} starts")
        return False

    def close(self) -> None:
        if not is_trusted(self._socket, self._folder):
            return
        self._socket.unlink(missing_ok=True)
        if self._socket.parent != self._folder:
            self._socket.parent.rmdir()

    def _watch_users(self, users: int) -> None:
        # Not let go of before this process ends: a newcomer has to wait until the server is gone.
        fcntl.flock(users, fcntl.LOCK_EX)
        self._events.put(Event.USERS_GONE)

    def _users_leave_in_a_pause(self) -> bool:
        try:
            self._events.get(timeout=PAUSE_STEP_S * (2**self._failures - 1))
        except queue.Empty:
            return False
        return True  # while no server runs, none can end

    def _watch_server(self) -> None:
        self._server.wait()
        self._events.put(Event.SERVER_ENDED)

    def _start_server(self) -> None:
        # By this thread, which lives as long as the keeper: the parent-death signal follows the thread.
        open_log(self._folder)
        lock = self._take_server_lock()
        for left_over in self._folder.glob("temp-*"):
            left_over.unlink()  # a rewrite that was killed with its server leaves a file of any size
        self._prepare_socket_folder()
        options = server_options(self._folder, port="0", unixsocket=str(self._socket), unixsocketperm="700")
        self._server = subprocess.Popen([*self._command, *options], pass_fds=(lock,))  # noqa: S603
        os.close(lock)
        threading.Thread(target=self._watch_server, daemon=True).start()

    def _take_server_lock(self) -> int:
        # Where there is no parent-death signal, the server of a killed keeper lives on and has to be asked to leave.
        ends_at = time.monotonic() + TAKEOVER_S
        while (lock := try_lock(self._folder / "server.lock", fcntl.LOCK_EX)) is None:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"an earlier server did not end within {TAKEOVER_S:.0f} s")
            ask(self._folder, b"SHUTDOWN NOSAVE")
            time.sleep(POLL_S)
        return lock

    def _prepare_socket_folder(self) -> None:
        if self._socket.parent != self._folder:
            self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        if not is_trusted(self._socket, self._folder):
            raise PermissionError(f"{self._socket.parent} is not a private folder of this user")

    def _stop_server(self) -> None:
        self._server.terminate()
        try:
            self._events.get(timeout=STOP_GRACE_S)
        except queue.Empty:
            log(f"the server did not end within {STOP_GRACE_S:.0f} s and was killed")
            self._server.kill()
            self._server.wait()

    def _count_end(self, lived_s: float) -> None:
        code = self._server.returncode
        log(f"the server ended with code {code} after {lived_s:.1f} s")
        # A server that can't use its files says so by its exit code; what was done to a good one shows as a signal.
        refused = code > 0
        self._failures = self._failures + 1 if refused or lived_s < QUICK_END_S else 0
        self._refusals = self._refusals + 1 if refused else 0
        if self._refusals == REFUSALS_BEFORE_EMPTY:
            self._set_data_aside()
        elif self._aside is not None and self._refusals > REFUSALS_BEFORE_EMPTY:
            self._put_data_back(self._aside)

    def _set_data_aside(self) -> None:
        found = list(self._folder.glob("appendonly*"))
        if not found:
            return
        earlier = sorted(self._folder.glob("set-aside-*"))
        for path in earlier[: len(earlier) + 1 - MOST_ASIDE]:
            shutil.rmtree(path, ignore_errors=True)
        self._aside = self._folder / f"set-aside-{time.time_ns()}"
        self._aside.mkdir(mode=0o700)
        for path in found:
            path.rename(self._aside / path.name)
        log(f"WARNING: the server can't read its data; it starts empty, the data is kept in {self._aside}")

    def _put_data_back(self, aside: Path) -> None:
        for path in aside.glob("appendonly*"):
            shutil.rmtree(self._folder / path.name, ignore_errors=True)
            path.rename(self._folder / path.name)
        aside.rmdir()
        self._aside = None
        log("without its data the server does not start either; the data is put back")


def log(text: str) -> None:
    sys.stderr.write(f"{os.getpid()}:keeper {time.strftime('%d %b %Y %H:%M:%S')} {text}\n")
    sys.stderr.flush()


def log_path(folder: Path) -> Path:
    return folder / "redis.log"


def open_log(folder: Path) -> None:
    """Send this process' output, and its server's, to the log; a long log makes room for a new one."""
    path = log_path(folder)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, sys.stdout.fileno())
    os.dup2(handle, sys.stderr.fileno())
    os.close(handle)


def main(folder: Path, lock: int, command: list[str]) -> int:
    # A service manager sends its signal to all processes at once; the hub needs Redis to finish its running turns.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    os.umask(0o077)
    os.set_inheritable(lock, False)
    keeper = Keeper(folder, command)
    try:
        ended_well = keeper.run()
        keeper.close()
        return 0 if ended_well else 1
    except OSError as error:
        log(f"gave up: {error}")
        return 1
    finally:
        # Before users.lock goes: whoever waits for that one starts the next keeper at once.
        os.close(lock)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
