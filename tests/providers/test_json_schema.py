"""Callers' schemas are judged offline, in bounded time, and broken ones are named."""

from __future__ import annotations

import json
import time

import pytest

from providers.json_schema import SchemaInvalid, compiled, problem_with


def schema(**parts: object) -> bytes:
    return json.dumps(parts).encode()


@pytest.mark.parametrize(
    "broken",
    [
        b'{"type": "strin"}',
        b"[1]",
        b'{"type": "string", "pattern": "("}',
        b'{"$schema": "foo://bar"}',
        b'{"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}',
        b'{"$ref": "file:///etc/passwd"}',
        b'{"$ref": "#/nowhere"}',
    ],
)
def test_what_is_no_schema_is_told(broken: bytes) -> None:
    with pytest.raises(SchemaInvalid) as caught:
        compiled(broken)
    assert "\n" not in str(caught.value)


def test_a_problem_names_its_place() -> None:
    asked = schema(type="object", properties={"a": {"type": "array", "items": {"type": "integer"}}})
    assert problem_with(asked, {"a": [1, 2]}) == ""
    assert problem_with(asked, {"a": [1, "x"]}).startswith("['a'][1]: ")


@pytest.mark.parametrize(
    "draft", ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
)
def test_the_drafts_clients_send_are_known(draft: str) -> None:
    asked = schema(**{"$schema": draft, "type": ["string", "null"]})
    assert (problem_with(asked, None), bool(problem_with(asked, 1))) == ("", True)


def test_no_pattern_takes_long() -> None:
    began_at = time.process_time()
    assert problem_with(schema(type="string", pattern="^(?=(a+)+$)b"), "a" * 200 + "!")
    assert problem_with(schema(type="string", pattern="^(a+)+$"), "a" * 200 + "!")
    assert time.process_time() - began_at < 1


def test_a_schema_that_names_itself_ends() -> None:
    asked = schema(
        **{"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}}
    )
    assert problem_with(asked, {"n": {"n": {}}}) == ""
    assert problem_with(asked, {"n": {"n": 1}})
