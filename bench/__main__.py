"""The hub's benchmark: `uv run python -m bench turns` compares it with the raw CLIs, against a stand-in vendor.

Loopback only, with dummy keys. Needs an idle machine, the pinned CLIs (manage.py install_cli) and, for the hundred
raw processes at once, 8 GB of memory and some minutes. Exit code 1 if a gate is missed or a CLI is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import psutil

from bench.burst import Bursts
from bench.burst_table import FULL_COUNT, section_of
from bench.clis import find_cli, version_of
from bench.null import measure_null
from bench.report import Section, print_gates, print_section, progress
from bench.stand_in import running_stand_in
from bench.turns import WrongRun, measure_turns
from providers.registry import adapters_by_name

PARTS = ("claude", "gemini", "echo", "burst")
CLI_OF_PART = {"claude": "claude", "gemini": "gemini", "burst": "claude"}

MOST_RUNS = 1_000

# What keeps one part from being measured, a hub that does not get ready among it; the others go on.
FAILURES = (WrongRun, TimeoutError, OSError, AssertionError, aiohttp.ClientError, psutil.Error)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is run: rounds of turns and of bursts, conversations in a burst, echo requests per line."""

    runs: int
    rounds: int
    count: int
    requests: int


FULL = Sizes(runs=9, rounds=1, count=FULL_COUNT, requests=600)
QUICK = Sizes(runs=2, rounds=1, count=10, requests=100)


def main() -> int:
    options = _read_options()
    base = QUICK if options.quick else FULL
    sizes = Sizes(options.runs or base.runs, options.rounds or base.rounds, base.count, base.requests)
    parts = tuple(part for part in PARTS if part in (options.only or PARTS))
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        return asyncio.run(_run(parts, sizes, options.server, options.json))
    return 130


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    turns = commands.add_parser("turns", help="raw CLIs, the hub cold, warm and reused, bursts, the hub alone")
    turns.add_argument("--quick", action="store_true", help="few runs and bursts of 10, to try it out")
    turns.add_argument("--runs", type=_positive, default=0, help=f"rounds of single turns (default {FULL.runs})")
    turns.add_argument("--rounds", type=_positive, default=0, help=f"rounds of bursts (default {FULL.rounds})")
    turns.add_argument("--only", action="append", choices=PARTS, help="leave out the other parts; may be repeated")
    turns.add_argument("--json", type=Path, help="write every single value to this file")
    turns.add_argument("--server", choices=("daphne", "uvicorn"), default="daphne", help="what serves the hub")
    return parser.parse_args()


def _positive(word: str) -> int:
    number = int(word)
    if not 1 <= number <= MOST_RUNS:
        raise argparse.ArgumentTypeError(f"1 to {MOST_RUNS}")
    return number


async def _run(parts: tuple[str, ...], sizes: Sizes, server: str, json_file: Path | None) -> int:
    # A termination signal ends the run as Ctrl-C does, so that nothing that was started stays.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    paths = {name: find_cli(name) for name in ("claude", "gemini")}
    machine = await _machine(paths)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    sections: list[Section] = []
    troubles: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder, running_stand_in() as vendor_url:
        for part in parts:
            path = paths.get(CLI_OF_PART.get(part, ""))
            if path is None and part in CLI_OF_PART:
                mend = adapters_by_name()[CLI_OF_PART[part]].info.mend_install
                troubles.append(f"{part}: SKIPPED, {CLI_OF_PART[part]} is not installed; get it by: {mend}")
                continue
            try:
                sections += await _measure(part, path, vendor_url, Path(folder), sizes, server)
            except FAILURES as exc:
                troubles.append(f"{part}: FAILED, {type(exc).__name__}: {exc}")
    return _show(sections, troubles, machine, json_file)


async def _measure(
    part: str, path: Path | None, vendor_url: str, folder: Path, sizes: Sizes, server: str
) -> list[Section]:
    if part == "echo" or path is None:
        return await measure_null(folder, requests=sizes.requests, rounds=min(sizes.runs, 5), server=server)
    if part == "burst":
        bursts = await Bursts(path, vendor_url, folder, sizes.count, server).run(sizes.rounds)
        return [section_of(bursts, count=sizes.count, rounds=sizes.rounds)]
    return [await measure_turns(part, path, vendor_url, folder, runs=sizes.runs, server=server)]


async def _machine(paths: dict[str, Path | None]) -> dict[str, str]:
    load = os.getloadavg()[0]
    if load > 0.5:
        progress(f"the machine is not idle: its load is {load:.1f}")
    return {
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GB",
        "load": f"{load:.2f}",
        **{name: await version_of(name, path) if path else "missing" for name, path in paths.items()},
    }


def _show(sections: list[Section], troubles: list[str], machine: dict[str, str], json_file: Path | None) -> int:
    for section in sections:
        print_section(section)
    gates = [gate for section in sections for gate in section.gates]
    if gates:
        print_gates(gates)
    for trouble in troubles:
        print(f"\n!!! {trouble}")
    if json_file is not None:
        taken_at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        report = {
            "taken_at": taken_at,
            "machine": machine,
            "troubles": troubles,
            "sections": list(map(asdict, sections)),
        }
        json_file.write_text(json.dumps(report, indent=1))
    is_missed = any(gate.is_judged and not gate.is_met for gate in gates)
    return 1 if is_missed or troubles else 0


if __name__ == "__main__":
    sys.exit(main())
