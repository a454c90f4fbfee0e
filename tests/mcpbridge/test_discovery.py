"""The note a hub leaves for programs of the same user, and when it is not believed."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.discovery import FILE, Hub, has_discovery, read_discovery, remove_discovery, write_discovery

KEY = "hub_secret_key"


def hub(**fields: Any) -> Hub:
    return Hub(**{"url": "http://127.0.0.1:8000", "key": KEY, "pid": os.getpid(), "version": "1.2.3", **fields})


def write_text(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text)
    (folder / FILE).chmod(0o600)


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_note_is_read_as_it_was_written_and_is_the_owners_alone(tmp_path: Path) -> None:
    write_discovery(tmp_path, hub())
    assert read_discovery(tmp_path) == hub()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [it.name for it in tmp_path.iterdir()] == [FILE]


def test_note_takes_the_place_of_an_older_one_others_could_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("old")
    (tmp_path / FILE).chmod(0o644)
    write_discovery(tmp_path, hub())
    assert read_discovery(tmp_path) == hub()


def test_reader_sees_a_whole_note_while_another_is_written(tmp_path: Path) -> None:
    write_discovery(tmp_path, hub())
    is_over = threading.Event()

    def rewrite() -> None:
        while not is_over.is_set():
            write_discovery(tmp_path, hub(version="x" * 5_000))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        assert all(read_discovery(tmp_path) is not None for _ in range(500))
    finally:
        is_over.set()
        writer.join()


def test_folder_without_a_note_has_no_hub(tmp_path: Path) -> None:
    assert read_discovery(tmp_path) is None
    assert read_discovery(tmp_path / "missing") is None
    assert not has_discovery(tmp_path)


def test_hub_that_has_ended_is_none_though_its_note_is_there(tmp_path: Path) -> None:
    write_discovery(tmp_path, hub(pid=ended_pid()))
    assert read_discovery(tmp_path) is None
    assert has_discovery(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 50_000,
        "{}",
        json.dumps({"url": 1, "key": KEY, "pid": 1, "version": "1"}),
        json.dumps({"url": "http://h", "key": KEY, "pid": "1", "version": "1"}),
        json.dumps({"url": "http://h", "key": KEY, "pid": -1, "version": "1"}),
        json.dumps({"url": "http://h", "key": KEY, "pid": 10**30, "version": "1"}),
        json.dumps({"url": "http://h", "key": "two\nlines", "pid": os.getpid(), "version": "1"}),
    ],
    ids=[f"garbage {number}" for number in range(11)],  # the text of the last one is another in each process
)
def test_garbage_is_no_hub(tmp_path: Path, text: str) -> None:
    write_text(tmp_path, text)
    assert read_discovery(tmp_path) is None


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o666])
def test_note_others_can_read_or_change_is_left_aside_and_why_is_logged(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    write_discovery(tmp_path, hub())
    (tmp_path / FILE).chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert read_discovery(tmp_path) is None
    assert "other users can read or change it" in caplog.text
    assert KEY not in caplog.text


def test_note_of_another_user_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_discovery(tmp_path, hub())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert read_discovery(tmp_path) is None
    assert "belongs to another user" in caplog.text


def test_neither_a_link_nor_a_pipe_nor_a_folder_is_read(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_discovery(elsewhere, hub())
    note = tmp_path / FILE
    note.symlink_to(elsewhere / FILE)
    assert read_discovery(tmp_path) is None
    note.unlink()
    os.mkfifo(note, 0o600)
    assert read_discovery(tmp_path) is None
    note.unlink()
    note.mkdir(0o700)
    assert read_discovery(tmp_path) is None


def test_hub_takes_back_its_own_note_only(tmp_path: Path) -> None:
    remove_discovery(tmp_path)
    write_discovery(tmp_path, hub(pid=os.getppid()))
    remove_discovery(tmp_path)
    assert has_discovery(tmp_path)
    write_discovery(tmp_path, hub())
    remove_discovery(tmp_path)
    assert not has_discovery(tmp_path)


def test_key_is_not_in_what_is_printed_of_a_hub() -> None:
    assert KEY not in repr(hub())
