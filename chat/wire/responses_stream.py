"""Events as the stream of OpenAI's Responses API."""

from __future__ import annotations

import orjson

from chat.ask import Admitted, Answering, Note
from chat.wire.responses_answer import Json, completed, error_of
from chat.wire.responses_output import Output
from providers.events import Event, TurnFinished


class ResponseWriter:
    """Writes the frames of one stream, numbered from 0. `base` is the response as it is at the start."""

    def __init__(self, base: Json, output: Output) -> None:
        self._base = base
        self._output = output
        self._number = 0

    def first(self) -> bytes:
        response = orjson.Fragment(orjson.dumps(self._base))
        begun = ("response.created", "response.in_progress")
        return b"".join(self._frame(name, {"response": response}) for name in begun)

    def write(self, event: Note | Event) -> bytes:
        """The frames of one event; empty for one that the stream has no place for."""
        if isinstance(event, (Admitted, Answering)):
            return b""
        frames = b"".join(self._frame(name, fields) for name, fields in self._output.take(event))
        return frames + self._end(event) if isinstance(event, TurnFinished) else frames

    def _end(self, finished: TurnFinished) -> bytes:
        response = completed(self._base, self._output, finished)
        return self._frame(f"response.{response['status']}", {"response": response})

    def fail(self, body: Json) -> bytes:
        """Both of what clients look for: the response that failed, and an error, at which OpenAI's SDKs raise."""
        error = body["error"]
        failed = {**self._base, "status": "failed", "error": error_of(body)}
        told = {name: error[name] for name in ("code", "message", "param")}
        return self._frame("response.failed", {"response": failed}) + self._frame("error", {**told, "error": error})

    def _frame(self, name: str, fields: Json) -> bytes:
        data = orjson.dumps({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
