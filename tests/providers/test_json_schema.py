"""Callers' schemas are judged offline, in bounded time, and broken ones are named."""

from __future__ import annotations

import json
import time

import pytest

from providers.json_schema import SchemaInvalid, compiled, find_problem, is_simple, problem_with


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
    assert find_problem(asked, {"a": [1, 2]}) == ""
    assert find_problem(asked, {"a": [1, "x"]}).startswith("['a'][1]: ")


@pytest.mark.parametrize(
    "draft", ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
)
def test_the_drafts_clients_send_are_known(draft: str) -> None:
    asked = schema(**{"$schema": draft, "type": ["string", "null"]})
    assert (find_problem(asked, None), bool(find_problem(asked, 1))) == ("", True)


def test_no_pattern_takes_long() -> None:
    began_at = time.process_time()
    assert find_problem(schema(type="string", pattern="^(?=(a+)+$)b"), "a" * 200 + "!")
    assert find_problem(schema(type="string", pattern="^(a+)+$"), "a" * 200 + "!")
    assert time.process_time() - began_at < 1


def test_a_schema_that_names_itself_ends() -> None:
    asked = schema(
        **{"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}}
    )
    assert find_problem(asked, {"n": {"n": {}}}) == ""
    assert find_problem(asked, {"n": {"n": 1}})


def doubling(levels: int) -> bytes:
    """Each level refers to the next one twice: 2 kB that are a million millions of steps."""
    steps = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return schema(**{"type": "object", "$ref": "#/$defs/a0", "$defs": {**steps, f"a{levels}": {"required": ["zz"]}}})


async def test_a_schema_that_unfolds_without_end_costs_a_second_of_another_process() -> None:
    assert not is_simple(doubling(40))
    began_at = time.process_time()
    assert "intricate" in await problem_with(doubling(40), {})
    assert time.process_time() - began_at < 0.5
    assert is_simple(doubling(3))
    assert "required" in await problem_with(doubling(3), {})


async def test_a_schema_that_leads_back_to_itself_is_judged_apart_and_rightly() -> None:
    tree = schema(
        **{"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"l": {"$ref": "#/$defs/n"}}, "type": "object"}}}
    )
    assert not is_simple(tree)
    assert await problem_with(tree, {"l": {"l": {}}}) == ""
    assert "['l']['l']" in await problem_with(tree, {"l": {"l": 1}})


async def test_a_long_chain_of_references_is_judged_apart_and_rightly() -> None:
    links = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(1_400)}
    chain = schema(**{"$ref": "#/$defs/a0", "$defs": {**links, "a1400": {"required": ["zz"]}}})
    assert not is_simple(chain)
    assert "required" in await problem_with(chain, {})


def test_a_schema_of_patterns_alone_is_refused() -> None:
    many = schema(properties={str(n): {"pattern": "a"} for n in range(101)})
    with pytest.raises(SchemaInvalid, match="at most 100 patterns"):
        compiled(many)
    with pytest.raises(SchemaInvalid):
        compiled(schema(pattern="(\\w{100}){20}" * 50))
