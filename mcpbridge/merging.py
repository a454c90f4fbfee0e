"""Puts this hub into a client's file and leaves every other byte of it as it was.

The text is spliced, not written anew: nobody's order, indentation or numbers change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")
INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)
# Strings come first, so that what looks like a comment within one is none.
STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//|/\*')
MARK = "\ufeff"

# What of an entry is the hub's own to say. All else in it was put there by a person, or by the client.
OWN = frozenset({"type", "command", "args", "url", "httpUrl", "headers"})
OWN_VARIABLES = frozenset({"HUB_URL", "HUB_API_KEY", "HUB_DATA_DIR"})


class CannotMerge(Exception):
    """The file is not what it should be. Its text says what is wrong and, where it can be mended, how."""


def merge(text: str, block: Mapping[str, Any]) -> str:
    """The text with the block in it; the very same text where it holds the block already. Raises CannotMerge.

    `block` maps sections to entries by their names, or to a list of entries that have an `id`.
    """
    if not text.strip(f"{MARK} \t\r\n"):
        return json.dumps(block, indent=2, ensure_ascii=False) + "\n"
    mark, body = (MARK, text[1:]) if text.startswith(MARK) else ("", text)
    _parse(body)
    for section, entries in block.items():
        if isinstance(entries, list):
            body = _add_missing(body, section, entries)
        else:
            for name, entry in entries.items():
                body = _put(body, section, name, entry)
    return mark + body


def _parse(text: str) -> Json:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        if any(found[0] != '"' for found in STRING_OR_COMMENT.findall(text)):
            raise CannotMerge("it has comments, which are no JSON and might get lost; add the block by hand") from error
        raise CannotMerge(f"it is no valid JSON ({error}); mend it first") from error
    except RecursionError as error:
        raise CannotMerge("it is nested too deep") from error
    return _object(parsed, "it")


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise CannotMerge(f"{what} is no JSON object")
    return value


def _put(text: str, section: str, name: str, entry: Json) -> str:
    """Raises CannotMerge."""
    root = _parse(text)
    if section not in root:
        return _insert(text, _start(text), 1, section, {name: entry})
    held = _object(root[section], f'"{section}" in it')
    place = _find(text, _start(text), section)
    if name not in held:
        return _insert(text, place.start, 2, name, entry)
    old = held[name]
    new = _joined(old, entry) if isinstance(old, dict) else entry
    if new == old:
        return text
    place = _find(text, place.start, name)
    return text[: place.start] + _rendered(text, new, 2) + text[place.end :]


def _joined(old: Json, new: Json) -> Json:
    """The new entry with what was added to the old one by others, their time-outs included."""
    kept = {name: value for name, value in old.items() if name not in OWN and name != "env"}
    entry = {**new, **kept}
    variables = old.get("env")
    added = {it: variables[it] for it in variables if it not in OWN_VARIABLES} if isinstance(variables, dict) else {}
    return {**entry, "env": {**added, **new.get("env", {})}} if added else entry


def _add_missing(text: str, section: str, entries: list[Json]) -> str:
    """Raises CannotMerge."""
    root = _parse(text)
    if section not in root:
        return _insert(text, _start(text), 1, section, entries)
    if not isinstance(held := root[section], list):
        raise CannotMerge(f'"{section}" in it is no list')
    known = [entry.get("id") for entry in held if isinstance(entry, dict)]
    for entry in entries:
        if entry["id"] not in known:
            text = _insert(text, _find(text, _start(text), section).start, 2, "", entry)
    return text


# --- places in the text, which is valid JSON -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    start: int
    end: int


def _start(text: str) -> int:
    return _skip(text, 0)


def _skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found is not None
    return found.end()


def _find(text: str, at: int, name: str) -> _Place:
    """Where the member's value is in the object that begins there. Of several the last one counts, as for a parser."""
    return [place for place in _members(text, at) if place.name == name][-1]


def _members(text: str, at: int) -> Iterator[_Place]:
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, end = DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, end) + 1)  # behind the colon
        _, end = DECODER.raw_decode(text, start)
        yield _Place(name, start, end)
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _insert(text: str, at: int, depth: int, name: str, value: Any) -> str:
    """Append a value, with a name in an object, to the object or list that begins there and is `depth` - 1 deep."""
    _, end = DECODER.raw_decode(text, at)
    closing = end - 1
    last = len(text[:closing].rstrip(" \t\r\n"))
    is_empty = last == at + 1
    newline, unit = _newline(text), _indent(text)
    piece = (f"{json.dumps(name)}: " if name else "") + _rendered(text, value, depth)
    tail = newline + unit * (depth - 1) if is_empty else text[last:closing]
    return f"{text[:last]}{'' if is_empty else ','}{newline}{unit * depth}{piece}{tail}{text[closing:]}"


def _rendered(text: str, value: Any, depth: int) -> str:
    """The value as it looks so deep in a file that is written as this one is."""
    unit = _indent(text)
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return (_newline(text) + unit * depth).join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _indent(text: str) -> str:
    found = INDENT.search(text)
    return found[1] if found is not None else "  "
