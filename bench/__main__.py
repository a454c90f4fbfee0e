"""The hub's benchmark: `turns` compares it with the raw CLIs, `gateway` takes its own price, also beside LiteLLM's.

Loopback only, with dummy keys, against a stand-in vendor. Needs an idle machine, the pinned CLIs (manage.py
install_cli) and, for the hundred raw processes at once, 8 GB of memory and some minutes. Exit code 1 if a gate is
missed or a CLI is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import psutil

from bench.clis import find_cli, version_of
from bench.command import Part, Setup, Skipped, WrongRun
from bench.options import Options, read_options
from bench.report import Section, print_gates, print_section, progress
from bench.stand_in import running_stand_in
from providers.registry import adapters_by_name

CLIS = ("claude", "gemini")

# What keeps one part from being measured, a hub that does not get ready among it; the others go on.
FAILURES = (
    *(WrongRun, TimeoutError, OSError, AssertionError),
    *(aiohttp.ClientError, psutil.Error, subprocess.SubprocessError),
)


@dataclass(frozen=True, slots=True)
class Results:
    """What came of the parts: `troubles` make the run a failure, `skipped` don't."""

    sections: list[Section] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def main() -> int:
    options = read_options(__doc__)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        return asyncio.run(_run(options))
    return 130


async def _run(options: Options) -> int:
    # A termination signal ends the run as Ctrl-C does, so that nothing that was started stays.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    clis = {name: path for name in CLIS if (path := find_cli(name)) is not None}
    machine = await _machine(clis)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder, running_stand_in() as vendor_url:
        setup = Setup(Path(folder), vendor_url, clis, options.sizes, options.server, options.litellm)
        for part in options.parts:
            await _measure(part, setup, results)
    return _show(results, machine, options.json_file)


async def _measure(part: Part, setup: Setup, results: Results) -> None:
    if part.cli and part.cli not in setup.clis:
        mend = adapters_by_name()[part.cli].info.mend_install
        results.troubles.append(f"{part.name}: SKIPPED, {part.cli} is not installed; get it by: {mend}")
        return
    try:
        results.sections.extend(await part.measure(setup))
    except Skipped as reason:
        results.skipped.append(f"{part.name}: SKIPPED, {reason}")
    except FAILURES as exc:
        results.troubles.append(f"{part.name}: FAILED, {type(exc).__name__}: {exc}")


async def _machine(clis: dict[str, Path]) -> dict[str, str]:
    load = os.getloadavg()[0]
    if load > 0.5:
        progress(f"the machine is not idle: its load is {load:.1f}")
    return {
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GB",
        "load": f"{load:.2f}",
        **{name: await version_of(name, clis[name]) if name in clis else "missing" for name in CLIS},
    }


def _show(results: Results, machine: dict[str, str], json_file: Path | None) -> int:
    for section in results.sections:
        print_section(section)
    gates = [gate for section in results.sections for gate in section.gates]
    if gates:
        print_gates(gates)
    for trouble in results.troubles:
        print(f"\n!!! {trouble}")
    for reason in results.skipped:
        print(f"\n--- {reason}")
    if json_file is not None:
        report = {"taken_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine, **asdict(results)}
        json_file.write_text(json.dumps(report, indent=1))
    is_missed = any(gate.is_judged and not gate.is_met for gate in gates)
    return 1 if is_missed or results.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
