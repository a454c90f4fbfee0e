"""The example of docs/adding-a-provider.md, exactly as it stands there, keeps the contract of every adapter."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from providers import adapters, errors
from providers.adapters.base import Adapter
from providers.registry import adapters_by_name
from tests.clis.contract import CONTRACT, Promise
from tests.clis.dialects import DIALECTS, DUMMY_KEY, Dialect
from tests.clis.rig import Rig, open_rig
from tests.clis.test_contract import test_every_adapter_is_put_to_the_contract as put_every_adapter_to_the_contract

PAGE = Path(__file__).resolve().parent.parent / "docs" / "adding-a-provider.md"


def block(first_comment: str) -> str:
    """The one code block of the page that begins with this comment, after a `#!` line if it has one."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = [it for it in blocks if f"# {first_comment}" in it.splitlines()[:2]]
    return str(found)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Adapter]]:
    """The adapter's file, put where adapters are found by themselves."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "parrot.py").write_text(block("providers/adapters/parrot.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "__path__", [*adapters.__path__, str(folder)])
        adapters_by_name.cache_clear()
        yield importlib.import_module("providers.adapters.parrot").ADAPTER
    sys.modules.pop("providers.adapters.parrot")
    del adapters.parrot  # type: ignore[attr-defined]
    adapters_by_name.cache_clear()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bin") / "parrot"
    path.write_text(block("parrot").replace("#!/usr/bin/env python3", f"#!{sys.executable} -IS"))
    path.chmod(0o700)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(example: type[Adapter], program: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    entry = eval("{" + block("tests/clis/dialects.py") + "}", {"Dialect": Dialect, "DUMMY_KEY": DUMMY_KEY})
    folder = tmp_path_factory.mktemp("parrot")
    async with open_rig("parrot", folder, adapter=example, binary=program, dialect=entry["parrot"]) as opened:
        yield opened


def test_the_file_alone_makes_it_an_adapter(example: type[Adapter]) -> None:
    assert adapters_by_name()["parrot"] is example


def test_an_adapter_without_its_entry_fails_the_suite_and_says_where(example: type[Adapter]) -> None:
    assert "parrot" not in DIALECTS
    with pytest.raises(AssertionError, match=r"add parrot to DIALECTS in tests/clis/dialects\.py"):
        put_every_adapter_to_the_contract()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_the_example_keeps_the_contract(rig: Rig, promise: Promise) -> None:
    await promise(rig)


def test_the_example_tells_failures_apart(example: type[Adapter]) -> None:
    failure = sys.modules[example.__module__].failure
    assert isinstance(failure({"error": "login"}), errors.NeedsLogin)
    assert isinstance(failure({"error": "busy"}), errors.Overloaded)
    assert isinstance(failure({"error": "fell off the perch"}), errors.WorkerFailed)
