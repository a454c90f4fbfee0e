"""What a live process holds and touches: its environment, its command line, the files it opens, the hosts it calls."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clis.dialects import DUMMY_KEY
from tests.clis.rig import HUB_SECRETS, REAL, Rig, assistant, open_rig, user
from tests.programs import CLIS_FOLDER, require_cli

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and needs strace")

# All a CLI's process has in its environment, here with an API key as its login.
ENVIRONMENT = {
    "claude": {
        *("PATH", "HOME", "LANG", "TERM", "TMPDIR", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
        *("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER"),
        *("DISABLE_ERROR_REPORTING", "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK"),
        *("CLAUDE_CODE_DISABLE_REFUSAL_RETRY", "CLAUDE_CODE_DISABLE_MODEL_ACCESS_FALLBACK"),
        *("CLAUDE_CODE_DISABLE_ATTACHMENTS", "CLAUDE_CODE_DISABLE_FILE_MENTIONS", "CLAUDE_CODE_DISABLE_CLAUDE_MDS"),
        *("CLAUDE_CODE_DISABLE_AUTO_MEMORY", "DISABLE_AUTO_COMPACT"),
        *("CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH", "ENABLE_TOOL_SEARCH"),
    },
    "gemini": {
        *("PATH", "HOME", "GEMINI_CLI_HOME", "LANG", "TERM", "TMPDIR", "NO_COLOR", "NO_BROWSER"),
        *("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GEMINI_CLI_SYSTEM_SETTINGS_PATH", "GEMINI_SYSTEM_MD"),
        *("GEMINI_CLI_TRUST_WORKSPACE", "GEMINI_CLI_NO_RELAUNCH"),
    },
    "codex": {"PATH", "HOME", "CODEX_HOME", "LANG", "TERM", "TMPDIR", "OPENAI_API_KEY"},
}

# What a process may open for reading outside its worker's folders and its own program.
READABLE = (
    *("/proc", "/sys", "/dev", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/usr/share/locale"),
    *("/usr/lib/locale", "/usr/lib/ssl", "/etc/ssl", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
    *(
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/etc/locale.alias",
        "/etc/timezone",
        "/etc/machine-id",
        "/etc/resolv.conf",
        "/etc/hosts",
    ),
    *(
        "/etc/nsswitch.conf",
        "/etc/host.conf",
        "/etc/gai.conf",
        "/etc/passwd",
        "/etc/os-release",
        "/etc/ca-certificates",
    ),
)
# What the administrator of the machine imposes on every user of the CLI.
MANAGED = ("/etc/claude-code", "/etc/gemini-cli", "/etc/codex")

# Where the C library asks who a user is, before it reads /etc/passwd itself.
NAME_SERVICE = "/var/run/nscd/socket"

OPENED = re.compile(
    r'open(?:at2?)?\((?:[^,"]*, )?"(?P<path>[^"]+)", (?P<flags>\{[^}]*\}|[A-Z_|]+).*\) = \d+<(?P<real>[^>]+)>'
)
EXECUTED = re.compile(r'execve\("(?P<path>[^"]+)".*\) = 0')
CONNECTED = re.compile(r"connect\(.*?(?P<address>\{sa_family=.*?\})[,)]")


def environ_of(pid: int) -> dict[str, str]:
    """As the kernel shows it: what the process was started with."""
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(entry.split("=", 1) for entry in raw.split("\0") if entry)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_environment_of_a_process_is_exactly_the_allow_list(rig: Rig) -> None:
    environ = environ_of(await rig.pid())
    assert set(environ) == ENVIRONMENT[rig.name]
    for secret in HUB_SECRETS.values():
        assert secret not in str(environ)


@pytest.mark.asyncio(loop_scope="module")
async def test_home_and_folders_of_a_process_are_its_workers_own(rig: Rig) -> None:
    pid = await rig.pid()
    environ = environ_of(pid)
    for folder in (environ["HOME"], environ["TMPDIR"], psutil.Process(pid).cwd()):
        assert Path(folder).is_relative_to(rig.workers_folder)
    (worker,) = rig.workers_folder.iterdir()
    for path in (rig.workers_folder, worker, *worker.iterdir()):
        if path.is_dir():
            assert path.stat().st_mode & 0o777 == 0o700, path


@pytest.mark.asyncio(loop_scope="module")
async def test_a_command_line_holds_no_key_and_no_text_of_a_caller(rig: Rig) -> None:
    await rig.ask(user("a question in secret"), system="a system prompt in secret")
    for pid in rig.pids():
        line = " ".join(psutil.Process(pid).cmdline())
        assert DUMMY_KEY not in line
        assert "secret" not in line


@pytest.mark.asyncio(loop_scope="module")
async def test_a_process_listens_nowhere(rig: Rig) -> None:
    """claude opens a socket by which other sessions of the same user may speak into its conversation."""
    process = psutil.Process(await rig.pid())
    assert [it for it in process.net_connections("inet") if it.status == psutil.CONN_LISTEN] == []
    assert [path for path in rig.workers_folder.rglob("*") if path.is_socket()] == []
    assert not any(it.laddr for it in process.net_connections("unix"))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_process_starts_no_other_that_outlives_a_turn(rig: Rig) -> None:
    pid = await rig.pid()
    await rig.settled()
    assert [child.cmdline() for child in psutil.Process(pid).children(recursive=True)] == []


# --- system calls ----------------------------------------------------------------------------------------------------


def require_strace() -> str:
    if found := shutil.which("strace"):
        return found
    if "strace" in os.environ.get("HUB_TEST_REQUIRE", "").split(","):
        pytest.fail("strace is required and not installed")
    pytest.skip("strace is not installed; get it by: apt-get install strace")


def traced(name: str, folder: Path, trace: Path) -> Path:
    """The real program behind a wrapper that writes down its system calls and those of its children."""
    program = require_cli(name)
    command = f"{shutil.which('node')} {program}" if program.suffix == ".js" else str(program)
    wrapper = folder / "traced"
    calls = "open,openat,openat2,execve,connect,sendto,sendmsg"
    wrapper.write_text(f'#!/bin/sh\nexec {require_strace()} -f -y -e trace={calls} -s 500 -o {trace} {command} "$@"\n')
    wrapper.chmod(0o700)
    return wrapper


def is_below(path: str, *roots: str | Path) -> bool:
    return any(Path(path).is_relative_to(root) for root in roots)


def opened(trace: str) -> Iterator[tuple[str, bool]]:
    """Every path really opened, with all links resolved, and whether for writing."""
    for found in OPENED.finditer(trace):
        writes = any(flag in found["flags"] for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"))
        yield os.path.realpath(found["real"].removesuffix(" (deleted)")), writes


@pytest.mark.parametrize("name", REAL)
async def test_the_system_calls_of_a_turn_stay_within_the_workers_folders(name: str, tmp_path: Path) -> None:
    """Issue 2: traced once, with mentions of files and commands in question, history and system text."""
    trace, planted = tmp_path / "trace.txt", tmp_path / "planted"
    planted.mkdir()
    (planted / "secret.txt").write_text("secret")
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret.txt").write_text("secret")
    mention = f"@{planted}/secret.txt and @~/secret.txt"
    async with open_rig(name, tmp_path, binary=traced(name, tmp_path, trace)) as rig:
        trace.write_text("")  # the program has been asked for its version until here
        first = await rig.ask(user(mention), system=mention)
        second = await rig.ask(user("/init"), assistant(mention), user(f"!cat {planted}/secret.txt"), system=mention)
        assert first.finished.reason == second.finished.reason == "stop"
        await rig.settled()
        calls = trace.read_text()
        workers, vendor_port = rig.workers_folder, rig.vendor.url.rpartition(":")[2]
    assert_stay_within(calls, workers, name, vendor_port)


def assert_stay_within(calls: str, workers: Path, name: str, vendor_port: str) -> None:
    assert len(calls.splitlines()) > 100, "the trace is empty"
    node = os.path.realpath(shutil.which("node") or "/nonexistent")
    own = (workers, CLIS_FOLDER / name, os.path.realpath(CLIS_FOLDER / name), node)
    read = {path for path, _ in opened(calls)}
    assert {path for path in read if not is_below(path, *own, *READABLE, *MANAGED)} <= programs_of_the_hook(name)
    written = {path for path, writes in opened(calls) if writes}
    assert {path for path in written if not is_below(path, workers, "/dev/null", "/dev/tty")} == set()
    executed = {linked_to(found["path"], workers) for found in EXECUTED.finditer(calls)}
    assert executed <= {os.path.realpath(require_cli(name)), node, *programs_of_the_hook(name)}
    for found in CONNECTED.finditer(calls):
        if NAME_SERVICE in found["address"]:
            continue
        assert f"sin_port=htons({vendor_port})" in found["address"], found["address"]
        assert 'inet_addr("127.0.0.1")' in found["address"], found["address"]


def linked_to(program: str, workers: Path) -> str:
    """What a started path stands for; the links in a worker's folder are gone by now."""
    is_link = is_below(program, workers)
    return os.path.realpath(shutil.which(Path(program).name) or program if is_link else program)


def programs_of_the_hook(name: str) -> set[str]:
    """gemini fetches the messages of a turn by a hook of the hub's own: bash and cat."""
    found = [shutil.which(program) for program in ("bash", "cat")] if name == "gemini" else []
    return {os.path.realpath(path) for path in found if path}
