"""The client's two pipes: lines in, lines out, and a soon and orderly end whatever ends it."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from mcpbridge.bridge import Bridge
from mcpbridge.hub_client import Find, HubClient

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PARENT_LOOK_S = 2.0
BUFFER_BYTES = 65_536


def bridge(find: Find) -> NoReturn:
    """Serve the client on standard input and output until it leaves; ends the process."""
    logging.basicConfig(format="run_mcp: %(message)s", level=logging.WARNING)
    ending = Ending()
    wire = Wire(_take_stdout(), ending.announce)
    served = Bridge(HubClient(find), wire.tell)
    threading.Thread(target=_read, args=(served.take, ending.announce), name="read", daemon=True).start()
    ending.wait(wire.handle)
    served.end()
    # Threads that wait for a hub, or for a client that does not read, would hold up any other way to end.
    os._exit(0)


class Wire:
    """Standard output, a whole line at a time."""

    def __init__(self, handle: int, on_gone: Callable[[], None]) -> None:
        self.handle = handle
        self._on_gone = on_gone
        self._lock = threading.Lock()

    def tell(self, line: bytes) -> None:
        """Write one message, whose text ends or does not end with a newline."""
        left = memoryview(line.rstrip(b"\n") + b"\n")
        with self._lock:
            try:
                while left:
                    left = left[os.write(self.handle, left) :]
            except OSError:  # nobody reads any more
                self._on_gone()


class Ending:
    """Wakes the main thread when it is time to end: `announce`, a signal, a client or a parent that is gone.

    It goes through a pipe: a signal may reach any thread, and must not have to wait for a lock.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._hears, self._tells = os.pipe()
        os.set_blocking(self._tells, False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)  # the pipe is told by Python itself
        signal.set_wakeup_fd(self._tells, warn_on_full_buffer=False)

    def announce(self) -> None:
        with suppress(BlockingIOError):  # told often enough
            os.write(self._tells, b"\0")

    def wait(self, wire: int) -> None:
        """Until it is time; `wire` is where the client listens, if it does."""
        poll = select.poll()
        poll.register(self._hears, select.POLLIN)
        poll.register(wire, 0)  # tells of nothing but that the other end is closed
        while not poll.poll(PARENT_LOOK_S * 1_000):
            if os.getppid() != self._parent:
                return


def _take_stdout() -> int:
    """Standard output for the protocol alone: whatever else is printed goes to standard error."""
    handle = os.dup(1)
    os.dup2(2, 1)
    os.set_blocking(handle, True)  # a client may have left it otherwise, and a full pipe is no reason to end
    return handle


def _read(take: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
    try:
        os.set_blocking(0, True)
        with open(0, "rb", BUFFER_BYTES, closefd=False) as lines:
            for line in lines:
                take(line)
    except Exception:
        logging.getLogger(__name__).exception("reading the client's messages")
    finally:
        on_end()
