"""The pinned CLIs as clients of the hub: their model sees its tools, calls one and gets the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import HubProcess
from tests.mcp_clients.cli_clients import CLIENTS, CONFIGURED, LISTS
from tests.mcp_clients.reach import TOOLS, Way

# codex knows no SSE.
CASES: list[tuple[str, Way]] = [
    ("claude", "http"),
    ("claude", "sse"),
    ("claude", "stdio"),
    ("codex", "http"),
    ("codex", "stdio"),
    ("gemini", "http"),
    ("gemini", "sse"),
    ("gemini", "stdio"),
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
async def test_a_clis_model_sees_the_hubs_tools_and_gets_an_answer(
    served: HubProcess, case: tuple[str, Way], tmp_path: Path
) -> None:
    cli, way = case
    seen = await CLIENTS[cli](served, way, tmp_path, f"hello from {cli}")
    assert seen.tools == TOOLS
    assert f"hello from {cli}" in seen.answer
    assert "session_id" in seen.answer


@pytest.mark.parametrize("way", ["http", "sse", "stdio"])
@pytest.mark.parametrize("cli", LISTS)
async def test_a_cli_lists_the_hub_as_connected(served: HubProcess, cli: str, way: Way, tmp_path: Path) -> None:
    ended = await LISTS[cli](served, way, tmp_path, served.key)
    assert " Connected" in ended.text, ended


@pytest.mark.parametrize(("cli", "why"), [("claude", "HTTP 401"), ("gemini", "Disconnected")])
async def test_a_cli_with_a_wrong_key_says_that_it_is_not_connected(
    served: HubProcess, cli: str, why: str, tmp_path: Path
) -> None:
    ended = await LISTS[cli](served, "http", tmp_path, "hub_wrong")
    assert why in ended.text, ended
    assert " Connected" not in ended.text


@pytest.mark.parametrize("by_url", [True, False], ids=["http", "stdio"])
@pytest.mark.parametrize("cli", CONFIGURED)
async def test_a_cli_understands_what_mcp_config_writes(
    served: HubProcess, cli: str, by_url: bool, tmp_path: Path
) -> None:
    options = ["--http", "--url", served.url, "--key", served.key] if by_url else []
    seen = await CONFIGURED[cli](served, options, tmp_path, "hello there")
    assert seen.tools == TOOLS
    assert "hello there" in seen.answer
