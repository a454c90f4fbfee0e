"""The CLIs without a hub: a process per request, from its start to its exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from bench.clis import RawCli
from bench.stats import Taken

MAX_LINE_BYTES = 16 * 1024 * 1024


async def run_raw(
    cli: RawCli,
    prompt: str,
    folder: Path,
    *,
    expect: str,
    timeout_s: float,
    on_start: Callable[[int], None] = lambda pid: None,
) -> Taken:
    """One request in a process, HOME and TMPDIR of its own; `expect` has to be in the answer."""
    home = Path(tempfile.mkdtemp(dir=folder, prefix="raw-"))
    env = {**_make_home(cli, home), **cli.env}
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *cli.argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=env,
        cwd=home / "cwd",
        start_new_session=True,
        limit=MAX_LINE_BYTES,
    )
    on_start(process.pid)
    try:
        async with asyncio.timeout(timeout_s):
            first_s, text = await _answer(process, cli, prompt, began)
            code = await process.wait()
    except TimeoutError:
        return Taken(0, 0, error=f"no end within {timeout_s:g} s")
    finally:
        # The whole group: a relaunched gemini has a child of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    total_s = time.monotonic() - began
    if code != 0 or expect not in text:
        return Taken(0, 0, error=f"exit code {code}, answered {text[:80]!r}")
    return Taken(first_s, total_s)


async def _answer(process: asyncio.subprocess.Process, cli: RawCli, prompt: str, began: float) -> tuple[float, str]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(prompt.encode())
    process.stdin.close()
    first_s, texts = 0.0, []
    async for line in process.stdout:
        if not line.startswith(b"{"):
            continue
        if text := cli.text_of(orjson.loads(line)):
            first_s = first_s or time.monotonic() - began
            texts.append(text)
    return first_s, "".join(texts)


def _make_home(cli: RawCli, home: Path) -> dict[str, str]:
    for name in ("cwd", "tmp"):
        (home / name).mkdir()
    for name, content in cli.files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }


def children_cpu_s() -> float:
    """Processor seconds of all children that have ended, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
