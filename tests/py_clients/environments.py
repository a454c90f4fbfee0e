"""Where the client libraries are, and how their programs are run: with nothing of this process but the PATH."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.programs import lacking

FOLDER = Path(__file__).resolve().parent
REQUIREMENT = "py-clients"
RUN_S = 120


def program(group: str, name: str) -> Path:
    """A program of one environment; skips the test, or fails it where the client libraries are required."""
    found = FOLDER / f".venv-{group}" / "bin" / name
    if not found.exists():
        install = f"UV_PROJECT_ENVIRONMENT=.venv-{group} uv sync --locked --project tests/py_clients --group {group}"
        lacking(REQUIREMENT, f"the client libraries are not installed for the tests; get them by: {install}")
    return found


def run(argv: list[str | Path], env: Mapping[str, str], *, given: str = "") -> str:
    """What a program prints. Raises AssertionError with what it says if it fails."""
    base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    ended = subprocess.run(
        argv, env={**base, **env}, capture_output=True, text=True, timeout=RUN_S, cwd=FOLDER, input=given
    )
    assert ended.returncode == 0, ended.stderr[-4_000:]
    return ended.stdout


def results(group: str, script: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What one of the programs beside this file got, by its parts."""
    printed = run([program(group, "python"), FOLDER / script], env)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found
