"""Client libraries in their pinned versions, unchanged, with the hub for OpenAI and real claude behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.clis.test_rest import Door, open_door
from tests.py_clients.environments import program, results, run
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door("claude", tmp_path_factory.mktemp("claude")) as opened:
        opened.vendor.script = Script()
        yield opened


def reach(door: Door, home: Path) -> dict[str, str]:
    """The libraries look for updates and price lists on the internet unless told otherwise."""
    return {
        "HOME": str(home),
        "HUB_URL": f"{door.hub.url}/v1",
        "HUB_KEY": door.hub.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGSMITH_TRACING": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


async def test_langchain(claude: Door, tmp_path: Path) -> None:
    found = await asyncio.to_thread(results, "langchain", "langchain_run.py", reach(claude, tmp_path))
    assert found["tools"] == {"calls": [["get_weather", {"city": "Bern", "unit": None}]], "answer": "It is warm."}
    assert found["streamed_tools"]["calls"] == ["Bern", "Rome"]
    assert found["streamed_tools"]["tokens"] > 0
    assert found["structured"] == {
        "json_schema": {"x": 1, "label": None},
        "function_calling": {"x": 2, "label": "b"},
    }
    assert found["streamed"] == {"pieces": 4, "text": "echo: [[chunks=4]] one two three four"}
    assert found["responses"] == {"text": "echo: [[chunks=2]] by the other way"}


async def test_litellm(claude: Door, tmp_path: Path) -> None:
    found = await asyncio.to_thread(results, "litellm", "litellm_run.py", reach(claude, tmp_path))
    assert found == {
        "whole": "echo: [[chunks=2]] hello",
        "streamed": "echo: [[chunks=3]] hello",
        "tools": [["get_weather", {"city": "Bern"}]],
        "structured": {"x": 1},
        "refused": "NotFoundError",
    }


MODELS = """
- model_id: hub
  model_name: claude
  api_base: {url}
  api_key_name: hub
  supports_tools: true
  supports_schema: true
"""


async def test_llm_of_the_command_line(claude: Door, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=f"{claude.hub.url}/v1"))
    (tmp_path / "keys.json").write_text(json.dumps({"hub": claude.hub.key}))
    env = {**reach(claude, tmp_path), "LLM_USER_PATH": str(tmp_path)}

    async def llm(*argv: str, more: Mapping[str, str] | None = None) -> str:
        command: list[str | Path] = [program("langchain", "llm"), *argv]
        return (await asyncio.to_thread(run, command, {**env, **(more or {})})).strip()

    assert await llm("-m", "hub", "hello") == "echo: hello"
    assert await llm("-m", "hub", "--no-stream", "hello") == "echo: hello"
    assert await llm("-m", "hub", "-c", "and now?") == "echo: and now?"
    wish: dict[str, Any] = {"structured": {"name": "Ada", "age": 36}}
    assert json.loads(await llm("-m", "hub", "--schema", "name, age int", f"[[{json.dumps(wish)}]]")) == {
        "name": "Ada",
        "age": 36,
    }
    tool = 'def double(n: int) -> int:\n    """Twice as much."""\n    return 2 * n\n'
    wish = {"calls": [{"name": "double", "input": {"n": 21}}], "text": "done"}
    said = await llm("-m", "hub", "--functions", tool, "--td", f"[[{json.dumps(wish)}]]")
    assert said.endswith("done")
