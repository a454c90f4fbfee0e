"""What both vendors' chat requests and answers have in common, without either wire format."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tests.vendor_api.script import Script

Stop = Literal["end", "max_tokens", "refusal", "stop_sequence", "tool_use"]
End = Literal["complete", "hang", "cut", "error"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The parts of a chat request an answer depends on."""

    model: str
    stream: bool
    last_text: str
    prompt_chars: int
    max_tokens: int | None
    stop_sequences: tuple[str, ...]
    results: int = 0  # messages with results of tools since the last text of the user
    offered: tuple[str, ...] = ()  # the tools' names
    bearer: bool = False  # asked with a login token, not an API key

    @property
    def prompt_tokens(self) -> int:
        return tokens_of(self.prompt_chars)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said before the end, and how it ends."""

    pieces: tuple[str, ...]
    calls: tuple[tuple[str, str], ...]
    stop: Stop
    stop_sequence: str | None
    end: End

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send, this long after the ones before them."""

    delay_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response; several steps are streamed, a single one is sent whole."""

    status: int
    headers: dict[str, str]
    steps: tuple[Step, ...]
    end: End = "complete"
    slow_s: float = 0.0


def tokens_of(chars: int) -> int:
    return math.ceil(chars / 4)


def compose(asked: Asked, script: Script) -> Reply:
    """The reply to a request under a script, with the request's own limits honoured."""
    tools = _calls(asked, script)
    stop: Stop = "tool_use" if tools else _stop_of(script)
    stop_sequence = (asked.stop_sequences or ("STOP",))[0] if stop == "stop_sequence" else None
    pieces: tuple[str, ...] = ()
    if script.structured and not tools:
        pieces = split(script.structured, min(script.chunks, len(script.structured)))
    elif not tools or script.text is not None:
        pieces = split(script.text if script.text is not None else f"echo: {asked.last_text}", script.chunks)
    if (found := _first_of(asked.stop_sequences, "".join(pieces))) is not None:
        at, stop_sequence = found
        pieces, tools, stop = _until(pieces, at), (), "stop_sequence"
    if asked.max_tokens is not None and len(pieces) > asked.max_tokens:
        pieces, tools, stop, stop_sequence = pieces[: asked.max_tokens], (), "max_tokens", None
    faults: tuple[tuple[End, int | None], ...] = (
        ("hang", script.hang_after),
        ("cut", script.cut_after),
        ("error", script.sse_error_after),
    )
    for end, after in faults:
        if after is not None:
            return Reply(pieces[:after], (), stop, stop_sequence, end)
    return Reply(pieces, tools, stop, stop_sequence, "complete")


def _calls(asked: Asked, script: Script) -> tuple[tuple[str, str], ...]:
    if asked.results >= script.rounds:
        return ()
    wanted = (*((name, script.tool_input) for name in script.tools), *script.calls)
    return tuple((_as_offered(name, asked.offered), arguments) for name, arguments in wanted)


def _as_offered(name: str, offered: tuple[str, ...]) -> str:
    """The name under which the CLI offers a tool: it may put one of its own before it."""
    return next((it for it in offered if it == name or it.endswith(f"_{name}")), name)


def split(text: str, count: int) -> tuple[str, ...]:
    """The text in exactly that many pieces of nearly the same length, none of them empty."""
    text = text.ljust(count, ".")
    edges = [len(text) * n // count for n in range(count + 1)] if count else []
    return tuple(text[start:end] for start, end in pairwise(edges))


def _stop_of(script: Script) -> Stop:
    match script.stop:
        case "max_tokens" | "refusal" | "stop_sequence" as stop:
            return stop
    return "end"


def _first_of(sequences: tuple[str, ...], text: str) -> tuple[int, str] | None:
    found = [(at, sequence) for sequence in sequences if (at := text.find(sequence)) >= 0]
    return min(found, default=None)


def _until(pieces: tuple[str, ...], at: int) -> tuple[str, ...]:
    kept: list[str] = []
    for piece in pieces:
        if at <= 0:
            break
        kept.append(piece[:at])
        at -= len(piece)
    return tuple(kept)
