from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from providers.adapters.base import AdapterInfo
from providers.adapters.echo import EchoAdapter
from providers.probe import probe
from providers.programs import find_program, passed_env
from tests.providers.fakes import is_gone, python, until

INFO = AdapterInfo(
    name="claude",
    title="Claude",
    program="claude",
    tested_version="1",
    default_model="m",
    models=("m",),
    installed=("bin/claude", "node_modules/*/claude"),
    pass_env=("ANTHROPIC_API_KEY", "EMPTY"),
)


@pytest.fixture
def clis(tmp_path: Path) -> Path:
    return tmp_path / "clis"


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def find(clis: Path, *, override: str = "", path: str = "", info: AdapterInfo = INFO) -> Path | None:
    return find_program(info, override=override, clis_folder=clis, path=path)


def test_the_owners_setting_wins_over_the_data_folder_and_that_over_the_path(clis: Path, tmp_path: Path) -> None:
    on_path = program(tmp_path / "path" / "claude")
    path = str(on_path.parent)
    assert find(clis, path=path) == on_path
    installed = program(clis / "claude" / "node_modules" / "linux" / "claude")
    assert find(clis, path=path) == installed
    preferred = program(clis / "claude" / "bin" / "claude")
    assert find(clis, path=path) == preferred
    chosen = program(tmp_path / "own")
    assert find(clis, path=path, override=str(chosen)) == chosen


def test_a_setting_that_names_no_file_is_not_silently_replaced_by_another_program(clis: Path) -> None:
    program(clis / "claude" / "bin" / "claude")
    assert find(clis, override="/nowhere/claude") is None


def test_a_setting_may_begin_at_the_home_folder(clis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = program(tmp_path / "own")
    assert find(clis, override="~/own") == own


def test_a_program_that_is_nowhere_is_none(clis: Path) -> None:
    assert find(clis) is None


def test_one_without_a_program_of_its_own_is_always_there(clis: Path) -> None:
    assert find(clis, info=EchoAdapter.info) is not None


def test_a_cli_sees_its_own_variables_and_those_of_the_network_and_no_other() -> None:
    environ = {"ANTHROPIC_API_KEY": "a", "EMPTY": "", "SECRET_KEY": "b", "HTTPS_PROXY": "c", "HOME": "d"}
    assert passed_env(INFO, environ) == {"ANTHROPIC_API_KEY": "a", "HTTPS_PROXY": "c"}
    assert passed_env(replace(INFO, program=""), environ) == {"ANTHROPIC_API_KEY": "a"}


# --- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
async def test_a_probe_answers_with_what_the_program_prints_and_sees_only_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HUB_SECRET", "x")
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}), os.getcwd() == os.environ['TMPDIR'])"
    printed = await probe((sys.executable, "-I", "-c", code), {"ONLY": "this"})
    assert printed.split() == [b"['ONLY',", b"'TMPDIR']", b"True"]


@pytest.mark.usefixtures("nothing_left")
async def test_a_probe_of_a_missing_program_is_empty() -> None:
    assert await probe(("/nowhere/claude", "--version"), {}) == b""


@pytest.mark.usefixtures("nothing_left")
async def test_a_probe_that_hangs_is_ended_with_its_group(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    argv = python(f"p = subprocess.Popen(['/bin/sleep', '60'])\nopen({str(noted)!r}, 'w').write(str(p.pid))\np.wait()")
    assert await probe(argv, {}, timeout_s=0.5) == b""
    await until(lambda: is_gone(int(noted.read_text())))
