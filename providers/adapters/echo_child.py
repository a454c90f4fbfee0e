"""The process behind the echo provider: repeats the question, piece by piece, and misbehaves when told to.

Runs alone, on the standard library, without anything of the hub. One JSON object per line, in:
    {"ask": TEXT, "chunks": N, "delay_s": S, "do": MISCHIEF}     {"cancel": true}
and out:
    {"ready": true}  {"start": true}  {"delta": TEXT}  {"end": "stop" | "cancelled", "input": N, "output": N}
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import Any

STDIN, STDOUT, STDERR = 0, 1, 2
FLOOD_LINE = b"x" * 1_000 + b"\n"
FLOOD_LINES = 20_000


class Pipe:
    """Lines from standard input, with a look whether one has come."""

    def __init__(self) -> None:
        self.buffer = b""

    def wait(self, timeout_s: float | None) -> bool:
        """Whether a whole line is there within the time; ends the process when the hub has gone."""
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self.buffer:
            left_s = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            if not select.select([STDIN], [], [], left_s)[0]:
                return False
            data = os.read(STDIN, 1 << 16)
            if not data:
                sys.exit(0)
            self.buffer += data
        return True

    def line(self) -> dict[str, Any]:
        self.wait(None)
        line, self.buffer = self.buffer.split(b"\n", 1)
        return dict(json.loads(line))


def say(**message: object) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(STDOUT, data) :]


def pieces(text: str, count: int) -> list[str]:
    """The text cut into `count` pieces of nearly the same length; empty ones where it is too short."""
    return [text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count)]


def misbehave(what: str) -> None:
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        sys.exit(0)
    elif what == "hang":
        time.sleep(3_600)
    elif what == "garbage":
        os.write(STDOUT, b"this is no JSON\n")
    elif what == "flood":
        for _ in range(FLOOD_LINES):
            os.write(STDERR, FLOOD_LINE)
    elif what == "ignore_signals":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3_600)


def answer(pipe: Pipe, ask: dict[str, Any]) -> None:
    text = str(ask["ask"])
    say(start=True)
    for index, piece in enumerate(pieces(text, int(ask["chunks"]))):
        if pipe.wait(float(ask["delay_s"]) if index else 0.0) and "cancel" in pipe.line():
            say(end="cancelled", input=len(text), output=index)
            return
        say(delta=piece)
        if index == 0:
            misbehave(str(ask["do"]))
    say(end="stop", input=len(text), output=int(ask["chunks"]))


def main() -> None:
    pipe = Pipe()
    say(ready=True)
    while True:
        message = pipe.line()
        if "ask" in message:
            answer(pipe, message)


if __name__ == "__main__":
    main()
