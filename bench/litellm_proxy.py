"""LiteLLM's proxy as a child: one model with an answer of its own, one worker, no database, loopback only.

It is no dependency: whoever wants it beside the hub installs it into an environment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.command import Skipped
from tests.hub import free_port

MODEL = "bench"
MASTER_KEY = "sk-bench"

INSTALL = (
    "LiteLLM's proxy is not there; to install it into an environment of its own: "
    "uv venv ~/.litellm && uv pip install --python ~/.litellm 'litellm[proxy]'; "
    "then give --litellm ~/.litellm/bin/litellm (or BENCH_LITELLM, or have it on PATH)"
)

# Its first import alone takes up to a minute on a slow disk.
READY_TIMEOUT_S = 180.0
ASK_TIMEOUT_S = 5.0
POLL_S = 0.2
STOP_TIMEOUT_S = 15.0
LAST_WORDS_BYTES = 2_000

# Without these it fetches lists from the internet at its start.
LOCAL = ("MODEL_COST_MAP", "ANTHROPIC_BETA_HEADERS", "AUTOROUTER_PRESETS", "BLOG_POSTS", "POLICY_TEMPLATES")


@dataclass(frozen=True, slots=True)
class LiteLlm:
    version: str
    pid: int
    url: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {MASTER_KEY}"}


def find_litellm(given: Path | None) -> Path:
    """Its program. Raises Skipped if there is none, FileNotFoundError if the one that was named is none."""
    named = given or Path(os.environ.get("BENCH_LITELLM", ""))
    if named != Path():
        if not os.access(named, os.X_OK) or named.is_dir():
            raise FileNotFoundError(f"{named} is no program")
        return named.absolute()
    found = shutil.which("litellm")
    if found is None:
        raise Skipped(INSTALL)
    return Path(found).absolute()


@contextlib.asynccontextmanager
async def running_litellm(program: Path, folder: Path, answer: str) -> AsyncIterator[LiteLlm]:
    """The proxy while it answers, ended with the block. Raises TimeoutError or OSError if it does not get ready."""
    home = Path(tempfile.mkdtemp(dir=folder, prefix="litellm-"))
    port = free_port()
    process = _start(_argv(program, _write_config(home, answer), port), home)
    try:
        proxy = LiteLlm(_version(program), process.pid, f"http://127.0.0.1:{port}")
        await _wait_until_ready(process, proxy, home / "log")
        yield proxy
    finally:
        _stop(process)


def _start(argv: list[str], home: Path) -> subprocess.Popen[bytes]:
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            argv,
            cwd=home,
            env=_env(home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _argv(program: Path, config: Path, port: int) -> list[str]:
    # Versions before 1.8x report usage unless told not to; later ones take the option and have no use for it.
    options = {"--config": config, "--host": "127.0.0.1", "--port": port, "--num_workers": 1, "--telemetry": False}
    return [str(program), *(str(word) for pair in options.items() for word in pair)]


def _write_config(home: Path, answer: str) -> Path:
    params = {"model": f"openai/{MODEL}", "api_key": "dummy", "mock_response": answer}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"telemetry": False},
    }
    path = home / "config.yaml"
    path.write_text(json.dumps(config))  # which YAML is a superset of
    return path


def _env(home: Path) -> dict[str, str]:
    """All it sees: nothing of the environment the benchmark runs in but the PATH, so no vendor's key and no proxy."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        # Else it reads a .env of whatever folder it finds one in.
        "LITELLM_MODE": "PRODUCTION",
        **{f"LITELLM_LOCAL_{name}": "True" for name in LOCAL},
    }


def _version(program: Path) -> str:
    # Asked for by --version, it takes as long as for its start.
    for info in program.resolve().parent.parent.glob("lib/python*/site-packages/litellm-*.dist-info"):
        return info.name.removeprefix("litellm-").removesuffix(".dist-info")
    return ""


async def _wait_until_ready(process: subprocess.Popen[bytes], proxy: LiteLlm, log: Path) -> None:
    ends_at = time.monotonic() + READY_TIMEOUT_S
    async with aiohttp.ClientSession(proxy.url, timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)) as client:
        while not await _is_ready(client):
            if process.poll() is not None:
                raise OSError(f"LiteLLM ended with code {process.returncode}: {_last_words(log)}")
            if time.monotonic() > ends_at:
                raise TimeoutError(f"LiteLLM was not ready within {READY_TIMEOUT_S:g} s: {_last_words(log)}")
            await asyncio.sleep(POLL_S)


async def _is_ready(client: aiohttp.ClientSession) -> bool:
    try:
        async with client.get("/health/liveliness") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _last_words(log: Path) -> str:
    return log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The whole group, which is its own: whatever it has started goes with it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return  # its number may be somebody else's by now
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
