"""What `run_mcp` becomes: a bridge, and to whom with which key, or the hub's engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubsite import stdio
from mcpbridge import launch
from mcpbridge.discovery import Hub, write_discovery
from mcpbridge.hub_client import Target
from tests.hub import ROOT, clean_env, free_port
from tests.mcpbridge.bridged import FaultHub, Reply, fault_hub

KEY, OTHER_KEY = "hub_key_of_this_machine", "hub_key_from_outside"
EMBEDDED, BRIDGED = 7, 8


def is_healthy(reply: Reply) -> None:
    reply.give(200, b'{"status": "healthy"}')


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultHub]:
    """A hub that runs on the folder of the test."""
    with fault_hub(is_healthy) as hub:
        write_discovery(tmp_path, Hub(hub.url, KEY, os.getpid(), "1"))
        yield hub


@pytest.fixture
def bridged(monkeypatch: pytest.MonkeyPatch) -> list[launch.Finder]:
    """Who would have been bridged to."""
    finders: list[launch.Finder] = []

    def bridge(finder: launch.Finder) -> None:
        finders.append(finder)
        raise SystemExit(BRIDGED)

    monkeypatch.setattr("mcpbridge.pipes.bridge", bridge)
    return finders


def run(folder: Path, *argv: str, **environ: str) -> tuple[int, list[str]]:
    """The exit code, and the keys that were embedded with."""
    keys: list[str] = []

    def embed(key: str) -> int:
        keys.append(key)
        return EMBEDDED

    try:
        return launch.main(argv, folder=folder, environ=environ, embed=embed), keys
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code, keys


def test_without_a_hub_it_is_one(tmp_path: Path) -> None:
    assert run(tmp_path) == (EMBEDDED, [""])
    assert run(tmp_path, HUB_API_KEY=OTHER_KEY) == (EMBEDDED, [OTHER_KEY])


def test_with_a_hub_it_is_a_bridge_and_has_its_key(hub: FaultHub, tmp_path: Path, bridged: list[launch.Finder]) -> None:
    assert run(tmp_path) == (BRIDGED, [])
    assert bridged[0]() == Target(hub.url, KEY)
    ((_, path, headers, _),) = hub.seen
    assert path == "/health"
    assert "Authorization" not in headers


def test_embedded_it_is_even_beside_a_hub(hub: FaultHub, tmp_path: Path) -> None:
    assert run(tmp_path, "--mode", "embedded") == (EMBEDDED, [""])
    assert run(tmp_path, "--mode", "embedded", HUB_URL=hub.url) == (EMBEDDED, [""])


def test_hub_that_does_not_answer_soon_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        write_discovery(tmp_path, Hub(url, KEY, os.getpid(), "1"))
        began_at = time.monotonic()
        assert run(tmp_path)[0] == EMBEDDED
        assert time.monotonic() - began_at < 1.5


@pytest.mark.parametrize(("status", "body"), [(503, b'{"status": "unhealthy"}'), (404, b""), (200, b"a web page")])
def test_what_is_no_hub_that_takes_requests_is_not_bridged_to(tmp_path: Path, status: int, body: bytes) -> None:
    with fault_hub(lambda reply: reply.give(status, body)) as hub:
        write_discovery(tmp_path, Hub(hub.url, KEY, os.getpid(), "1"))
        assert run(tmp_path)[0] == EMBEDDED


def test_hub_that_was_named_is_bridged_to_up_or_not(tmp_path: Path, bridged: list[launch.Finder]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for mode in ("auto", "bridge"):
        assert run(tmp_path, "--mode", mode, HUB_URL=url)[0] == BRIDGED
    assert bridged[0]() == Target(url, "")


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/mcp", "{}/mcp/", " {}\n"])
def test_url_may_be_written_in_many_ways(
    hub: FaultHub, tmp_path: Path, bridged: list[launch.Finder], form: str
) -> None:
    assert run(tmp_path, HUB_URL=form.format(hub.url))[0] == BRIDGED
    assert bridged[0]() == Target(hub.url, KEY)


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example.com:8000",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/other",
        "http://localhost:{port}",
    ],
)
def test_machines_key_is_for_the_machines_hub_only(
    hub: FaultHub, tmp_path: Path, bridged: list[launch.Finder], url: str
) -> None:
    named = url.format(port=hub.server_address[1])
    assert run(tmp_path, HUB_URL=named)[0] == BRIDGED
    assert bridged[0]() == Target(named, "")
    assert run(tmp_path, HUB_URL=named, HUB_API_KEY=OTHER_KEY)[0] == BRIDGED
    assert bridged[1]() == Target(named, OTHER_KEY)


def test_key_that_was_given_goes_before_the_machines(
    hub: FaultHub, tmp_path: Path, bridged: list[launch.Finder]
) -> None:
    run(tmp_path, HUB_API_KEY=OTHER_KEY)
    assert bridged[0]() == Target(hub.url, OTHER_KEY)


def test_hub_is_looked_for_anew_each_time(hub: FaultHub, tmp_path: Path, bridged: list[launch.Finder]) -> None:
    run(tmp_path)
    write_discovery(tmp_path, Hub("http://127.0.0.1:9", "another", os.getpid(), "2"))
    assert bridged[0]() == Target("http://127.0.0.1:9", "another")


def test_bridge_to_a_hub_that_is_down_waits_for_it(tmp_path: Path, bridged: list[launch.Finder]) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write_discovery(tmp_path, Hub("http://127.0.0.1:9", KEY, process.pid, "1"))
    assert run(tmp_path, "--mode", "bridge")[0] == BRIDGED
    assert bridged[0]() is None


def test_bridge_with_nobody_to_bridge_to_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--mode", "bridge") == (1, [])
    out, err = capfd.readouterr()
    assert out == ""
    assert "uv run manage.py hub" in err
    assert "HUB_URL" in err


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://h", "http://", "http://h:port", "http://user:pw@h", "http://h?a"]
)
def test_url_that_is_none_is_refused(tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, HUB_URL=url) == (1, [])
    out, err = capfd.readouterr()
    assert out == ""
    assert "HUB_URL" in err
    assert "pw" not in err


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_key_that_is_none_is_refused_and_not_shown(tmp_path: Path, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, HUB_API_KEY=key) == (1, [])
    _, err = capfd.readouterr()
    assert "HUB_API_KEY" in err
    assert key not in err


def test_empty_settings_are_none(tmp_path: Path) -> None:
    """A bundle's settings that nobody filled in arrive as empty strings."""
    assert run(tmp_path, HUB_URL="", HUB_API_KEY=" ") == (EMBEDDED, [""])


def test_options_of_any_django_command_are_taken(tmp_path: Path) -> None:
    options = ["--settings", "s", "--pythonpath=/p", "-v", "2", "--traceback", "--no-color", "--skip-checks"]
    assert run(tmp_path, *options, "--mode=embedded")[0] == EMBEDDED
    assert run(tmp_path, "--verbosity=0", "--force-color")[0] == EMBEDDED


@pytest.mark.parametrize("argv", [["--mode", "both"], ["--port", "1"], ["more"]])
def test_unknown_options_are_refused_on_standard_error(
    tmp_path: Path, argv: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *argv)[0] == 2
    assert capfd.readouterr().out == ""


def test_soft_deadline_of_the_client_is_told_to_the_hub(
    hub: FaultHub, tmp_path: Path, bridged: list[launch.Finder]
) -> None:
    run(tmp_path, HUB_MCP_SOFT_DEADLINE_S="50")
    run(tmp_path, HUB_MCP_SOFT_DEADLINE_S="soon\r\nX-Other: 1")
    assert [finder.headers for finder in bridged] == [{"X-Hub-Soft-Deadline": "50"}, {}]


def test_key_is_not_in_what_is_printed_of_a_target() -> None:
    assert KEY not in repr(Target("http://h", KEY))


# --- hubsite/stdio.py ------------------------------------------------------------------------------------------------


def launched(monkeypatch: pytest.MonkeyPatch, *argv: str) -> tuple[list[str], Path, str]:
    """What is launched: the options, the data folder, HUB_URL."""
    seen: list[tuple[list[str], Path, str]] = []

    def main(argv: list[str], *, folder: Path, environ: dict[str, str], embed: object) -> int:
        seen.append((argv, folder, environ.get("HUB_URL", "")))
        return 0

    monkeypatch.setattr("mcpbridge.launch.main", main)
    monkeypatch.setattr("sys.argv", list(argv))
    assert stdio.main() == 0
    return seen[0]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, and an environment that says nothing."""
    for name in ("HUB_DATA_DIR", "HUB_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stdio, "BASE_DIR", tmp_path)
    return tmp_path


def test_options_are_the_same_by_manage_and_by_the_script(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch, "manage.py", "run_mcp", "--mode", "auto")[0] == ["--mode", "auto"]
    assert launched(monkeypatch, "llm-mcp-hub-server", "--mode", "auto")[0] == ["--mode", "auto"]


def test_data_folder_is_found_as_the_settings_find_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, else of `.env`, else `var`; a relative path counts from the checkout."""
    assert launched(monkeypatch, "manage.py", "run_mcp")[1] == checkout / "var"
    (checkout / ".env").write_text("HUB_DATA_DIR=from/file\nHUB_URL=http://file\n")
    assert launched(monkeypatch, "manage.py", "run_mcp")[1:] == (checkout / "from/file", "http://file")
    monkeypatch.setenv("HUB_DATA_DIR", "from/environment")
    assert launched(monkeypatch, "manage.py", "run_mcp")[1:] == (checkout / "from/environment", "http://file")
    monkeypatch.setenv("HUB_DATA_DIR", "/absolute")
    assert launched(monkeypatch, "manage.py", "run_mcp")[1] == Path("/absolute")
    monkeypatch.setenv("HUB_DATA_DIR", "~/mine")
    assert launched(monkeypatch, "manage.py", "run_mcp")[1] == Path.home() / "mine"


def test_manage_hands_over_before_django_is_loaded(tmp_path: Path) -> None:
    """And a settings module that can't be imported is nothing to it."""
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": "", "DJANGO_SETTINGS_MODULE": "no.such"})
    command = [sys.executable, "manage.py", "run_mcp", "--mode", "bridge"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=10)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "there is no hub to bridge to" in ended.stderr
