"""The demo provider: a small Python child that lives like a CLI and repeats the question.

It makes a fresh machine answer, is the null provider of the benchmark, and shows every fault on demand: a directive
in the last question, `[[chunks=5 delay=0.2 do=crash]]`, sets the number of pieces, the seconds between them and the
mischief after the first one (crash, exit, hang, garbage, flood, ignore_signals). Reached only by name.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import AsyncGenerator, Hashable
from typing import Any

import orjson

from providers.adapters import echo_child
from providers.adapters.base import Adapter, AdapterInfo, Driver, Launch, LoginState, Program, WorkerFolder
from providers.errors import ProtocolBroken, TurnRefused, excerpt
from providers.events import Event, TextDelta, Turn, TurnFinished, TurnStarted, Usage
from providers.process import Process

MODEL = "echo"
DEFAULT_CHUNKS = 8
MAX_CHUNKS = 10_000
MAX_DELAY_S = 60.0
MISCHIEF = ("none", "crash", "exit", "hang", "garbage", "flood", "ignore_signals")

# A space is a must between two pairs: without it a hostile text could be read in exponentially many ways.
_DIRECTIVE = re.compile(r"\[\[\s*(\w+=[\w.]+(?:\s+\w+=[\w.]+)*)\s*\]\]")


class EchoAdapter(Adapter):
    info = AdapterInfo(
        name="echo",
        title="Echo (demo)",
        program="",
        tested_version="",
        default_model=MODEL,
        ceiling=16,
        models=(MODEL,),
        by_name_only=True,
        unsupported_sampling=("temperature", "top_p", "stop", "reasoning_effort"),
    )

    def launch(self, folder: WorkerFolder) -> Launch:
        # -I -S: no site packages and nothing from the environment; it starts in a third of the time.
        return Launch(
            argv=(sys.executable, "-I", "-S", echo_child.__file__),
            env={"TMPDIR": str(folder.tmp), "LANG": "C.UTF-8"},
        )

    def driver(self, process: Process, folder: WorkerFolder) -> Driver:
        return EchoDriver(process)

    def binding(self, turn: Turn) -> Hashable:
        return turn.owner

    def check(self, turn: Turn) -> None:
        read_directive(turn.messages[-1].text)

    @classmethod
    async def version(cls, program: Program) -> str:
        return platform.python_version()

    @classmethod
    async def login_state(cls, program: Program) -> LoginState:
        return "ready"


def read_directive(text: str) -> dict[str, Any]:
    """What the question asks of the child. Raises TurnRefused for a value out of bounds."""
    found = _DIRECTIVE.search(text)
    words = dict(word.split("=", 1) for word in found[1].split()) if found else {}
    try:
        chunks, delay_s = int(words.get("chunks", DEFAULT_CHUNKS)), float(words.get("delay", 0))
    except ValueError as exc:
        raise TurnRefused("echo: chunks is a whole number and delay a number of seconds") from exc
    mischief = words.get("do", "none")
    if not (1 <= chunks <= MAX_CHUNKS and 0 <= delay_s <= MAX_DELAY_S and mischief in MISCHIEF):
        raise TurnRefused(f"echo takes chunks=1..{MAX_CHUNKS}, delay=0..{MAX_DELAY_S:g} and do={'|'.join(MISCHIEF)}")
    return {"chunks": chunks, "delay_s": delay_s, "do": mischief}


class EchoDriver(Driver):
    """One question at a time; a cancelled one is answered by an end of its own, so the process can be kept."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_answering = False

    async def ready(self) -> None:
        if "ready" not in await self._read():
            raise ProtocolBroken("echo did not begin with its ready message")

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        text = turn.messages[-1].text
        sampling = turn.sampling
        ask = {"ask": text, **read_directive(text)}
        self._is_answering = True  # before the wait: given up in its middle, the rest of the line still goes out
        await self._process.send(orjson.dumps(ask))
        sent = 0
        while True:
            match await self._read():
                case {"start": True}:
                    yield TurnStarted(MODEL)
                case {"delta": str(delta)}:
                    sent += 1
                    yield TextDelta(delta)
                    if sent == sampling.max_tokens and sent < ask["chunks"]:
                        yield TurnFinished("length", Usage(input_tokens=len(text), output_tokens=sent))
                        return
                case {"end": "stop", "input": int(given), "output": int(output)}:
                    self._is_answering = False
                    yield TurnFinished("stop", Usage(input_tokens=given, output_tokens=output))
                    return

    def needs_reset(self) -> bool:
        return self._is_answering

    async def reset(self) -> bool:
        if self._is_answering:
            await self._process.send(b'{"cancel": true}')
        while self._is_answering:
            self._is_answering = "end" not in await self._read()
        return True

    async def _read(self) -> dict[str, Any]:
        raw = await self._process.read_line()
        try:
            return dict(orjson.loads(raw))
        except (ValueError, TypeError) as exc:
            raise ProtocolBroken(f"echo wrote no JSON object: {excerpt(raw)}") from exc


ADAPTER = EchoAdapter
