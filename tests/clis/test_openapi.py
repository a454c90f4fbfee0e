"""The OpenAPI document says what the hub does: schemathesis with all its checks, over real claude."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.asking import make_keys
from tests.clis.dialects import DIALECTS
from tests.hub import HubProcess, running_hub
from tests.programs import require_cli
from tests.py_clients.environments import FOLDER, program
from tests.vendor_api import VendorApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = "/v1/openapi.json"
SECONDS = 40
# It quotes the requests it has made up, and some are large.
LINE_CHARS = 600
OFTEN = {"HUB_KEY_REQUESTS_PER_MINUTE": "1000000", "HUB_AUTH_FAILURES_PER_MINUTE": "0", "HUB_SHUTDOWN_GRACE_S": "1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HubProcess]:
    async with VendorApi() as vendor:
        env = {
            "HUB_PROVIDERS": "claude,echo",
            "HUB_CLAUDE_BIN": str(require_cli("claude")),
            **DIALECTS["claude"].env(vendor.url),
            **OFTEN,
        }
        opened = HubProcess(tmp_path_factory.mktemp("hub"), env=env)
        try:
            await asyncio.to_thread(opened.start)
            yield opened
        finally:
            opened.close()


@pytest.fixture(scope="module")
def admins_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running_hub(tmp_path_factory.mktemp("admins"), env={"HUB_PROVIDERS": "echo", **OFTEN}) as opened:
        yield opened


def schemathesis(hub: HubProcess, key: str, home: Path, *which: str) -> str:
    """Its report; fails the test with it if a check has failed."""
    argv: list[str | Path] = [
        *(program("schemathesis", "st"), "--config-file", FOLDER / "schemathesis.toml", "run", hub.url + DOCUMENT),
        *("-H", f"Authorization: Bearer {key}", "--seed", "1", "--generation-database", "none", "--no-color"),
        *("--phases", "examples,coverage,fuzzing,stateful", "-n", "25", "--max-time", str(SECONDS)),
        *("--request-timeout", "20", "--continue-on-failure", *which),
    ]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    ended = subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, timeout=SECONDS * 4)
    said = "\n".join(line[:LINE_CHARS] for line in ended.stdout.splitlines())
    assert ended.returncode == 0, said + ended.stderr[-2_000:]
    return ended.stdout


async def test_what_callers_use(hub: HubProcess, tmp_path: Path) -> None:
    report = await asyncio.to_thread(schemathesis, hub, hub.key, tmp_path, "--exclude-path-regex", "/admin/")
    assert "No issues found" in report or " passed" in report


async def test_what_administrators_use(admins_hub: HubProcess, tmp_path: Path) -> None:
    keys = make_keys(admins_hub, root={"scopes": ["admin", "chat", "sessions"]})
    report = await asyncio.to_thread(
        schemathesis, admins_hub, keys["root"], tmp_path, "--include-path-regex", "/admin/"
    )
    assert "No issues found" in report or " passed" in report


async def test_every_operation_names_its_errors_and_who_may_ask(hub: HubProcess) -> None:
    async with httpx.AsyncClient(base_url=hub.url) as client:
        document = (await client.get(DOCUMENT)).json()
        assert (await client.get("/v1/docs")).status_code == 200
    assert document["components"]["securitySchemes"]["BearerKey"] == {"type": "http", "scheme": "bearer"}
    operations = {
        f"{method} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    for name, operation in operations.items():
        assert {"BearerKey": []} in operation["security"], name
        assert {"400", "401", "404", "405", "429", "500", "503"} <= set(operation["responses"]), name
    for name in ("post /v1/chat/completions", "post /v1/responses"):
        content = operations[name]["responses"]["200"]["content"]
        assert {"application/json", "text/event-stream"} == set(content), name
    assert json.dumps(document).count("$ref") > 50
