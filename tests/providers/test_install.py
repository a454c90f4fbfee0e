"""Installing the pinned CLIs: fake npm, node and uv on a private PATH, since the faults shown here have no real ones.

The real install is what continuous integration runs before the adapters' tests.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest
from django.core.management import CommandError, call_command

from providers import install
from providers.clis import pins
from providers.management.commands.install_cli import Command

VERSION = pins.read_pin("claude").version
PROGRAM = "node_modules/@anthropic-ai/claude-code-linux-x64/claude"
WHEEL_PROGRAM = "claude_agent_sdk/_bundled/claude"


def script(body: str) -> str:
    return f"#!{sys.executable}\nimport os, pathlib, signal, sys\n{dedent(body)}"


def prints(version: str) -> str:
    return script(f"print('{version} (Claude Code)')")


def writes(program: str, content: str) -> str:
    """A fetcher's body that brings this program into its working directory."""
    return f"""
        path = pathlib.Path({program!r})
        path.parent.mkdir(parents=True)
        path.write_text({content!r})
        path.chmod(0o755)
    """


def npm(on_ci: str, *, version: str = "10.9.0") -> str:
    """npm prints warnings about a person's settings beside its version."""
    asked = (
        f"if sys.argv[1] == '--version':\n    sys.exit(print('npm warn Unknown user config') or print('{version}'))\n"
    )
    return script(asked + "assert sys.argv[1] == 'ci'\n" + dedent(on_ci))


@dataclass
class Machine:
    """A PATH of its own and a data folder."""

    bin: Path
    data: Path
    seen: list[install.Progress] = field(default_factory=list)

    @property
    def clis(self) -> Path:
        return self.data / "clis"

    def put(self, tool: str, content: str) -> None:
        path = self.bin / tool
        path.write_text(content)
        path.chmod(0o755)

    def put_old_claude(self) -> None:
        path = self.clis / "claude" / PROGRAM
        path.parent.mkdir(parents=True)
        path.write_text(prints("2.0.0"))
        path.chmod(0o755)

    def install(self, name: str = "claude", *, force: bool = False) -> install.Installed:
        return install.install(name, data_dir=self.data, force=force, report=self.seen.append)

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.data)): path.read_text() for path in self.data.rglob("*") if path.is_file()}

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.clis.iterdir())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "bin", tmp_path / "data")
    machine.bin.mkdir()
    machine.put("node", script("print('v22.1.0')"))
    machine.put("npm", npm(writes(PROGRAM, prints(VERSION))))
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.delenv("UV", raising=False)
    return machine


# What is shipped.


@pytest.mark.parametrize("name", pins.names())
def test_every_package_is_locked_by_its_hash_and_names_no_registry(name: str) -> None:
    """A company's own registry has to serve the same lock (hub rule)."""
    text = (pins.PINS / name / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert packages.pop("")["version"] == pins.read_pin(name).version
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "://" not in text


@pytest.mark.parametrize("name", pins.names())
def test_manifest_pins_the_version_it_is_named_by(name: str) -> None:
    manifest = json.loads((pins.PINS / name / "package.json").read_text())
    asked = {**manifest.get("dependencies", {}), **manifest.get("optionalDependencies", {})}
    # codex has its platforms as versions of one package: `npm:@openai/codex@0.169.0-linux-x64`.
    versions = {re.sub(r"^npm:.+@([\d.]+)-[a-z0-9-]+$", r"\1", wanted) for wanted in asked.values()}
    assert versions == {manifest["version"]}


def test_a_cli_without_pins_is_refused_with_the_names_there_are(machine: Machine) -> None:
    with pytest.raises(install.InstallError, match="claude, codex, gemini"):
        machine.install("../claude")


# Going well.


def test_npm_brings_the_program_into_private_folders(machine: Machine) -> None:
    done = machine.install()
    assert done == install.Installed("claude", VERSION, machine.clis / "claude" / PROGRAM, fresh=True)
    assert done.program.read_text() == prints(VERSION)
    folders = (machine.data, machine.clis, machine.clis / "claude")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert machine.folders() == ["claude"]


def test_npm_is_told_to_follow_the_lock_and_run_no_scripts(machine: Machine) -> None:
    said = "assert pathlib.Path('package-lock.json').exists() and '--ignore-scripts' in sys.argv\n"
    machine.put("npm", npm(said + dedent(writes(PROGRAM, prints(VERSION)))))
    assert machine.install().fresh


def test_a_relative_data_folder_works_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.bin)
    done = install.install("claude", data_dir=Path("here"))
    assert done.program == machine.bin / "here" / "clis" / "claude" / PROGRAM


def test_the_right_version_is_left_alone_and_needs_no_npm(machine: Machine) -> None:
    machine.install()
    (machine.bin / "npm").unlink()
    before = machine.files()
    assert not machine.install().fresh
    assert machine.files() == before


def test_force_installs_the_right_version_again(machine: Machine) -> None:
    first = machine.install().program.stat().st_ino
    again = machine.install(force=True)
    assert again.fresh
    assert again.program.stat().st_ino != first
    assert machine.folders() == ["claude"]


def test_another_version_is_replaced(machine: Machine) -> None:
    machine.put_old_claude()
    assert machine.install().fresh
    assert machine.folders() == ["claude"]


def test_a_javascript_program_is_checked_with_node(machine: Machine) -> None:
    pin = pins.read_pin("gemini")
    machine.put("node", script(f"print('v20.0.0' if len(sys.argv) == 2 else '{pin.version}')"))
    machine.put("npm", npm(writes(pin.programs[0], "")))
    assert machine.install("gemini").program == machine.clis / "gemini" / pin.programs[0]


def test_progress_names_each_step_and_counts_megabytes(machine: Machine) -> None:
    big = "pathlib.Path('big').write_bytes(bytes(2_000_000))\n" + dedent(writes(PROGRAM, prints(VERSION)))
    machine.put("npm", npm(big))
    machine.install()
    assert [progress.step for progress in machine.seen] == [
        f"fetching claude {VERSION} with npm",
        f"checking claude {VERSION}",
    ]
    assert machine.seen[-1].megabytes > 2


# Without npm.


WRITES_WHEEL_PROGRAM = dedent(writes(WHEEL_PROGRAM, prints(VERSION)))
UV_BODY = "assert '--require-hashes' in sys.argv\nos.chdir(sys.argv[sys.argv.index('--target') + 1])\n"


@pytest.mark.parametrize("lacking", ["node", "npm", "new npm", "working npm"])
def test_claude_comes_by_uv_where_npm_will_not_do(machine: Machine, lacking: str) -> None:
    """npm before 10 knows no libc and would fetch the musl build too; the wheel holds the same program."""
    match lacking:
        case "new npm":
            machine.put("npm", npm("", version="9.2.0"))
        case "working npm":
            machine.put("npm", script("sys.exit(1)"))
        case tool:
            (machine.bin / tool).unlink()
    machine.put("uv", script(UV_BODY + WRITES_WHEEL_PROGRAM))
    assert machine.install().program == machine.clis / "claude" / WHEEL_PROGRAM


def test_the_uv_that_runs_the_hub_goes_before_the_one_on_path(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.bin / "npm").unlink()
    machine.put("uv", script("sys.exit('a shim')"))
    machine.put("real-uv", script(UV_BODY + WRITES_WHEEL_PROGRAM))
    monkeypatch.setenv("UV", str(machine.bin / "real-uv"))
    assert machine.install().fresh


def test_claude_comes_by_pip_where_uv_is_missing_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.bin / "npm").unlink()
    machine.put("python", script("assert sys.argv[1:4] == ['-m', 'pip', 'install']\n" + UV_BODY + WRITES_WHEEL_PROGRAM))
    monkeypatch.setattr(sys, "executable", str(machine.bin / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert machine.install().program == machine.clis / "claude" / WHEEL_PROGRAM


def test_without_npm_uv_and_pip_the_mend_names_node(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.bin / "npm").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(install.InstallError, match="npm is missing, and uv and pip") as caught:
        machine.install()
    assert "https://nodejs.org" in caught.value.mend


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda machine: (machine.bin / "npm").unlink(), "npm is missing"),
        (lambda machine: (machine.bin / "node").unlink(), "node is missing"),
        (lambda machine: machine.put("node", script("print('v18.20.4')")), "node has version 18: 20 or newer"),
        (lambda machine: machine.put("node", script("sys.exit(1)")), "node has version unknown"),
    ],
)
def test_gemini_says_what_node_it_needs(machine: Machine, change: Callable[[Machine], None], message: str) -> None:
    change(machine)
    with pytest.raises(install.InstallError, match=message) as caught:
        machine.install("gemini")
    assert "Node.js 20" in caught.value.mend
    assert "https://nodejs.org" in caught.value.mend


# Going wrong.


@pytest.mark.parametrize(
    ("on_ci", "message"),
    [
        ("sys.exit('npm error code EINTEGRITY')", r"npm ended with exit status 1:\nnpm error code EINTEGRITY"),
        ("print('GET attempt 1 failed with ECONNREFUSED')", "did not arrive: .*\n.*ECONNREFUSED"),
        (writes(PROGRAM, prints("2.9.9")), rf"prints '2.9.9 .*' as its version instead of {VERSION}"),
        (writes(PROGRAM, script("sys.exit('boom')")), r"claude ended with exit status 1:\nboom"),
        (writes(PROGRAM, "not a program"), "could not be installed: .*Exec format error"),
    ],
    ids=["npm fails", "program missing", "wrong version", "program crashes", "no program"],
)
def test_a_failed_install_leaves_the_old_one_and_no_litter(machine: Machine, on_ci: str, message: str) -> None:
    machine.put_old_claude()
    machine.put("npm", npm(on_ci))
    before = machine.files()
    with pytest.raises(install.InstallError, match=message):
        machine.install()
    assert machine.files() == before
    assert machine.folders() == ["claude"]


BLOCKS = "pathlib.Path(sys.argv[0]).with_name('pid').write_text(str(os.getpid()))\nsignal.pause()"


def assert_gone(machine: Machine) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int((machine.bin / "pid").read_text()), 0)


def test_an_interrupted_install_ends_npm_and_leaves_no_litter(machine: Machine) -> None:
    machine.put_old_claude()
    machine.put("npm", npm(BLOCKS))
    before = machine.files()

    def interrupt(progress: install.Progress) -> None:
        if (machine.bin / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install.install("claude", data_dir=machine.data, report=interrupt)
    assert_gone(machine)
    assert machine.files() == before
    assert machine.folders() == ["claude"]


def test_a_fetcher_that_ignores_everything_is_killed_at_the_deadline(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "FETCH_TIMEOUT_S", 2.0)
    monkeypatch.setattr(install, "STOP_TIMEOUT_S", 0.1)
    machine.put("npm", npm("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + BLOCKS))
    with pytest.raises(install.InstallError, match="npm was not done within 2 s"):
        machine.install()
    assert_gone(machine)
    assert machine.folders() == []


def test_an_interrupt_between_the_two_renames_brings_the_old_one_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put_old_claude()
    before, rename = machine.files(), Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if target.name == "claude" and not path.name.endswith("-old"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machine.install()
    assert machine.files() == before
    assert machine.folders() == ["claude"]


def test_what_a_killed_install_left_is_swept_but_not_one_at_work(machine: Machine) -> None:
    for name in (".claude-dead", ".claude-dead-old", ".claude-alive", ".gemini-dead"):
        (machine.clis / name / "node_modules").mkdir(parents=True)
    with install._locked(machine.clis / ".claude-alive"):
        machine.install()
    assert machine.folders() == [".claude-alive", ".gemini-dead", "claude"]


def test_a_data_folder_that_cannot_be_written_is_an_error_with_its_mend(machine: Machine) -> None:
    machine.data.write_text("a file")
    with pytest.raises(install.InstallError, match=r"could not be installed: .*File exists") as caught:
        machine.install()
    assert "data folder" in caught.value.mend


# What npm and the program may see.


def test_npm_sees_a_companys_registry_settings_and_none_of_the_hubs_secrets(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = {"npm_config_registry": "a", "https_proxy": "b", "NODE_EXTRA_CA_CERTS": "c", "PIP_CERT": "d"}
    withheld = {"DATABASE_URL": "x", "ANTHROPIC_API_KEY": "y", "HOME_TOKEN": "z", "UVICORN": "z"}
    for name, value in {**passed, **withheld}.items():
        monkeypatch.setenv(name, value)
    checks = f"assert {passed!r}.items() <= os.environ.items()\nassert not {set(withheld)!r} & set(os.environ)\n"
    checked_program = script(f"assert not {set(withheld) | set(passed)!r} & set(os.environ)\nprint('{VERSION}')")
    machine.put("npm", npm(checks + dedent(writes(PROGRAM, checked_program))))
    assert machine.install().fresh


def test_the_program_is_tried_in_a_home_of_its_own(machine: Machine) -> None:
    body = f"assert os.environ['HOME'] != {os.environ['HOME']!r} and not os.listdir()\nprint('{VERSION}')"
    machine.put("npm", npm(writes(PROGRAM, script(body))))
    assert machine.install().fresh


# The command.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_command_prints_a_plain_line_per_step(machine: Machine) -> None:
    out = io.StringIO()
    call_command(Command(stdout=out), "claude", data_dir=machine.data)
    program = machine.clis / "claude" / PROGRAM
    assert out.getvalue().splitlines() == [
        f"fetching claude {VERSION} with npm ...",
        f"checking claude {VERSION} ...",
        f"claude {VERSION} is installed: {program}",
    ]
    call_command(Command(stdout=out), "claude", data_dir=machine.data)
    assert out.getvalue().splitlines()[3:] == [f"claude {VERSION} was installed already: {program}"]


def test_the_command_grows_one_line_per_step_on_a_terminal(machine: Machine) -> None:
    out = Terminal()
    call_command(Command(stdout=out, no_color=True), "claude", data_dir=machine.data)
    lines = out.getvalue().split("\n")
    assert re.fullmatch(rf"(\rfetching claude {VERSION} with npm: \d+ s, \d+ MB)+", lines[0])
    assert re.fullmatch(rf"(\rchecking claude {VERSION}: \d+ s, \d+ MB)+", lines[1])
    assert lines[2].startswith(f"claude {VERSION} is installed")


def test_the_command_fails_with_the_reason_and_the_mend(machine: Machine) -> None:
    (machine.bin / "npm").unlink()
    with pytest.raises(CommandError, match=r"npm is missing\nInstall Node\.js 20"):
        call_command(Command(stdout=io.StringIO()), "gemini", data_dir=machine.data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_told_to_stop_ends_npm_and_leaves_no_litter(machine: Machine, number: signal.Signals) -> None:
    machine.put("npm", npm(BLOCKS.replace("signal.pause()", f"os.kill(os.getppid(), {int(number)})\nsignal.pause()")))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(CommandError, match="nothing was changed") as caught:
        call_command(Command(stdout=io.StringIO()), "claude", data_dir=machine.data)
    assert caught.value.returncode == 130
    assert_gone(machine)
    assert machine.folders() == []
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
