"""Real child processes: small Python scripts that do one wrong thing each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from providers import process as process_module
from providers.errors import ProtocolBroken, WorkerCrashed
from providers.lines import HIGH_WATER_BYTES
from providers.process import (
    HARD_PROCESSES_FACTOR,
    STDERR_TAIL_BYTES,
    THREADS_PER_PROCESS,
    Process,
    ProcessLimits,
    lower_limit,
    parent_death_argv,
)
from tests.providers.fakes import BOUND_S, is_gone, python, until

pytestmark = pytest.mark.usefixtures("nothing_left")

ROOT = Path(__file__).resolve().parents[2]
LADDER_S = process_module.STDIN_GRACE_S + process_module.TERM_GRACE_S
# A moment for the machine on top of what the code itself allows.
SLACK_S = 1.5

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(tmp_path: Path, nothing_left: None) -> AsyncIterator[Start]:
    started: list[Process] = []

    async def start(
        code: str = "hear()", *, limits: ProcessLimits | None = None, env: dict[str, str] | None = None
    ) -> Process:
        started.append(await Process.start(python(code), env or {}, tmp_path, limits or ProcessLimits()))
        return started[-1]

    yield start
    for process in started:
        await process.stop()


async def read(process: Process) -> bytes:
    return await asyncio.wait_for(process.read_line(), BOUND_S)


async def pid_from(process: Process) -> int:
    return int(await read(process))


async def test_a_child_hears_lines_and_says_lines(start: Start) -> None:
    process = await start("for line in sys.stdin: print('heard', line.strip(), flush=True)")
    await process.send(b"one")
    await process.send(b"two")
    assert [await read(process), await read(process)] == [b"heard one", b"heard two"]
    assert process.is_running
    assert process.returncode is None


async def test_a_child_gets_exactly_the_environment_it_is_given(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_SECRET", "never to be seen")
    process = await start("print(json.dumps(dict(os.environ)), flush=True); hear()", env={"ONLY": "this"})
    environ = await read(process)
    assert b"never to be seen" not in environ
    assert b'"ONLY": "this"' in environ


async def test_a_child_works_in_its_folder_and_leads_a_group_of_its_own(start: Start, tmp_path: Path) -> None:
    process = await start("print(os.getcwd()); print(os.getpgid(0), flush=True); hear()")
    assert (await read(process)).decode() == os.path.realpath(tmp_path)  # noqa: ASYNC240
    assert await pid_from(process) == process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="kernel limits of other processes can be set on Linux only")
async def test_a_child_runs_within_its_kernel_limits(start: Start) -> None:
    limits = ProcessLimits(data_bytes=3 << 30, cpu_s=77, nice=5)
    process = await start(limits=limits)
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (3 << 30, 3 << 30)
    assert resource.prlimit(process.pid, resource.RLIMIT_CPU) == (77, 77)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="kernel limits of other processes can be set on Linux only")
async def test_a_child_without_a_cgroup_gets_its_other_limits_all_the_same(start: Start) -> None:
    """A weight needs a cgroup; niceness and processor seconds hold everywhere."""
    process = await start(limits=ProcessLimits(cpu_weight=50, max_processes=4, memory_bytes=1 << 30, cpu_s=77, nice=5))
    assert resource.prlimit(process.pid, resource.RLIMIT_CPU) == (77, 77)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 5
    assert process.is_running


@pytest.mark.parametrize(
    ("limits", "nice"),
    [
        (ProcessLimits(cpu_weight=100), 0),
        (ProcessLimits(cpu_weight=10), 10),
        (ProcessLimits(cpu_weight=1), 19),
        (ProcessLimits(cpu_weight=10_000), 0),
        (ProcessLimits(cpu_weight=10, nice=15), 15),
    ],
)
async def test_a_share_becomes_niceness_where_there_is_no_cgroup(
    start: Start, limits: ProcessLimits, nice: int
) -> None:
    process = await start(limits=limits)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == max(nice, os.getpriority(os.PRIO_PROCESS, 0))


def test_the_kernels_bound_leaves_each_process_its_threads() -> None:
    share = ProcessLimits(cpu_weight=50, max_processes=4, memory_bytes=1 << 30).share
    assert (share.cpu_weight, share.memory_bytes) == (50, 1 << 30)
    assert share.tasks == 4 * HARD_PROCESSES_FACTOR * THREADS_PER_PROCESS
    assert ProcessLimits().share.files() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="kernel limits of other processes can be set on Linux only")
async def test_a_child_without_limits_keeps_those_of_the_hub(start: Start) -> None:
    process = await start()
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == resource.getrlimit(resource.RLIMIT_DATA)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_child_whose_limits_cannot_be_set_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = []

    def refuse(which: int, pid: int, priority: int) -> None:
        pids.append(pid)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("providers.process.os.setpriority", refuse)
    with pytest.raises(PermissionError):
        await Process.start(python("time.sleep(60)"), {}, tmp_path, ProcessLimits(nice=5))
    await until(lambda: is_gone(pids[0]))


async def test_a_child_that_ended_before_its_limits_were_set_is_no_error(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(which: int, pid: int, priority: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr("providers.process.os.setpriority", too_late)
    process = await start("sys.exit(3)", limits=ProcessLimits(nice=5))
    with pytest.raises(WorkerCrashed):
        await read(process)


# --- programs that can't be run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefixed", [True, False], ids=["as the machine has it", "without setpriv"])
async def test_a_missing_program_is_told_from_one_that_crashes(
    tmp_path: Path, prefixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not prefixed:
        monkeypatch.setattr(process_module, "parent_death_argv", tuple)
    with pytest.raises(FileNotFoundError):
        await Process.start((str(tmp_path / "nowhere"),), {}, tmp_path, ProcessLimits())


@pytest.mark.parametrize("prefixed", [True, False], ids=["as the machine has it", "without setpriv"])
async def test_a_program_without_the_right_to_run_is_refused(
    tmp_path: Path, prefixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not prefixed:
        monkeypatch.setattr(process_module, "parent_death_argv", tuple)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(PermissionError):
        await Process.start((str(program),), {}, tmp_path, ProcessLimits())


@pytest.mark.parametrize("tool", [None, "/bin/false"], ids=["missing", "not working"])
def test_without_a_working_setpriv_children_are_started_plainly(
    tool: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.process.shutil.which", lambda name: tool)
    assert parent_death_argv.__wrapped__() == ()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_a_child_dies_with_a_killed_hub(tmp_path: Path) -> None:
    parent = dedent(
        """
        import asyncio, pathlib, sys, time
        from providers.process import Process, ProcessLimits
        async def main():
            argv = (sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)")
            process = await Process.start(argv, {}, pathlib.Path("/"), ProcessLimits())
            await process.read_line()
            print(process.pid, flush=True)
            time.sleep(600)
        asyncio.run(main())
        """
    )
    hub = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    assert hub.stdout is not None
    pid = int(await asyncio.wait_for(hub.stdout.readline(), BOUND_S))
    assert not is_gone(pid)
    hub.kill()
    await hub.wait()
    await until(lambda: is_gone(pid))


# --- sending ---------------------------------------------------------------------------------------------------------


async def test_a_line_with_a_break_inside_is_not_sent(start: Start) -> None:
    """A caller's text could speak the protocol otherwise."""
    process = await start("print(repr(sys.stdin.readline()), flush=True)")
    with pytest.raises(ValueError, match="line break"):
        await process.send(b'{"text": "\n"}')
    await process.send(b"clean")
    assert await read(process) == b"'clean\\n'"


async def test_sending_waits_while_the_child_does_not_read(start: Start) -> None:
    process = await start(
        "signal.signal(signal.SIGUSR1, lambda *_: print(len(sys.stdin.readline()), flush=True))\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()"
    )
    await read(process)
    sending = asyncio.create_task(process.send(b"x" * 1_000_000))
    done, _ = await asyncio.wait([sending], timeout=0.1)
    assert not done
    os.kill(process.pid, signal.SIGUSR1)
    await asyncio.wait_for(sending, BOUND_S)
    assert await read(process) == b"1000001"


@pytest.mark.parametrize(
    "end",
    ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.close(0); time.sleep(60)"],
    ids=["exits", "is killed", "closes its input"],
)
async def test_a_child_that_goes_while_sending_waits_ends_the_wait(start: Start, end: str) -> None:
    script = "signal.signal(signal.SIGUSR1, lambda *_: None)\nprint('up', flush=True)\nsignal.pause()\n"
    process = await start(script + end)
    await read(process)
    sending = asyncio.create_task(process.send(b"x" * 1_000_000))
    await asyncio.wait([sending], timeout=0.05)
    assert not sending.done()
    os.kill(process.pid, signal.SIGUSR1)
    await asyncio.wait_for(sending, BOUND_S)
    with pytest.raises(WorkerCrashed):
        await asyncio.wait_for(process.send(b"more"), BOUND_S)


async def test_a_child_that_dies_while_a_grandchild_holds_its_input_ends_the_wait_of_sending(start: Start) -> None:
    process = await start(
        """
        subprocess.Popen(["sleep", "60"], stdin=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        print('up', flush=True)
        signal.pause()
        """
    )
    await read(process)
    sending = asyncio.create_task(process.send(b"x" * 1_000_000))
    await asyncio.wait([sending], timeout=0.05)
    os.kill(process.pid, signal.SIGUSR1)
    await asyncio.wait_for(sending, BOUND_S)
    with pytest.raises(WorkerCrashed):
        await process.send(b"more")


async def test_sending_to_a_stopped_child_is_refused(start: Start) -> None:
    process = await start()
    await process.stop()
    with pytest.raises(WorkerCrashed):
        await process.send(b"hello?")


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_the_end_of_a_child_is_told_with_its_code_and_last_words(start: Start) -> None:
    process = await start("print('last answer', flush=True); sys.stderr.write('no more\\n'); sys.exit(7)")
    assert await read(process) == b"last answer"
    with pytest.raises(WorkerCrashed, match=r"ended with code 7: no more$"):
        await read(process)
    assert process.returncode == 7


async def test_the_last_words_are_the_end_of_a_long_speech(start: Start) -> None:
    process = await start("sys.stderr.write('x' * 5_000 + ' the reason\\n'); sys.exit(1)")
    with pytest.raises(WorkerCrashed, match=r"x the reason$"):
        await read(process)


async def test_a_child_that_ends_well_without_an_answer_has_crashed_all_the_same(start: Start) -> None:
    process = await start("sys.exit(0)")
    with pytest.raises(WorkerCrashed, match=r"ended with code 0$"):
        await read(process)


async def test_a_child_that_closes_its_output_but_lives_has_crashed_too(start: Start) -> None:
    process = await start("os.close(1); time.sleep(60)")
    with pytest.raises(WorkerCrashed, match=r"closed its output$"):
        await read(process)


async def test_a_killed_child_is_noticed_by_a_waiting_reader(start: Start) -> None:
    process = await start("print('up', flush=True); hear()")
    await read(process)
    reading = asyncio.create_task(process.read_line())
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(WorkerCrashed, match="code -9"):
        await asyncio.wait_for(reading, BOUND_S)
    assert not process.is_running


async def test_a_flood_on_standard_error_neither_blocks_the_child_nor_grows_the_hub(start: Start) -> None:
    process = await start(
        """
        for _ in range(20_000):
            os.write(2, b"x" * 1_000)
        os.write(2, b"THE END")
        print("done", flush=True)
        hear()
        """
    )
    assert await read(process) == b"done"
    await until(lambda: process.stderr_tail.endswith("THE END"))
    assert len(process.stderr_tail) == STDERR_TAIL_BYTES


async def test_an_endless_line_is_a_broken_protocol(start: Start) -> None:
    process = await start("while True: os.write(1, b'x' * 65536)", limits=ProcessLimits(max_line_bytes=200_000))
    with pytest.raises(ProtocolBroken, match="over 200000 bytes"):
        await read(process)
    before = psutil.Process().memory_info().rss
    for _ in range(100):  # it goes on flooding, and nothing of it is kept
        await asyncio.sleep(0.001)
    assert psutil.Process().memory_info().rss - before < 8 << 20


async def test_a_child_that_writes_faster_than_it_is_read_is_held_up_and_nothing_is_lost(start: Start) -> None:
    count = 20_000
    process = await start(f"for n in range({count}): print(n, 'x' * 500)\nsys.stdout.flush()\nprint('end', flush=True)")
    lines = process._pipes.lines
    await until(lambda: lines.is_paused)
    assert lines._held_bytes < HIGH_WATER_BYTES + (1 << 20)
    assert process.is_running
    for n in range(count):
        assert (await read(process)).startswith(b"%d " % n)
    assert await read(process) == b"end"
    with pytest.raises(WorkerCrashed, match="code 0"):
        await read(process)


async def test_a_slow_reader_gets_all_that_a_dead_child_had_written(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the output is still in the pipe while the reader is slow: no grandchild is to blame for that."""
    monkeypatch.setattr(process_module, "PIPE_GRACE_S", 0.02)
    process = await start(
        f"print('x' * {HIGH_WATER_BYTES}, flush=True)\nsys.stdin.readline()\nprint('tail\\n' * 9 + 'tail')"
    )
    await until(lambda: process._pipes.lines.is_paused)
    await process.send(b"the end fits into the pipe, so you can end although nobody reads")
    await until(lambda: not process.is_running)
    await asyncio.sleep(0.1)  # several looks at the paused pipe
    assert len(await read(process)) == HIGH_WATER_BYTES
    assert [await read(process) for _ in range(10)] == [b"tail"] * 10
    with pytest.raises(WorkerCrashed, match="code 0"):
        await read(process)


async def test_an_output_held_open_by_a_grandchild_ends_with_the_child(start: Start) -> None:
    process = await start("print(subprocess.Popen(['sleep', '60']).pid, flush=True)")
    grandchild = await pid_from(process)
    with pytest.raises(WorkerCrashed, match="code 0"):
        await read(process)
    assert not is_gone(grandchild)
    await process.stop()
    await until(lambda: is_gone(grandchild))


# --- the end ---------------------------------------------------------------------------------------------------------


async def stop_within(process: Process, bound_s: float) -> None:
    began = time.monotonic()
    await asyncio.wait_for(process.stop(), BOUND_S)
    assert time.monotonic() - began < bound_s + SLACK_S
    assert not process.is_running
    assert is_gone(process.pid)


async def test_a_willing_child_ends_by_itself_when_its_input_closes(start: Start) -> None:
    process = await start("print('up', flush=True); hear()")
    await read(process)
    await stop_within(process, 0)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_limits_are_lowered_and_never_raised(start: Start) -> None:
    """A limit of the hub's own shell may be lower; raising it takes root, and the workers would not start."""
    kind, own = resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU)
    strict = await start(limits=ProcessLimits(cpu_s=100, nice=1))
    assert resource.prlimit(strict.pid, kind)[1] == 100
    lowered = await start()
    resource.prlimit(lowered.pid, kind, (50, 50))
    lower_limit(lowered.pid, kind, 100)
    assert resource.prlimit(lowered.pid, kind)[1] == 50
    assert resource.getrlimit(kind) == own


async def test_a_child_that_ignores_its_input_is_asked_to_end(start: Start) -> None:
    process = await start(
        """
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.1), os._exit(42)))
        print("up", flush=True)
        time.sleep(60)
        """
    )
    await read(process)
    await stop_within(process, process_module.STDIN_GRACE_S)
    assert process.returncode == 42


async def test_a_child_that_ignores_the_signal_is_killed(start: Start) -> None:
    process = await start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)")
    await read(process)
    await stop_within(process, LADDER_S)
    assert process.returncode == -signal.SIGKILL


async def test_a_frozen_child_is_killed(start: Start) -> None:
    process = await start("print('up', flush=True)\nhear()")
    await read(process)
    os.kill(process.pid, signal.SIGSTOP)
    await stop_within(process, LADDER_S)


async def test_a_child_that_has_not_read_all_it_was_sent_is_stopped_too(start: Start) -> None:
    process = await start("print('up', flush=True)\ntime.sleep(60)")
    await read(process)
    sending = asyncio.create_task(process.send(b"x" * 1_000_000))
    await asyncio.wait([sending], timeout=0.05)
    await stop_within(process, LADDER_S)
    await asyncio.wait_for(sending, BOUND_S)


@pytest.mark.parametrize("leader", ["hear()", "time.sleep(60)", "sys.exit(0)"], ids=["willing", "deaf", "gone"])
async def test_a_grandchild_that_ignores_signals_goes_with_its_group(start: Start, leader: str) -> None:
    grandchild = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = await start(
        f"""
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", {grandchild!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        subprocess.Popen(["sleep", "60"])  # holds the pipes
        print(child.pid, flush=True)
        {leader}
        """
    )
    pid = await pid_from(process)
    await stop_within(process, LADDER_S)
    await until(lambda: is_gone(pid))


async def test_stopping_twice_and_killing_after_the_end_do_no_harm(start: Start) -> None:
    process = await start()
    await asyncio.gather(process.stop(), process.stop())
    await process.stop()
    process.kill()
    assert not process.is_running


async def test_a_cancelled_stop_kills(start: Start) -> None:
    process = await start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)")
    await read(process)
    stopping = asyncio.create_task(process.stop())
    await asyncio.wait([stopping], timeout=0.01)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await until(lambda: not process.is_running)
    assert process.returncode == -signal.SIGKILL


async def test_kill_takes_the_whole_group_at_once(start: Start) -> None:
    process = await start("print(subprocess.Popen(['sleep', '60']).pid, flush=True)\nhear()")
    grandchild = await pid_from(process)
    process.kill()
    await until(lambda: not process.is_running and is_gone(grandchild))


async def test_a_killed_child_is_reported_as_killed(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Closing the transport polls the process too; whoever reaps it first must not lose its code."""
    for _ in range(50):
        process = await start("time.sleep(60)")
        process.kill()
        await until(lambda process=process: not process.is_running)  # type: ignore[misc]
        assert process.returncode == -signal.SIGKILL
    assert caplog.records == []


async def test_a_process_that_survives_its_killing_is_logged(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one in an uninterruptible sleep of the kernel would."""
    process = await start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)")
    await read(process)
    with monkeypatch.context() as patch:
        patch.setattr(process, "kill", lambda: None)
        patch.setattr(process_module, "TERM_GRACE_S", 0.01)
        patch.setattr(process_module, "KILL_GRACE_S", 0.01)
        await process.stop()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(process.pid) in caplog.text


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    """The `nothing_left` fixture counts them."""
    for ticks in range(6):
        starting = asyncio.create_task(Process.start(python("time.sleep(60)"), {}, tmp_path, ProcessLimits()))
        for _ in range(ticks):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await starting).stop()
