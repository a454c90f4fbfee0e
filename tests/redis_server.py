"""A Redis server of a test's own, for hubs with REDIS_URL: the private server's program without its keeper."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from hubsite.private_redis import find_server
from hubsite.redis_keeper import server_options
from tests.hub import free_port

READY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0


class RedisServer:
    """Append-only like the private one, so that its data survives `kill` and `restart`."""

    def __init__(self, folder: Path, *, port: int | None = None, extra: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port() if port == 0 else port
        self.log = folder / "server.log"
        self._extra = tuple(extra)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self.port is None:
            return f"unix://{quote(str(self.folder / 'redis.sock'))}"
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        argv = [str(find_server()), *self._options(), *self._extra]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_until_ready()

    def _options(self) -> list[str]:
        if self.port is None:
            return server_options(self.folder, port="0", unixsocket=str(self.folder / "redis.sock"))
        return server_options(self.folder, port=str(self.port), bind="127.0.0.1")

    def _wait_until_ready(self) -> None:
        ends_at = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > ends_at:
                raise AssertionError(f"the Redis server did not get ready:\n{self.log.read_text()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url, socket_timeout=1, retry=None) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start again on the same address and data; a server that still runs is stopped before."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it from whatever state it is in."""
        self.kill()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # a paused one would not see anything but SIGKILL
            self._process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def running_redis(folder: Path, *, port: int | None = None, extra: Sequence[str] = ()) -> Iterator[RedisServer]:
    """A server that is ready, on a Unix socket or on a TCP port (0: a free one); ended with the block."""
    server = RedisServer(folder, port=port, extra=extra)
    try:
        server.start()
        yield server
    finally:
        server.close()
