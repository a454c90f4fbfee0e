"""The pinned versions: one number per CLI, said once and kept everywhere."""

from __future__ import annotations

import pytest

from providers.adapters.base import Program
from providers.clis import pins
from providers.registry import adapters_by_name
from tests.clis.dialects import DIALECTS
from tests.clis.rig import REAL
from tests.programs import require_cli


def test_every_pinned_cli_has_an_adapter_and_is_tested_here() -> None:
    assert set(pins.names()) == set(REAL) <= set(DIALECTS)


@pytest.mark.parametrize("name", REAL)
def test_an_adapter_was_tested_with_the_version_that_is_pinned(name: str) -> None:
    assert adapters_by_name()[name].info.tested_version == pins.read_pin(name).version


@pytest.mark.parametrize("name", REAL)
def test_an_adapter_looks_for_its_program_where_the_pin_installs_it(name: str) -> None:
    assert adapters_by_name()[name].info.installed == pins.read_pin(name).programs


@pytest.mark.parametrize("name", REAL)
async def test_the_installed_program_says_that_it_is_the_pinned_version(name: str) -> None:
    program = Program(require_cli(name), env={})
    assert await adapters_by_name()[name].version(program) == pins.read_pin(name).version
