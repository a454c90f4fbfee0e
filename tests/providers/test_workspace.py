from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from providers.adapters.base import WorkerFolder
from providers.workspace import (
    guest_folder,
    leave_folder,
    make_folder,
    remember_process,
    remove_folder,
    sweep_guests,
    sweep_leftovers,
)
from tests.providers.fakes import BOUND_S


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run" / "workers"


def test_a_workers_folders_are_new_empty_and_private(root: Path) -> None:
    first, second = make_folder(root), make_folder(root)
    assert first.root != second.root
    for folder in (first.root, first.cwd, first.tmp, first.state, root):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [list(folder.iterdir()) for folder in (first.cwd, first.tmp, first.state)] == [[], [], []]


def test_a_removed_folder_is_gone_with_all_that_was_written_there(root: Path) -> None:
    folder = make_folder(root)
    (folder.cwd / "deep").mkdir()
    (folder.cwd / "deep" / "file").write_text("x")
    remove_folder(folder)
    remove_folder(folder)
    assert list(root.iterdir()) == []


def test_no_half_made_folder_is_left_when_the_disk_is_full(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def full(path: Path, *args: object, **options: object) -> None:
        if path.name == "tmp":
            raise OSError(28, "No space left on device")
        mkdir(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        make_folder(root)
    assert list(root.iterdir()) == []


def test_a_process_left_behind_by_a_killed_hub_is_ended_with_its_folder(
    root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    remember_process(make_folder(root), sleeper.pid)
    make_folder(root)  # a hub killed before its worker had started
    assert sweep_leftovers(root) == 2
    assert sleeper.wait(BOUND_S) == -9
    assert list(root.iterdir()) == []


def test_a_later_process_with_the_same_number_is_spared(root: Path, sleeper: subprocess.Popen[bytes]) -> None:
    folder = make_folder(root)
    started = psutil.Process(sleeper.pid).create_time()
    (folder.root / "pid").write_text(f"{sleeper.pid} {started - 5}")
    assert sweep_leftovers(root) == 1
    assert sleeper.poll() is None
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("noted", ["", "12", "a b", "1 2 3", "-1 0", "99999999 1.0", "\udcff"])
def test_a_note_that_makes_no_sense_ends_no_process(root: Path, noted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("providers.workspace.os.killpg", lambda pid, number: killed.append(pid))
    folder = make_folder(root)
    (folder.root / "pid").write_bytes(os.fsencode(noted))
    assert sweep_leftovers(root) == 1
    assert killed == []
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_process_that_can_not_be_ended_does_not_stop_the_sweep(
    root: Path, sleeper: subprocess.Popen[bytes], error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, number: int) -> None:
        raise error

    monkeypatch.setattr("providers.workspace.os.killpg", refuse)
    remember_process(make_folder(root), sleeper.pid)
    assert sweep_leftovers(root) == 1
    assert list(root.iterdir()) == []


def test_a_sweep_touches_only_folders_and_needs_none(root: Path) -> None:
    assert sweep_leftovers(root) == 0
    root.mkdir(parents=True)
    (root / "README").write_text("not a worker")
    assert sweep_leftovers(root) == 0
    assert (root / "README").exists()


def test_a_process_that_has_ended_already_is_not_noted(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    folder = WorkerFolder(tmp_path)
    remember_process(folder, sleeper.pid)
    assert not (tmp_path / "pid").exists()


def test_what_a_killed_guest_left_is_swept_and_a_living_ones_is_not(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """`run_mcp` brings an engine of its own where no hub runs; several may, beside a hub that comes later."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine, dead, alive = guest_folder(tmp_path), tmp_path / f"guest-{ended.pid}", tmp_path / f"guest-{os.getppid()}"
    assert mine == tmp_path / f"guest-{os.getpid()}"
    folders = [make_folder(root) for root in (mine, dead, alive)]
    remember_process(folders[1], sleeper.pid)
    assert sweep_guests(tmp_path) == 1
    assert sleeper.wait(BOUND_S) < 0
    assert [it.root.exists() for it in folders] == [True, False, True]
    assert not dead.exists()


def test_guest_leaves_nothing_and_the_hubs_own_folder_stays(tmp_path: Path, root: Path) -> None:
    mine = guest_folder(tmp_path)
    for folder in (mine, root):
        make_folder(folder)
        leave_folder(folder)
    assert (mine.exists(), root.exists()) == (False, True)
