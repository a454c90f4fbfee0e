"""What the stand-in answers, from Python, from JSON or from a `[[key=value ...]]` directive inside a prompt."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

STATUSES = (200, 400, 401, 403, 404, 413, 429, 500, 503, 529)
STOPS = ("end", "max_tokens", "refusal", "stop_sequence")
UNIFIED = ("allowed", "allowed_warning", "rejected")

# Only key=value words between the brackets make a directive, so that other uses of [[...]] stay plain text.
_DIRECTIVE = re.compile(r'\[\[\s*(\w+=(?:"[^"]*"|[^\s"])+(?:\s+\w+=(?:"[^"]*"|[^\s"])+)*)\s*\]\]')
_JSON_DIRECTIVE = re.compile(r"\[\[\s*(\{.*?\})\s*\]\]", re.DOTALL)
_PAIR = re.compile(r'(\w+)=("[^"]*"|\S+)')


class BadScript(ValueError):
    """A key or value no script can have; the message names it."""


@dataclass(frozen=True, slots=True)
class Script:
    """How one chat request is answered; the default echoes the last user text in three pieces."""

    text: str | None = None  # None echoes the last user text
    chunks: int = 3  # a text too short for them is filled up with dots
    delay_s: float = 0.0  # between two pieces
    first_delay_s: float = 0.0  # before the first piece, the response having begun
    slow_s: float = 0.0  # before the response's first byte
    thinking: str = ""
    cached: int = 0  # prompt tokens read from the vendor's cache
    status: int = 200
    message: str = ""  # replaces the vendor's own wording of the error
    retry_after_s: float | None = None
    unified: str = ""  # Anthropic's subscription rate-limit headers, with one of UNIFIED as their status
    claim: str = "five_hour"
    reset_unix: int | None = None  # None is retry_after_s, or an hour, from now
    daily: bool = False  # Gemini's 429 names the quota per day, not per minute
    too_long: bool = False
    hang_after: int | None = None  # pieces before silence
    cut_after: int | None = None  # pieces before the connection is reset
    sse_error_after: int | None = None  # pieces before an error inside the stream
    sse_error_bare: bool = False  # Gemini: bare JSON, which its CLI reports; an event it takes for the end
    stop: str = "end"
    tools: tuple[str, ...] = ()
    tool_input: str = "{}"  # JSON object given to every one of the tools
    calls: tuple[tuple[str, str], ...] = ()  # more tools, each with arguments of its own, broken ones too
    rounds: int = 1  # how often the tools are called before the answer, each time with their results
    structured: str = ""  # the answer as JSON, the way this vendor gives it where a schema was sent
    times: int | None = None  # a directive counts for that many requests with the same last text, then for none

    def resets_at(self) -> int:
        return self.reset_unix or int(time.time() + (self.retry_after_s or 3600))


def merge(script: Script, values: Mapping[str, object]) -> Script:
    """The script with these keys changed; values may be strings. Raises BadScript."""
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in _KEYS:
            raise BadScript(f"unknown key {key!r}; known: {', '.join(_KEYS)}")
        field, read = _KEYS[key]
        try:
            changes[field] = read(value)
        except (TypeError, ValueError) as exc:
            raise BadScript(f"{key} cannot be {value!r}") from exc
    return replace(script, **changes)


def directive(text: str) -> dict[str, object]:
    """The keys of the last directive in the text; empty if there is none. Raises BadScript for broken JSON."""
    if "[[" not in text:
        return {}
    if pairs := _DIRECTIVE.findall(text):
        return {key: value.strip('"') for key, value in _PAIR.findall(pairs[-1])}
    if objects := _JSON_DIRECTIVE.findall(text):
        try:
            return dict(json.loads(objects[-1]))
        except ValueError as exc:
            raise BadScript("the directive is no JSON object") from exc
    return {}


def _number(value: object) -> float:
    number = float(str(value))
    if number < 0:
        raise ValueError(number)
    return number


def _count(value: object) -> int:
    number = int(str(value))
    if number < 0:
        raise ValueError(number)
    return number


def _flag(value: object) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if (word := str(value).lower()) not in words:
        raise ValueError(value)
    return words[word]


def _unified(value: object) -> str:
    if str(value).lower() == "true":
        return "rejected"
    return _one_of(*UNIFIED)(value)


def _names(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise TypeError(names)
    return tuple(str(name) for name in names if name)


def _json_object(value: object) -> str:
    parsed = json.loads(value) if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise TypeError(parsed)
    return json.dumps(parsed)


def _calls(value: object) -> tuple[tuple[str, str], ...]:
    """A list of {"name", "input"}; an input that is a text goes out as it is, whole or broken."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(value)
    return tuple((str(it["name"]), _raw(it.get("input", {}))) for it in value)


def _raw(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _one_of(*allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if str(value) not in allowed:
            raise ValueError(value)
        return str(value)

    return read


def _status(value: object) -> int:
    status = int(str(value))
    if status not in STATUSES:
        raise ValueError(value)
    return status


_KEYS: dict[str, tuple[str, Callable[[object], object]]] = {
    "text": ("text", str),
    "chunks": ("chunks", _count),
    "delay": ("delay_s", _number),
    "first_delay": ("first_delay_s", _number),
    "slow": ("slow_s", _number),
    "thinking": ("thinking", str),
    "cached": ("cached", _count),
    "status": ("status", _status),
    "message": ("message", str),
    "retry_after": ("retry_after_s", _number),
    "unified": ("unified", _unified),
    "claim": ("claim", str),
    "reset": ("reset_unix", _count),
    "daily": ("daily", _flag),
    "too_long": ("too_long", _flag),
    "hang_after": ("hang_after", _count),
    "cut_after": ("cut_after", _count),
    "sse_error_after": ("sse_error_after", _count),
    "sse_error_bare": ("sse_error_bare", _flag),
    "stop": ("stop", _one_of(*STOPS)),
    "tools": ("tools", _names),
    "tool_input": ("tool_input", _json_object),
    "calls": ("calls", _calls),
    "rounds": ("rounds", _count),
    "structured": ("structured", _raw),
    "times": ("times", _count),
}
