"""Puts a vendor's official CLI, at the version this hub is tested with, into the data folder.

What is fetched is data (see clis/pins.py); npm or uv do the work and check the pinned hashes. The program is made to
run in a folder aside before it takes the place of the old one: a failed or interrupted install changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from providers.clis.pins import PINS, Pin, major, names, read_pin
from providers.errors import ProviderError, excerpt

FETCH_TIMEOUT_S = 1800.0  # 170 MB over a line of 1 Mbit/s
VERSION_TIMEOUT_S = 60.0  # gemini needs 2.5 s on an idle machine, much more on a busy one
STOP_TIMEOUT_S = 5.0  # a fetcher that ignores SIGTERM for longer is killed
TICK_S = 0.5
LOG_LINES = 12

# What the fetchers may see: where they are, how they reach a company's registry, which certificates they trust.
_PASSED = re.compile(
    "PATH|HOME|LANG|TMPDIR|XDG_(CACHE|CONFIG|DATA)_HOME|(HTTPS?|ALL|NO)_PROXY|NODE_EXTRA_CA_CERTS|SSL_CERT_(FILE|DIR)"
    "|REQUESTS_CA_BUNDLE|NPM_TOKEN|NODE_AUTH_TOKEN|NPM_CONFIG_.+|UV_.+|PIP_.+"
)

_MEND_FETCH = "Check network, proxy and registry (`npm config list`), then run this again."
_MEND_TOOLS = "Install Node.js 20 or newer, which brings npm, from https://nodejs.org and run this again."


class InstallError(ProviderError):
    """The CLI was not installed; what was there before is untouched."""

    code = "install_failed"


@dataclass(frozen=True, slots=True)
class Installed:
    """`fresh` is False where the right version was there already."""

    name: str
    version: str
    program: Path
    fresh: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Megabytes are those on disk so far: uv only shows them at the end."""

    step: str
    elapsed_s: float
    megabytes: float


Report = Callable[[Progress], None]


def install(name: str, *, data_dir: Path, force: bool = False, report: Report = lambda progress: None) -> Installed:
    """Install the pinned version below `data_dir/clis/<name>`, unless it is there and runs.

    Blocks until done. `report` is called at the start of each step and twice a second. Raises InstallError. Whatever
    `report` raises, and KeyboardInterrupt, ends the install as a failure does: the old one stays, nothing is left over.
    """
    if name not in names():
        raise InstallError(f"no CLI named {name!r}; there are {', '.join(names())}")
    pin = read_pin(name)
    target = data_dir.absolute() / "clis" / name
    if not force:
        with contextlib.suppress(InstallError, OSError):
            return Installed(name, pin.version, _find_running(pin, target), fresh=False)
    try:
        with _work_folder(target) as work:
            _fetch(pin, work, report)
            with _step(f"checking {name} {pin.version}", work, report) as tick:
                program = _find_running(pin, work, tick)
            _swap(work, target)
    except OSError as exc:
        raise InstallError(f"{name} could not be installed: {exc}", mend="Check the data folder and its disk.") from exc
    return Installed(name, pin.version, target / program.relative_to(work), fresh=True)


def _fetch(pin: Pin, work: Path, report: Report) -> None:
    lack = _what_npm_lacks(pin)
    wheel = pin.folder / "requirements.txt"
    if lack and not wheel.exists():
        raise InstallError(f"{pin.name} needs Node.js and npm, but {lack}", mend=_MEND_TOOLS)
    argv = _wheel_argv(wheel, work, lack=lack) if lack else _npm_argv(pin, work)
    with _step(f"fetching {pin.name} {pin.version} with {Path(argv[0]).name}", work, report) as tick:
        output = _run(argv, cwd=work, env=_fetch_env(), timeout_s=FETCH_TIMEOUT_S, tick=tick, mend=_MEND_FETCH)
    if _find_program(pin, work) is None:
        # npm ends well when an optional package fails, and keeps most of the reason to itself.
        reason = "could not be fetched, its hash is not the pinned one, or there is none for this platform"
        raise InstallError(f"{pin.name} did not arrive: the package {reason}\n{_tail(output)}", mend=_MEND_FETCH)


def _what_npm_lacks(pin: Pin) -> str:
    for tool in ("node", "npm"):
        path, least = shutil.which(tool), pin.engines.get(tool, 0)
        if path is None:
            return f"{tool} is missing"
        if least and (found := major(_version_of(path))) < least:
            return f"{tool} has version {found or 'unknown'}: {least} or newer is needed"
    return ""


def _version_of(tool: str) -> str:
    try:
        return _run([tool, "--version"], cwd=PINS, env=_fetch_env(), timeout_s=VERSION_TIMEOUT_S)
    except (InstallError, OSError):
        return ""


def _npm_argv(pin: Pin, work: Path) -> list[str]:
    for file in ("package.json", "package-lock.json"):
        shutil.copy(pin.folder / file, work)
    # Programs of one platform are optional packages, which the owner's npm settings may leave out otherwise.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--include=optional", "--loglevel=http"]
    return [shutil.which("npm") or "npm", "ci", *options]


def _wheel_argv(wheel: Path, work: Path, *, lack: str) -> list[str]:
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(work), "-r", str(wheel)]
    # `uv run` names itself in UV: the one on PATH may be a shim that does not work in a scrubbed environment.
    if uv := os.environ.get("UV") or shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable, *options]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", *options]
    raise InstallError(f"{lack}, and uv and pip are missing too", mend=_MEND_TOOLS)


def _fetch_env() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if _PASSED.fullmatch(key.upper())}


def _find_program(pin: Pin, folder: Path) -> Path | None:
    return next((path for pattern in pin.programs for path in sorted(folder.glob(pattern))), None)


def _find_running(pin: Pin, folder: Path, tick: Callable[[], None] = lambda: None) -> Path:
    """The program in `folder`, proven to print the pinned version. Raises InstallError or OSError."""
    program = _find_program(pin, folder)
    if program is None:
        raise InstallError(f"{pin.name} is not installed")
    printed = _printed_version(program, tick)
    if pin.version not in printed.split():
        raise InstallError(f"{pin.name} prints {excerpt(printed)!r} as its version instead of {pin.version}")
    return program


def _printed_version(program: Path, tick: Callable[[], None]) -> str:
    argv = [shutil.which("node") or "node", program] if program.suffix == ".js" else [program]
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LANG": os.environ.get("LANG", "C.UTF-8")}
        return _run([*map(str, argv), "--version"], cwd=Path(home), env=env, timeout_s=VERSION_TIMEOUT_S, tick=tick)


@contextlib.contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """An empty private folder beside `target`, gone afterwards unless it was moved."""
    target.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(target.parent):
            _sweep(target)
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            stack.enter_context(_locked(work))
        yield work


def _sweep(target: Path) -> None:
    """Remove what killed installs left behind; a folder still locked belongs to one at work."""
    for path in target.parent.glob(f".{target.name}-*"):
        with contextlib.suppress(OSError), _locked(path, wait=False):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """The kernel drops the lock with its holder, and a lock on the folder itself leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # some network file systems lock no folders: then nothing is swept
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def _swap(work: Path, target: Path) -> None:
    """Workers running from the old folder keep their open files when it is removed."""
    old = work.with_name(f"{work.name}-old")
    with _locked(target.parent):
        try:
            if target.exists():
                target.rename(old)
            work.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _step(name: str, work: Path, report: Report) -> Iterator[Callable[[], None]]:
    started = time.monotonic()

    def tick() -> None:
        report(Progress(name, time.monotonic() - started, _size(work) / 1e6))

    tick()
    yield tick


def _size(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):  # npm renames while this looks
                total += os.lstat(os.path.join(root, file)).st_size  # noqa: PTH118 (called for 800 files a tick)
    return total


def _run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float,
    tick: Callable[[], None] = lambda: None,
    mend: str = "",
) -> str:
    """The command's output. Raises InstallError, with the output's end, for a bad exit status or a late one."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        # An own group: Ctrl-C reaches only this process, which then ends the command with everything it started.
        process = subprocess.Popen(  # noqa: S603 (argv is built here, from pins and tools found on PATH)
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            problem = _wait(process, timeout_s, tick)
        finally:
            _end(process)
        log.seek(0)
        output = log.read()
    if problem:
        raise InstallError(f"{Path(argv[0]).name} {problem}:\n{_tail(output)}", mend=mend)
    return output


def _wait(process: subprocess.Popen[bytes], timeout_s: float, tick: Callable[[], None]) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(TICK_S)
            return f"ended with exit status {status}" if status else ""
        tick()
    return f"was not done within {timeout_s:.0f} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)


def _tail(output: str) -> str:
    return "\n".join([line for line in output.splitlines() if line.strip()][-LOG_LINES:])
