"""One Chromium for the tests of a file, a window for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import Shots, running_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer: Playwright's event loop runs as long as it does, and no asynchronous test could beside it."""
    with running_chromium() as started:
        yield started


@pytest.fixture
def shots(tmp_path: Path) -> Shots:
    return Shots(tmp_path)
