from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from providers import memory
from providers.memory import tree_rss_bytes

PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', sys.argv[1]], stdout=1); sys.stdin.read()"
)
CHILD = "data = b'x' * (64 << 20); print('up', flush=True); import time; time.sleep(60)"


@pytest.fixture
def tree() -> Iterator[int]:
    """A process whose child holds 64 MB."""
    argv = [sys.executable, "-S", "-c", PARENT, CHILD]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        os.killpg(process.pid, 9)


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_tree_weighs_as_much_as_all_its_processes(tree: int, has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_proc:
        monkeypatch.setattr(memory, "_descendants", memory._descendants_by_scan)
    own = psutil.Process(tree).memory_info().rss
    assert own + (64 << 20) < tree_rss_bytes(tree) < own + (128 << 20)


def test_what_is_gone_weighs_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert tree_rss_bytes(process.pid) == 0
    assert memory._descendants_by_scan(process.pid) == []
