"""`manage.py hub` on a fresh folder and on a used one, and what keeps it from starting."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.asking import CHAT, answer_of, ask
from tests.hub import ROOT, HubProcess, clean_env, free_port, running_hub

WAIT_S = 30


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with all its providers on its first run, its folder in a place that needs quoting."""
    with running_hub(tmp_path_factory.mktemp("it's fresh")) as started:
        yield started


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_data_folder_and_secrets_are_the_owners_alone(fresh: HubProcess) -> None:
    assert mode_of(fresh.data_dir) == 0o700
    for name in ("local.key", "admin.password", "secret.key"):
        assert mode_of(fresh.data_dir / name) == 0o600


def test_secrets_are_in_their_files_and_nowhere_in_the_output(fresh: HubProcess) -> None:
    log = fresh.log.read_text()
    for name in ("local.key", "admin.password", "secret.key"):
        secret = (fresh.data_dir / name).read_text().strip()
        assert len(secret) >= 16
        assert secret not in log
    assert "admin.password" in log


def test_greeting_names_each_provider_with_its_state_and_what_mends_it(fresh: HubProcess) -> None:
    log = fresh.log.read_text()
    assert f"ready at {fresh.url}" in log
    assert f"{fresh.url}/v1" in log
    assert f"{fresh.url}/admin/" in log
    assert re.search(r"echo +\S+ +(ready|starting)", log)
    for name in ("claude", "gemini"):
        assert re.search(rf"{name} .*not installed.*uv run manage.py install_cli {name}", log)


def test_curl_line_of_the_greeting_works_as_printed(fresh: HubProcess) -> None:
    line = fresh.log.read_text().split("Try it:")[1].strip()
    assert line.startswith("curl")
    ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=WAIT_S, env=clean_env(ROOT, {}))
    assert '"content":"Hello!"' in ran.stdout, ran.stderr


def test_providers_that_are_not_there_are_down_and_say_what_to_do(fresh: HubProcess) -> None:
    assert httpx.get(f"{fresh.url}/health").json()["providers"] == {
        **dict.fromkeys(("claude", "codex", "gemini"), "down"),
        "echo": "up",
    }
    response = httpx.post(fresh.url + CHAT, json=ask("Hi", model="claude"), headers=fresh.headers)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "provider_not_installed")
    assert "install_cli claude" in response.json()["error"]["message"]


def test_auto_never_leads_to_the_demo(fresh: HubProcess) -> None:
    response = httpx.post(fresh.url + CHAT, json=ask("Hi", model="auto"), headers=fresh.headers)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_provider_ready")
    assert "install_cli" in response.json()["error"]["message"]


def test_second_hub_on_the_same_folder_refuses_and_the_first_goes_on(fresh: HubProcess) -> None:
    second = fresh.run("hub", "--bind", "127.0.0.1:0")
    assert second.returncode == 1
    assert f"another hub (process {fresh.pid}) runs on {fresh.data_dir}" in second.stderr
    assert "Traceback" not in second.stderr
    assert answer_of(httpx.post(fresh.url + CHAT, json=ask("Hi"), headers=fresh.headers)) == "Hi"


def test_second_run_keeps_the_key_and_the_admin(tmp_path: Path) -> None:
    with running_hub(tmp_path) as first:
        key = first.key
    with running_hub(tmp_path) as second:
        assert second.key == key
        assert answer_of(httpx.post(second.url + CHAT, json=ask("Hi"), headers=second.headers)) == "Hi"
        with closing(sqlite3.connect(second.data_dir / "hub.sqlite3")) as database:
            assert database.execute("SELECT count(*) FROM auth_user").fetchone() == (1,)
            assert database.execute("SELECT count(*) FROM chat_apikey").fetchone() == (1,)
        assert second.log.read_text().count("user admin") == 1


def test_lost_key_file_gets_a_new_key_and_the_old_one_ends(tmp_path: Path) -> None:
    with running_hub(tmp_path) as first:
        old = first.headers
    (first.data_dir / "local.key").unlink()
    with running_hub(tmp_path) as second:
        assert httpx.get(f"{second.url}/v1/models", headers=second.headers).status_code == 200
        assert httpx.get(f"{second.url}/v1/models", headers=old).status_code == 401


def test_open_data_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    with running_hub(tmp_path) as hub:
        assert mode_of(hub.data_dir) == 0o700


def test_taken_port_is_a_plain_message_and_leaves_no_process(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = hub.run("hub", "--bind", bind)
    assert ran.returncode == 1
    assert f"can't serve on {bind}" in ran.stderr
    assert "in use" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list((hub.data_dir / "run" / "workers").glob("*"))
    assert not workers_below(hub.data_dir)


def workers_below(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder below this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize(
    "bind", ["nonsense", "8000", ":8000", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:²", "127.0.0.1:-1", "127.0.0.1:65536"]
)
def test_bind_that_is_no_address_and_port_is_refused_with_an_example(bind: str) -> None:
    from django.core.management import CommandError

    from hubsite.management.commands.hub import _address

    with pytest.raises(CommandError, match=r"127\.0\.0\.1:8000"):
        _address(bind)


@pytest.mark.parametrize("bind", ["nosuchhost.invalid:0", "192.0.2.1:0"])
def test_address_of_another_machine_is_a_plain_message(tmp_path: Path, bind: str) -> None:
    ran = HubProcess(tmp_path).run("hub", "--bind", bind)
    assert ran.returncode == 1
    assert f"can't serve on {bind}" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_data_folder_that_cannot_be_used_is_a_plain_message(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    ran = HubProcess(tmp_path).run("hub", "--bind", "127.0.0.1:0")
    assert ran.returncode == 1
    assert "HUB_DATA_DIR" in ran.stderr
    assert str(tmp_path / "data") in ran.stderr
    assert "Traceback" not in ran.stderr


def test_database_that_is_not_there_is_a_plain_message_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    url = f"postgresql://hub:word%20of%20ours@127.0.0.1:{port}/hub"
    ran = HubProcess(tmp_path, env={"DATABASE_URL": url}).run("hub", "--bind", "127.0.0.1:0")
    assert ran.returncode == 1
    assert "the database can't be used: " in ran.stderr
    assert str(port) in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not re.search("word( |%20)of", ran.stderr + ran.stdout)


def test_database_file_that_cannot_be_opened_is_a_plain_message(tmp_path: Path) -> None:
    (tmp_path / "data" / "hub.sqlite3").mkdir(parents=True)
    ran = HubProcess(tmp_path).run("hub", "--bind", "127.0.0.1:0")
    assert ran.returncode == 1
    assert "the database can't be used: unable to open database file" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_password_that_a_driver_quotes_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    from hubsite.management.commands.hub import _told

    monkeypatch.setitem(connection.settings_dict, "PASSWORD", "marmalade")
    assert _told(OSError("no such host: marmalade@db\n\tIs it there?")) == "no such host: ***@db Is it there?"


@pytest.mark.parametrize(("host", "called"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("[::1]", "[::1]")])
def test_curl_line_works_for_every_address_bound_to(tmp_path: Path, host: str, called: str) -> None:
    if "::" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    hub = HubProcess(tmp_path, env={"HUB_PROVIDERS": "echo"})
    hub.start(bind=f"{host}:{hub.port}")
    try:
        assert f"is ready at http://{called}:{hub.port}" in hub.log.read_text()
        test_curl_line_of_the_greeting_works_as_printed(hub)
    finally:
        hub.close()


def read_until(terminal: int, mark: bytes) -> bytes:
    """What appears on a terminal up to a mark."""
    seen, ends_at = b"", time.monotonic() + WAIT_S
    while mark not in seen:
        assert select.select([terminal], [], [], max(0.0, ends_at - time.monotonic()))[0], seen
        seen += os.read(terminal, 4_096)
    return seen


def test_password_is_shown_on_a_terminal_even_if_the_port_is_taken(tmp_path: Path) -> None:
    """It is shown once: with the greeting it would be lost together with it."""
    hub = HubProcess(tmp_path)
    terminal, inner = pty.openpty()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        argv = [sys.executable, "manage.py", "hub", "--bind", bind]
        env = clean_env(hub.home, {"HUB_DATA_DIR": str(hub.data_dir)})
        process = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=inner, stdout=inner, stderr=inner)
        os.close(inner)
        try:
            seen = read_until(terminal, b"can't serve on")
            assert process.wait(WAIT_S) == 1
        finally:
            process.kill()
            os.close(terminal)
    assert re.search(rb"user admin, password \S{16}", seen)
    assert not (hub.data_dir / "admin.password").exists()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product without its data, to put a `.env` into."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("chat", "hubsite", "mcpbridge", "providers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", folder)
    return folder


def doctor_of(checkout: Path, env_file: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    (checkout / ".env").write_text(env_file)
    argv = [sys.executable, str(checkout / "manage.py"), "doctor"]
    return subprocess.run(argv, cwd=cwd, env=clean_env(cwd, env), capture_output=True, text=True, timeout=WAIT_S)


def test_env_file_beside_manage_py_is_read_from_any_working_directory(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HUB_QUEUE=abc\n")
    ran = doctor_of(checkout, "HUB_DATA_DIR=elsewhere\nHUB_PROVIDERS=echo\nHUB_LOG_LEVEL=\n", tmp_path)
    assert "echo" in ran.stdout
    assert "claude" not in ran.stdout
    assert (checkout / "elsewhere" / "secret.key").exists()
    assert not (checkout / "var").exists()
    assert not (tmp_path / "elsewhere").exists()


def test_environment_wins_over_the_env_file(checkout: Path, tmp_path: Path) -> None:
    ran = doctor_of(checkout, "HUB_PROVIDERS=gemini\n", tmp_path, HUB_PROVIDERS="echo")
    assert "echo" in ran.stdout
    assert "gemini" not in ran.stdout


def test_fault_in_the_env_file_is_reported_by_name(checkout: Path, tmp_path: Path) -> None:
    ran = doctor_of(checkout, "HUB_QUEUE=abc\n", tmp_path)
    assert ran.returncode == 1
    assert "HUB_QUEUE can't be 'abc'" in ran.stderr
