"""What a caller's JSON Schema says of a value. Nothing is fetched for it, and no pattern takes long."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

BACKTRACK_LIMIT = 100_000
MAX_PROBLEMS = 3
PROBLEM_CHARS = 300


class SchemaInvalid(ValueError):
    """It is no JSON Schema; the message says why."""


@lru_cache(maxsize=512)
def compiled(schema: bytes) -> jsonschema_rs.Validator:
    """The validator of a schema, given as JSON. Raises SchemaInvalid."""
    options = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_LIMIT)
    try:
        return jsonschema_rs.validator_for(orjson.loads(schema), pattern_options=options, offline=True)
    except ValueError as exc:
        raise SchemaInvalid(_first_line(exc)) from exc


def problem_with(schema: bytes, value: Any) -> str:
    """Where a value does not fit, in words; empty if it does. Raises SchemaInvalid."""
    try:
        errors = list(_some(compiled(schema).iter_errors(value)))
    except ValueError as exc:  # a pattern that went beyond its limit
        return _first_line(exc)
    return "; ".join(f"{_place(error)}{_first_line(error)}" for error in errors)


def _some(errors: Any) -> Any:
    for _, error in zip(range(MAX_PROBLEMS), errors, strict=False):
        yield error


def _place(error: jsonschema_rs.ValidationError) -> str:
    return "".join(f"[{step!r}]" for step in error.instance_path) + (": " if error.instance_path else "")


def _first_line(error: Exception) -> str:
    message = str(getattr(error, "message", error)).split("\n", 1)[0]
    return message if len(message) <= PROBLEM_CHARS else message[: PROBLEM_CHARS - 1] + "…"
