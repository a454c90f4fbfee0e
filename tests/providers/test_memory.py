from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from providers import memory
from providers.errors import WorkerCrashed
from providers.memory import NOTHING, ProcessTable, TreeUsage
from providers.pool import WorkerPool
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.worker import Worker
from tests.providers.fakes import answer_of, is_gone, scripted, start_worker, until

MB = 1 << 20
PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', sys.argv[1]], stdout=1); sys.stdin.read()"
)
CHILD = "data = b'x' * (64 << 20); print('up', flush=True); import time; time.sleep(60)"
# Its grandchild outlives the process between: it belongs to nobody but the session.
ORPHANING = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {PARENT!r}, sys.argv[1]], input=b'')"


@pytest.fixture(params=["proc", "psutil"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ProcessTable:
    if request.param == "psutil":
        monkeypatch.setattr(memory, "_read_proc", lambda others: memory._read_by_psutil())
    elif sys.platform != "linux":
        pytest.skip("there is no /proc")
    return ProcessTable()


@pytest.fixture
def grow() -> Iterator[Callable[[str], int]]:
    """Starts a process that leads a session in which a descendant holds 64 MB."""
    started: list[subprocess.Popen[bytes]] = []

    def grow(code: str) -> int:
        argv = [sys.executable, "-S", "-c", code, CHILD]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield grow
    for process in started:
        os.killpg(process.pid, 9)
        process.communicate()


def test_a_tree_weighs_as_much_as_all_its_processes(grow: Callable[[str], int], table: ProcessTable) -> None:
    pid = grow(PARENT)
    own = psutil.Process(pid).memory_info().rss
    usage = table.usage(pid)
    assert own + 64 * MB < usage.rss_bytes < own + 128 * MB
    assert usage.processes == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only descendants are found")
def test_a_grandchild_that_lost_its_parent_counts_all_the_same(grow: Callable[[str], int]) -> None:
    pid = grow(ORPHANING + "; sys.stdin.read()")
    for _ in range(500):  # until the process between is gone
        if ProcessTable().usage(pid).processes == 2:
            break
    usage = ProcessTable().usage(pid)
    assert usage.rss_bytes > 64 * MB
    assert usage.processes == 2


def test_what_is_gone_weighs_nothing(table: ProcessTable) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert table.usage(process.pid) == NOTHING


def test_a_zombie_weighs_nothing(table: ProcessTable) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert table.usage(process.pid) == NOTHING
    process.wait()


def test_processes_started_after_the_first_look_are_found(grow: Callable[[str], int], table: ProcessTable) -> None:
    table.usage(os.getpid())
    assert table.usage(grow(PARENT)).processes == 2


def test_one_look_serves_all_who_ask_within_a_moment(grow: Callable[[str], int]) -> None:
    table = ProcessTable(fresh_s=3_600)
    table.usage(os.getpid())
    assert table.usage(grow(PARENT)) == NOTHING


# --- workers that grow -----------------------------------------------------------------------------------------------

# Each turn starts children that hold a piece of memory each, and answers once they do.
GROWING = """
say(ready=True)
children = []
while True:
    hear()
    say(start=True)
    for _ in range(COUNT):
        code = "data = b'x' * (%d << 20); print(1, flush=True); import sys; sys.stdin.read()" % SIZE
        children.append(subprocess.Popen([sys.executable, '-S', '-c', code], stdin=subprocess.PIPE, stdout=-1))
        children[-1].stdout.readline()
    say(delta=str(children[-1].pid))
    if HANGS:
        time.sleep(60)
    say(end='stop', input=1, output=1)
"""


@asynccontextmanager
async def growing(
    folder: Path, limits: PoolLimits, *, count: int, size_mb: int, hangs: bool, most_processes: int = 0
) -> AsyncIterator[WorkerPool]:
    code = GROWING.replace("COUNT", str(count)).replace("SIZE", str(size_mb)).replace("HANGS", str(hangs))

    async def start() -> Worker:
        return await start_worker(folder, scripted(code), limits=ProcessLimits(max_processes=most_processes))

    pool = WorkerPool("growing", start, limits, asyncio.Semaphore(1))
    pool.open()
    try:
        yield pool
    finally:
        await pool.close(grace_s=0)


def has_grown(usage: TreeUsage, rss_bytes: int) -> bool:
    return usage.processes == 3 and usage.rss_bytes > rss_bytes


@pytest.mark.usefixtures("nothing_left", "short_ladder")
@pytest.mark.parametrize(("size_mb", "most_processes"), [(64, 0), (1, 2)])
async def test_a_worker_whose_children_hold_too_much_is_replaced_between_turns(
    tmp_path: Path, size_mb: int, most_processes: int
) -> None:
    """By memory, then by number: two children beside the worker itself."""
    limits = PoolLimits(floor=0, watch_s=0.05, rss_bytes=100 * MB, hard_rss_bytes=0)
    async with growing(tmp_path, limits, count=2, size_mb=size_mb, hangs=False, most_processes=most_processes) as pool:
        async with pool.lease(caller="alice", binding="alice") as lease:
            worker = lease.worker
            child = int(await answer_of(worker, "grow"))
            await until(lambda: has_grown(pool.roster.usage(worker), 2 * size_mb * MB))
            assert worker.is_alive
        await until(lambda: is_gone(worker.pid) and is_gone(child))
        assert pool.counts["replaced"] == 1


@pytest.mark.usefixtures("nothing_left", "short_ladder")
@pytest.mark.parametrize(("size_mb", "most_processes"), [(64, 0), (1, 1)])
async def test_a_worker_whose_children_hold_far_too_much_is_killed_within_its_turn(
    tmp_path: Path, size_mb: int, most_processes: int
) -> None:
    limits = PoolLimits(floor=0, watch_s=0.05, rss_bytes=50 * MB, hard_rss_bytes=100 * MB)
    async with growing(tmp_path, limits, count=2, size_mb=size_mb, hangs=True, most_processes=most_processes) as pool:
        async with pool.lease(caller="alice", binding="alice") as lease:
            worker = lease.worker
            with pytest.raises(WorkerCrashed):
                await answer_of(worker, "grow")
        await until(lambda: ProcessTable().usage(worker.pid) == NOTHING)
