"""Lines out of a pipe: no asyncio limit of 64 KiB, yet bounded in every direction."""

from __future__ import annotations

import asyncio
from collections import deque

# The pipe is not read further while this much is waiting, so a flood stays in the child.
HIGH_WATER_BYTES = 1024 * 1024
# What a line costs beside its text, so that a flood of empty ones is bounded too.
LINE_OVERHEAD_BYTES = 64


class LineBuffer:
    """Splits a byte stream into lines for one reader."""

    def __init__(self, max_line_bytes: int) -> None:
        self.max_line_bytes = max_line_bytes
        self.is_broken = False
        self.is_paused = False
        self._pipe: asyncio.ReadTransport | None = None
        self._lines: deque[bytes] = deque()
        self._partial = bytearray()
        self._held_bytes = 0
        self._is_closed = False
        self._reader: asyncio.Future[None] | None = None

    def attach(self, pipe: asyncio.ReadTransport) -> None:
        """Name the pipe that is to be paused when nobody reads."""
        self._pipe = pipe

    def feed(self, data: bytes) -> None:
        first, *others = data.split(b"\n")
        self._partial += first
        for part in others:
            self._complete()
            self._partial += part
        if len(self._partial) > self.max_line_bytes:
            self._break()
        self._pause_if_full()
        self._wake()

    def close(self) -> None:
        """No more data will come. What is no whole line by now is dropped."""
        self._is_closed = True
        self.is_paused = False
        self._wake()

    async def next(self) -> bytes | None:
        """The next line; None once the stream has ended or broken."""
        while not self._lines:
            if self._is_closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        line = self._lines.popleft()
        self._held_bytes -= len(line) + LINE_OVERHEAD_BYTES
        self._resume_if_drained()
        return line

    def _complete(self) -> None:
        if len(self._partial) > self.max_line_bytes:
            self._break()
        elif not self.is_broken:
            self._lines.append(bytes(self._partial))
            self._held_bytes += len(self._partial) + LINE_OVERHEAD_BYTES
        self._partial.clear()

    def _break(self) -> None:
        self.is_broken = self._is_closed = True
        self._partial.clear()

    def _pause_if_full(self) -> None:
        if self._pipe is not None and not self.is_paused and self._held_bytes > HIGH_WATER_BYTES:
            self._pipe.pause_reading()
            self.is_paused = True

    def _resume_if_drained(self) -> None:
        if self._pipe is not None and self.is_paused and self._held_bytes < HIGH_WATER_BYTES // 2:
            self.is_paused = False
            self._pipe.resume_reading()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
