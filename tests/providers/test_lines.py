from __future__ import annotations

import asyncio

import pytest

from providers.lines import HIGH_WATER_BYTES, LINE_OVERHEAD_BYTES, LineBuffer
from tests.providers.fakes import BOUND_S, turn_over


class FakePipe(asyncio.ReadTransport):
    """Remembers whether it is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def rests(self) -> bool:
        return self.is_paused


def buffer(*, max_line_bytes: int = HIGH_WATER_BYTES) -> tuple[LineBuffer, FakePipe]:
    lines, pipe = LineBuffer(max_line_bytes), FakePipe()
    lines.attach(pipe)
    return lines, pipe


async def read_all(lines: LineBuffer) -> list[bytes]:
    async with asyncio.timeout(BOUND_S):
        found = []
        while (line := await lines.next()) is not None:
            found.append(line)
        return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_lines_are_the_same_however_the_bytes_arrive(size: int) -> None:
    data = b"first\n\nthird \xc3\xa4\r\nx\n"
    lines, _ = buffer()
    for start in range(0, len(data), size):
        lines.feed(data[start : start + size])
    lines.close()
    assert await read_all(lines) == [b"first", b"", b"third \xc3\xa4\r", b"x"]


async def test_a_reader_gets_its_line_as_soon_as_it_is_whole() -> None:
    lines, _ = buffer()
    reader = asyncio.create_task(lines.next())
    await turn_over()
    lines.feed(b"hel")
    await turn_over()
    assert not reader.done()
    lines.feed(b"lo\n")
    assert await asyncio.wait_for(reader, BOUND_S) == b"hello"


async def test_the_end_of_the_stream_wakes_a_waiting_reader() -> None:
    lines, _ = buffer()
    reader = asyncio.create_task(lines.next())
    await turn_over()
    lines.close()
    assert await asyncio.wait_for(reader, BOUND_S) is None


async def test_whole_lines_are_still_read_after_the_end_and_a_cut_one_is_dropped() -> None:
    lines, _ = buffer()
    lines.feed(b"one\ntwo\nthr")
    lines.close()
    assert await read_all(lines) == [b"one", b"two"]


async def test_a_reader_that_was_cancelled_loses_no_line() -> None:
    lines, _ = buffer()
    reader = asyncio.create_task(lines.next())
    await turn_over()
    reader.cancel()
    lines.feed(b"kept\n")
    await asyncio.wait([reader])
    assert await lines.next() == b"kept"


@pytest.mark.parametrize("data", [b"12345678901", b"1234567890\n", b"12345", b"1\n12345678901\n2\n"])
async def test_a_line_over_the_limit_breaks_the_stream(data: bytes) -> None:
    lines, _ = buffer(max_line_bytes=10)
    lines.feed(data)
    assert lines.is_broken is (b"12345678901" in data)


async def test_a_line_that_grows_over_the_limit_piece_by_piece_breaks_the_stream() -> None:
    lines, _ = buffer(max_line_bytes=10)
    for _ in range(11):
        assert not lines.is_broken
        lines.feed(b"x")
    assert lines.is_broken


async def test_lines_before_the_broken_one_are_delivered_and_none_after_it() -> None:
    lines, _ = buffer(max_line_bytes=10)
    lines.feed(b"good\n" + b"x" * 11 + b"\nlate\n")
    lines.feed(b"later\n")
    assert await read_all(lines) == [b"good"]


async def test_a_broken_stream_wakes_its_reader() -> None:
    lines, _ = buffer(max_line_bytes=10)
    reader = asyncio.create_task(lines.next())
    await turn_over()
    lines.feed(b"x" * 11)
    assert await asyncio.wait_for(reader, BOUND_S) is None


async def test_a_flood_without_a_line_break_is_not_kept() -> None:
    """Bounded memory: at most one line's limit and what came in one piece."""
    lines, _ = buffer(max_line_bytes=1_000)
    for _ in range(1_000):
        lines.feed(b"x" * 700)
        assert len(lines._partial) <= 1_000


@pytest.mark.parametrize("line", [b"x" * 999 + b"\n", b"\n"], ids=["long lines", "empty lines"])
async def test_the_pipe_rests_while_nobody_reads_and_goes_on_once_half_is_read(line: bytes) -> None:
    """Empty lines cost memory too, so a flood of nothing but breaks has to stop as well."""
    lines, pipe = buffer()
    fed = 0
    while not pipe.rests():
        lines.feed(line)
        fed += 1
        assert fed * len(line) <= HIGH_WATER_BYTES
    assert lines.is_paused == pipe.is_paused
    lines.feed(line)  # what was under way already; not to be paused twice
    cost = len(line) - 1 + LINE_OVERHEAD_BYTES
    unread = fed + 1
    while pipe.rests():
        await lines.next()
        unread -= 1
    assert lines.is_paused == pipe.is_paused
    assert unread * cost < HIGH_WATER_BYTES // 2 <= (unread + 1) * cost
    lines.close()
    assert len(await read_all(lines)) == unread


async def test_the_end_of_the_stream_ends_the_rest_of_a_paused_pipe() -> None:
    """Else the reader of a dead process would be taken for a slow one for ever."""
    lines, pipe = buffer()
    lines.feed(b"x" * HIGH_WATER_BYTES + b"\n" + b"y\n")
    assert lines.is_paused is pipe.is_paused is True
    lines.close()
    assert [lines.is_paused, pipe.is_paused] == [False, True]


async def test_a_buffer_without_a_pipe_takes_everything() -> None:
    lines = LineBuffer(HIGH_WATER_BYTES)
    for _ in range(3):
        lines.feed(b"x" * HIGH_WATER_BYTES + b"\n")
    lines.close()
    assert not lines.is_paused
    assert len(await read_all(lines)) == 3
