"""The real CLIs for the tests: the pinned versions that `manage.py install_cli` puts into the checkout's data folder.

On a machine without them the tests that need them are skipped, and say how to get them. Where HUB_TEST_REQUIRE names
a CLI (as in CI) its absence is a failure.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from providers.programs import find_program
from providers.registry import adapters_by_name

CLIS_FOLDER = Path(__file__).resolve().parent.parent / "var" / "clis"


def require_cli(name: str) -> Path:
    """The program of a pinned CLI; skips the test, or fails it where the CLI is required."""
    info = adapters_by_name()[name].info
    program = find_program(info, override="", clis_folder=CLIS_FOLDER, path="")
    if program is not None:
        return program
    lacking(
        name, f"{name} is not installed for the tests; get it by: HUB_DATA_DIR= uv run manage.py install_cli {name}"
    )


def lacking(requirement: str, message: str) -> NoReturn:
    """Skip a test for what is not there, or fail it where HUB_TEST_REQUIRE names that."""
    if requirement in os.environ.get("HUB_TEST_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)
