"""The official conformance suites: the hub as it is, and the hub's mount class with a server that has every fixture.

The suites call tools, resources and prompts of certain names, which a product does not have. So the product is held to
all that needs none (the baseline files name the rest, and nothing is to be added to them), the mount class to all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.hub import HubProcess
from tests.mcp_clients.conformance import HANDSHAKE, HANDSHAKE_ALL, OF_2025, OF_2026, Report, Suite, run_suite
from tests.mcp_clients.fixture_process import running_fixtures
from tests.mcp_clients.key_proxy import KeyProxy
from tests.mcp_clients.tools import argv

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = ("daphne", "uvicorn")
# The least number of checks that pass, by suite: a suite that ran nothing would be content, too.
PRODUCT = {HANDSHAKE: 14, OF_2025: 48, OF_2026: 117}
MOUNT = {HANDSHAKE_ALL: 44, OF_2025: 81, OF_2026: 169}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product(served: HubProcess) -> AsyncIterator[str]:
    """The hub's MCP address for those who can't send a key."""
    async with KeyProxy(served.url, served.key) as proxy:
        yield f"{proxy.url}/mcp"


@pytest.fixture(scope="module", params=SERVERS)
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    argv(HANDSHAKE_ALL.tool)  # skips before anything is started
    with running_fixtures(tmp_path_factory.mktemp("fixtures"), request.param) as url:
        yield f"{url}/mcp"


def named(suite: Suite) -> str:
    return f"{suite.tool.rpartition('/')[2]} {suite.options[-1]}"


@pytest.mark.parametrize("suite", PRODUCT, ids=named)
async def test_the_hub_fails_nothing_but_what_needs_fixtures(product: str, suite: Suite, tmp_path: Path) -> None:
    report = await run_suite(suite, product, tmp_path, is_product=True)
    assert report.ended.code == 0, report.ended.text
    assert report.passed >= PRODUCT[suite], report.ended.text


@pytest.mark.parametrize("suite", MOUNT, ids=named)
async def test_the_mount_class_fails_nothing(mount: str, suite: Suite, tmp_path: Path) -> None:
    report = await run_suite(suite, mount, tmp_path, is_product=False)
    assert unexplained(report) == set(), report.ended.text
    assert report.ended.code == 0, report.ended.text
    assert report.passed >= MOUNT[suite], report.ended.text


def unexplained(report: Report) -> set[str]:
    """The tasks extension is in no SDK yet, and not scored."""
    return {name for name in report.failing if not name.startswith("tasks-")}
