"""docs/troubleshooting.md has an entry for every code an error may have, and for none that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat import errors as chat_errors
from chat.wire.openai_errors import as_http
from providers import errors as engine_errors

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ENTRIES = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| (\d[^|]*) \|", PAGE, re.MULTILINE)}
KNOWN = type[chat_errors.ChatError] | type[engine_errors.ProviderError]
# Errors of commands, which no caller sees.
COMMANDS_ONLY = {"install_failed"}


def family(kind: KNOWN) -> Iterator[KNOWN]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def kinds() -> list[KNOWN]:
    found = [*family(chat_errors.ChatError), *family(engine_errors.ProviderError)]
    return [kind for kind in found if kind.code not in COMMANDS_ONLY and not kind.__module__.startswith("tests")]


def written_codes() -> set[str]:
    """Those given by name where an answer is made, in all rooms."""
    sources = [path for room in ("hubsite", "mcpbridge", "chat") for path in (ROOT / room).rglob("*.py")]
    calls = [path.read_text() for path in sources if "migrations" not in path.parts]
    return {code for text in calls for code in re.findall(r'error_body\([^\n]*code="(\w+)"', text)}


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_every_error_has_an_entry_with_its_status(kind: KNOWN, caplog: pytest.LogCaptureFixture) -> None:
    assert kind.code in ENTRIES
    assert str(as_http(kind("what went wrong")).status) in ENTRIES[kind.code]


def test_every_code_that_is_written_out_has_an_entry() -> None:
    found = written_codes()
    assert {"invalid_json", "not_found", "internal_error", "method_not_allowed"} <= found
    assert found <= set(ENTRIES)


def test_every_entry_is_a_code_that_there_is() -> None:
    sources = "".join(
        path.read_text()
        for room in ("hubsite", "mcpbridge", "chat", "providers")
        for path in (ROOT / room).rglob("*.py")
    )
    assert [code for code in ENTRIES if f'"{code}"' not in sources] == []
