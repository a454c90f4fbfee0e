"""Fixtures that keep a process alive over the tests of a module: a start costs more than all its turns."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.clis.rig import REAL, Rig, open_rig


@pytest_asyncio.fixture(params=REAL, scope="module", loop_scope="module")
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Every adapter with its real program, one process for all turns of an owner and a system prompt."""
    async with open_rig(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """For what only claude does."""
    async with open_rig("claude", tmp_path_factory.mktemp("claude")) as opened:
        yield opened
