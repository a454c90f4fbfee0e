"""Resident memory of process trees, cheap enough to be watched."""

from __future__ import annotations

from pathlib import Path

import psutil


def tree_rss_bytes(pid: int) -> int:
    """Resident bytes of a process and all its descendants; 0 once it is gone. Shared pages count in each."""
    return sum(_rss_bytes(member) for member in (pid, *_descendants(pid)))


def _rss_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _descendants(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():
        return _descendants_by_scan(pid)
    try:
        # One small file per thread instead of a scan of all processes, which is what psutil does.
        children = [int(word) for path in tasks.glob("*/children") for word in path.read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in _descendants(child)]


def _descendants_by_scan(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []
