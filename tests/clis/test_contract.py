"""Every adapter there is keeps the contract; a new one can't be forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from providers.registry import adapters_by_name
from tests.clis.contract import CONTRACT, Promise
from tests.clis.dialects import DIALECTS
from tests.clis.rig import Rig, open_rig


def test_every_adapter_is_put_to_the_contract() -> None:
    forgotten = sorted(set(adapters_by_name()) - set(DIALECTS))
    assert not forgotten, f"add {', '.join(forgotten)} to DIALECTS in tests/clis/dialects.py"


def test_nothing_is_put_to_the_contract_that_is_no_adapter() -> None:
    assert set(DIALECTS) <= set(adapters_by_name())


@pytest_asyncio.fixture(params=sorted(DIALECTS), scope="module", loop_scope="module")
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_the_contract_is_kept(rig: Rig, promise: Promise) -> None:
    await promise(rig)
