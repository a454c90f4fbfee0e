"""What a caller's JSON Schema says of a value. Nothing is fetched for it, and none takes long or much.

Most schemas are judged right here, in microseconds. One that comes to many times its own size when its references are
followed could take hours and all memory: those are judged by a process of their own, which has a second.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

BACKTRACK_LIMIT = 100_000
PATTERN_BYTES = 256 * 1024
MAX_PATTERNS = 100
MAX_PROBLEMS = 3
PROBLEM_CHARS = 300

# A schema with more steps than this, its references followed, is judged apart.
SIMPLE_STEPS = 5_000
APART_S = 1.0
APART_BYTES = 1024**3

# What is kept compiled: small ones without many patterns, of which each may take PATTERN_BYTES.
KEPT = 64
KEPT_BYTES = 16 * 1024
KEPT_PATTERNS = 4

Validator = jsonschema_rs.Validator


class SchemaInvalid(ValueError):
    """It is no JSON Schema, or one that is too large; the message says why."""


def compiled(schema: bytes) -> Validator:
    """The validator of a schema, given as JSON. Raises SchemaInvalid."""
    patterns = schema.count(b'"pattern') + schema.count(b"patternProperties")
    if patterns > MAX_PATTERNS:
        raise SchemaInvalid(f"a schema has at most {MAX_PATTERNS} patterns")
    is_kept = len(schema) <= KEPT_BYTES and patterns <= KEPT_PATTERNS
    return _kept(schema) if is_kept else _compile(schema)


@lru_cache(maxsize=KEPT)
def _kept(schema: bytes) -> Validator:
    return _compile(schema)


def _compile(schema: bytes) -> Validator:
    options = jsonschema_rs.FancyRegexOptions(
        backtrack_limit=BACKTRACK_LIMIT, size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES
    )
    try:
        return jsonschema_rs.validator_for(orjson.loads(schema), pattern_options=options, offline=True)
    except ValueError as exc:
        raise SchemaInvalid(_first_line(exc)) from exc


async def problem_with(schema: bytes, value: Any) -> str:
    """Where a value does not fit, in words; empty if it does. Raises SchemaInvalid."""
    return find_problem(schema, value) if is_simple(schema) else await _found_apart(schema, value)


def find_problem(schema: bytes, value: Any) -> str:
    """The same here and now, however long it takes."""
    try:
        errors = [error for _, error in zip(range(MAX_PROBLEMS), compiled(schema).iter_errors(value), strict=False)]
    except ValueError as exc:  # a pattern that went beyond its limit
        return _first_line(exc)
    return "; ".join(f"{_place(error)}{_first_line(error)}" for error in errors)


def _place(error: jsonschema_rs.ValidationError) -> str:
    return "".join(f"[{step!r}]" for step in error.instance_path) + (": " if error.instance_path else "")


def _first_line(error: Exception) -> str:
    message = str(getattr(error, "message", error)).split("\n", 1)[0]
    return message if len(message) <= PROBLEM_CHARS else message[: PROBLEM_CHARS - 1] + "…"


# --- how much it is --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=KEPT)
def is_simple(schema: bytes) -> bool:
    """Whether judging by it takes about as many steps as it has parts: no reference leads back, or to very much."""
    if b'"$ref"' not in schema and b'"$dynamicRef"' not in schema and b'"$recursiveRef"' not in schema:
        return True
    root = orjson.loads(schema)
    try:
        return _Steps(root).of(root) <= SIMPLE_STEPS
    except RecursionError:  # a chain of references longer than it is worth to follow
        return False


class _Steps:
    """Counts the parts of a schema with its references followed; one that leads back counts as too many."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, int] = {}

    def of(self, part: Any) -> int:
        if not isinstance(part, (dict, list)):
            return 0
        known = self._known.get(id(part))
        if known is not None:
            return known
        self._known[id(part)] = SIMPLE_STEPS + 1  # met again before it is counted: it leads back to itself
        steps = 1 + sum(map(self.of, part.values() if isinstance(part, dict) else part))
        if isinstance(part, dict):
            steps += self._of_reference(part)
        self._known[id(part)] = min(steps, SIMPLE_STEPS + 1)
        return self._known[id(part)]

    def _of_reference(self, part: dict[str, Any]) -> int:
        if "$dynamicRef" in part or "$recursiveRef" in part:
            return SIMPLE_STEPS + 1
        named = part.get("$ref")
        if not isinstance(named, str):
            return 0
        target = self._target(named)
        return SIMPLE_STEPS + 1 if target is None else self.of(target)

    def _target(self, named: str) -> Any:
        """The part a pointer leads to; None for what is no plain pointer into this schema."""
        if named != "#" and not named.startswith("#/"):
            return None
        found = self._root
        for step in named.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step) if isinstance(found, dict) else None
        return found


TOO_INTRICATE = "it could not be checked against a schema this intricate"

# --- apart -----------------------------------------------------------------------------------------------------------

APART = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({APART_BYTES}, {APART_BYTES}))
import orjson
from providers.json_schema import find_problem
asked = orjson.loads(sys.stdin.buffer.read())
sys.stdout.write(find_problem(asked["schema"].encode(), asked["value"]))
"""


async def _found_apart(schema: bytes, value: Any) -> str:
    asked = orjson.dumps({"schema": schema.decode(), "value": value})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", APART),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""},
    )
    try:
        async with asyncio.timeout(APART_S):
            said, _ = await process.communicate(asked)
    except TimeoutError:
        return TOO_INTRICATE
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    # It ends by itself where it has used up its memory before its time.
    return said.decode(errors="replace") if process.returncode == 0 else TOO_INTRICATE
