"""Starts the clients of package.json, each with the Node.js beside it, in an environment of its own.

On a machine without them the tests that need them are skipped, and say how to get them. Where HUB_TEST_REQUIRE names
`mcp-clients` (as in CI) that is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.programs import lacking

REQUIREMENT = "mcp-clients"
FOLDER = Path(__file__).resolve().parent
MODULES = FOLDER / "node_modules"
ENTRIES = {
    "@modelcontextprotocol/conformance": "dist/index.js",
    "@modelcontextprotocol/inspector": "clients/launcher/build/index.js",
    "conformance-2026": "dist/index.js",
    "mcp-remote": "dist/proxy.js",
}
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
# Longer than any of them takes for one answer; a hanging one fails after that.
RUN_S = 30.0
KILL_WAIT_S = 5.0
# A list of tools is one line.
LINE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    @property
    def result(self) -> Any:
        """The answer in what the inspector prints."""
        assert self.code == 0, f"exit code {self.code}:\n{self.text}"
        return json.loads(self.stdout)["result"]


def argv(tool: str, *args: str) -> list[str]:
    """The command line of a pinned tool; skips the test, or fails it where the tools are required."""
    entry = MODULES / tool / ENTRIES[tool]
    if not entry.is_file() or (node := find_node()) is None or _installed_version(tool) != pinned_version(tool):
        lacking(REQUIREMENT, f"{tool} is not installed for the tests; get it by: npm ci --prefix tests/mcp_clients")
    return [str(node), str(entry), *args]


def find_node() -> Path | None:
    """The Node.js of the package for this machine, which npm chose."""
    packages: dict[str, str] = _read(FOLDER / "package.json")["optionalDependencies"]
    found = (MODULES / name / "bin" / "node" for name in packages)
    return next((it for it in found if it.is_file()), None)


def pinned_version(tool: str) -> str:
    """As package.json says, where an alias (npm:NAME@VERSION) may stand before it."""
    return str(_read(FOLDER / "package.json")["dependencies"][tool]).rpartition("@")[2]


def _installed_version(tool: str) -> str:
    return str(_read(MODULES / tool / "package.json")["version"])


@cache
def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def clean_env(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a client under test may see: nothing of the environment that the tests run in."""
    node = find_node()
    path = SYSTEM_PATH if node is None else f"{node.parent}:{SYSTEM_PATH}"
    quiet = {"DO_NOT_TRACK": "1", "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1"}
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **quiet, **(extra or {})}


@contextlib.asynccontextmanager
async def started(
    command: list[str], *, env: Mapping[str, str], cwd: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program with pipes, in a session of its own; nothing of it outlives the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=LINE_BYTES,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        async with asyncio.timeout(KILL_WAIT_S):
            await process.communicate()


async def run(
    command: list[str], *, env: Mapping[str, str], timeout_s: float = RUN_S, cwd: Path | None = None, text: str = ""
) -> Ended:
    """Run a program to its end, with `text` as its input. Raises TimeoutError."""
    async with started(command, env=env, cwd=cwd) as process:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(text.encode())
        assert process.returncode is not None
        return Ended(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
