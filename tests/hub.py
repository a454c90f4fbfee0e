"""A real hub as a child process, for tests that go through its front door and for the benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psutil

from hubsite.redis_keeper import socket_path

ROOT = Path(__file__).resolve().parent.parent
# What the hub command does before it serves, for a server that only serves.
PREPARE = """
from hubsite.asgi import settings
from hubsite.first_run import ensure_local_key, prepare_data_folder
prepare_data_folder(settings.HUB_DATA_DIR)
ensure_local_key(settings.HUB_DATA_DIR)
"""
REDIS = ("redis_keeper.py", "valkey-server", "redis-server")
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def clean_env(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """What a hub under test may see: nothing of the environment the tests run in but the PATH."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **extra}


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; an orphan whose new parent takes its time with the last rites has, too."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class HubProcess:
    """`manage.py hub` (or uvicorn with the same application) on a data folder of its own."""

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None, server: str = "daphne") -> None:
        self.data_dir = folder / "data"
        self.home = folder / "home"
        self.log = folder / "hub.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = server
        self._env = clean_env(self.home, {"HUB_DATA_DIR": str(self.data_dir), **(env or {})})
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def key(self) -> str:
        """The machine's own API key, made on the first run."""
        return (self.data_dir / "local.key").read_text().strip()

    @property
    def environ(self) -> dict[str, str]:
        """What the hub sees, and what a program on its data folder has to."""
        return dict(self._env)

    @property
    def redis_url(self) -> str:
        return self._env.get("REDIS_URL") or f"unix://{quote(str(socket_path(self.data_dir / 'redis')))}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def run(self, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A management command on the same data folder."""
        return self.run_program(sys.executable, "manage.py", *argv, timeout_s=timeout_s)

    def run_program(self, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Any program with the hub's environment, in the checkout."""
        return subprocess.run(
            argv,
            cwd=ROOT,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def begin_program(self, *argv: str) -> subprocess.Popen[bytes]:
        """Likewise, and do not wait for its end."""
        return subprocess.Popen(argv, cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL)

    def start(self, *, bind: str = "") -> None:
        self.home.mkdir(exist_ok=True, parents=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self._argv(bind or f"127.0.0.1:{self.port}"),
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def _argv(self, bind: str) -> list[str]:
        if self._server == "daphne":
            return [sys.executable, "manage.py", "hub", "--bind", bind]
        # uvicorn prepares no data folder: that is the hub command's part.
        prepared = self.run_program(sys.executable, "-c", PREPARE)
        assert prepared.returncode == 0, prepared.stderr
        return [sys.executable, "-m", "uvicorn", "hubsite.asgi:application", "--port", str(self.port)]

    def _wait_until_ready(self) -> None:
        ends_at = time.monotonic() + READY_TIMEOUT_S
        mark = "is ready at" if self._server == "daphne" else "Application startup complete"
        while mark.encode() not in self.log.read_bytes()[self._log_start :]:
            if self.process is None or self.process.poll() is not None or time.monotonic() > ends_at:
                raise AssertionError(f"the hub did not get ready:\n{self.log.read_text()}")
            time.sleep(0.02)

    def children(self) -> list[psutil.Process]:
        """All processes below the hub, however deep."""
        return psutil.Process(self.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """Those of them that serve turns: all but the private Redis server and its keeper."""
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end meanwhile
                if not any(mark in " ".join(child.cmdline()) for mark in REDIS):
                    found.append(child)
        return found

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the hub and wait for its end; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def running_hub(folder: Path, *, env: Mapping[str, str] | None = None, server: str = "daphne") -> Iterator[HubProcess]:
    """A hub that is ready, ended with the block whatever happens in it."""
    hub = HubProcess(folder, env=env, server=server)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()
