"""A silent stream is kept alive, a flowing one is left alone."""

from __future__ import annotations

import asyncio

from chat.wire.sse import HEARTBEAT
from hubsite.heartbeat import Heartbeat, Message

WAIT_S = 5
BODY = {"type": "http.response.body", "body": b"data: x\n\n", "more_body": True}


class Wire:
    """What went out; `wait_for` returns once that many messages did."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._changed = asyncio.Condition()

    async def send(self, message: Message) -> None:
        async with self._changed:
            self.sent.append(message["body"])
            self._changed.notify_all()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(lambda: len(self.sent) >= count)


async def test_silence_is_filled_with_comments() -> None:
    wire = Wire()
    with Heartbeat(wire.send, HEARTBEAT, 0.01) as heartbeat:
        await heartbeat.send(BODY)
        await wire.wait_for(3)
    assert wire.sent[:3] == [BODY["body"], HEARTBEAT, HEARTBEAT]
    assert HEARTBEAT.startswith(b":") and HEARTBEAT.endswith(b"\n\n")


async def test_stream_that_flows_gets_no_comment() -> None:
    wire = Wire()
    loop = asyncio.get_running_loop()
    with Heartbeat(wire.send, HEARTBEAT, 0.2) as heartbeat:
        ends_at = loop.time() + 0.5
        while loop.time() < ends_at:
            await heartbeat.send(BODY)
            await asyncio.sleep(0)
    assert HEARTBEAT not in wire.sent


async def test_nothing_is_sent_after_the_end() -> None:
    wire = Wire()
    with Heartbeat(wire.send, HEARTBEAT, 0.01) as heartbeat:
        await heartbeat.send(BODY)
        await wire.wait_for(2)
    count = len(wire.sent)
    with Heartbeat(Wire().send, HEARTBEAT, 0.01):
        other = Wire()
        with Heartbeat(other.send, HEARTBEAT, 0.01):
            await other.wait_for(3)  # time enough for a timer that was left behind
    assert len(wire.sent) == count
