"""The official conformance suites, run against an address; what they checked is read from their own report."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.mcp_clients.tools import FOLDER, Ended, argv, clean_env, run

SUITE_TIMEOUT_S = 120.0
# A scenario's folder in the report: server-NAME-TIME.
REPORT = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True, slots=True)
class Suite:
    """One of the suites: its package, what it is asked for, and the failures that a product without fixtures has."""

    tool: str
    options: tuple[str, ...]
    baseline: str


HANDSHAKE = Suite("@modelcontextprotocol/conformance", ("--suite", "active"), "baseline-0.1.16.yml")
OF_2025 = Suite("conformance-2026", ("--requirements", "2025-11-25"), "baseline-2025-11-25.yml")
OF_2026 = Suite("conformance-2026", ("--requirements", "2026-07-28"), "baseline-2026-07-28.yml")
# With fixtures even what the first suite holds back is asked.
HANDSHAKE_ALL = Suite("@modelcontextprotocol/conformance", ("--suite", "all"), "")


@dataclass(frozen=True, slots=True)
class Report:
    """What a suite found: the checks of each scenario, counted by their outcome."""

    ended: Ended
    scenarios: dict[str, Counter[str]]

    @property
    def passed(self) -> int:
        return sum(found["SUCCESS"] for found in self.scenarios.values())

    @property
    def failing(self) -> set[str]:
        return {name for name, found in self.scenarios.items() if found["FAILURE"]}


async def run_suite(suite: Suite, url: str, folder: Path, *, is_product: bool) -> Report:
    """Run a suite against an MCP address; a product's known failures are expected, and must fail."""
    home, results = folder / "home", folder / "results"
    home.mkdir(parents=True)
    options = [*suite.options, "--url", url, "-o", str(results)]
    if is_product:
        options += ["--expected-failures", str(FOLDER / suite.baseline)]
    command = argv(suite.tool, "server", *options)
    ended = await run(command, env=clean_env(home), timeout_s=SUITE_TIMEOUT_S)
    return Report(ended, dict(_read(it) for it in sorted(results.iterdir())))


def _read(folder: Path) -> tuple[str, Counter[str]]:
    match = REPORT.fullmatch(folder.name)
    assert match is not None, folder.name
    checks = json.loads((folder / "checks.json").read_text())
    return match["scenario"], Counter(str(check["status"]) for check in checks)
