"""The model's answer as the gemini CLI records it (`--record-responses`): the one place that tells of every call.

On its pipe the CLI is silent about calls of tools it does not know, and about why an answer ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from providers.events import FinishReason, ToolCall

Json = dict[str, Any]

REASONS: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"), "content_filter"),
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer. `end` is the vendor's word for why it ended, empty if it did not; `tokens` as in the CLI's chats."""

    calls: tuple[ToolCall, ...] = ()
    end: str = ""
    tokens: Json = field(default_factory=dict)

    @property
    def reason(self) -> FinishReason | None:
        """Why it ended; None where the vendor's word says nothing of that kind. A call that is cut off is none."""
        found = REASONS.get(self.end)
        return "tool_calls" if self.calls and found not in ("length", "content_filter") else found


def read_record(data: bytes, names: Mapping[str, str]) -> Recorded:
    """The last answer of a record; `names` are the caller's names of functions by those the vendor was told."""
    lines = data.splitlines()
    pieces = _pieces(lines[-1]) if lines else []
    candidates = [candidate for piece in pieces for candidate in _objects(piece.get("candidates"))[:1]]
    ends = [str(candidate["finishReason"]) for candidate in candidates if candidate.get("finishReason")]
    counts = [piece["usageMetadata"] for piece in pieces if isinstance(piece.get("usageMetadata"), dict)]
    return Recorded(
        calls=tuple(_calls(candidates, names)),
        end=ends[-1] if ends else "",
        tokens=_tokens(counts[-1]) if counts else {},
    )


def _pieces(line: bytes) -> list[Json]:
    try:
        found = orjson.loads(line)
    except ValueError:
        return []
    match found:
        case {"method": "generateContentStream", "response": list(pieces)}:
            return _objects(pieces)
    return []


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _calls(candidates: list[Json], names: Mapping[str, str]) -> Iterator[ToolCall]:
    for candidate in candidates:
        match candidate:
            case {"content": {"parts": list(parts)}}:
                called = [part["functionCall"] for part in _objects(parts) if "functionCall" in part]
                yield from (_call(call, names) for call in _objects(called) if call.get("name"))


def _call(call: Json, names: Mapping[str, str]) -> ToolCall:
    name = str(call["name"])
    # The CLI puts the name before the id, and takes it away where it sends one itself.
    call_id = str(call.get("id") or "").removeprefix(f"{name.strip()}__")
    arguments = orjson.dumps(call.get("args") or {}).decode()
    return ToolCall(call_id or f"call_{secrets.token_hex(8)}", names.get(name, name), arguments)


def _tokens(count: Json) -> Json:
    return {
        "input": count.get("promptTokenCount"),
        "output": count.get("candidatesTokenCount"),
        "cached": count.get("cachedContentTokenCount"),
        "thoughts": count.get("thoughtsTokenCount"),
    }
