"""The commands of the benchmark, and what can be said on their lines. A new command joins COMMANDS."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.admin import measure_admin
from bench.command import Command, Part, Setup, Sizes
from bench.gateway import GATEWAY
from bench.mcp import MCP
from bench.report import Section
from bench.route import ROUTE
from bench.soak import SOAK
from bench.streams import STREAMS
from bench.turns import TURNS
from bench.watch import WATCH
from bench.wire import WIRE


async def _measure_admin(setup: Setup) -> list[Section]:
    # In a thread, because it uses Django's synchronous side.
    return await asyncio.to_thread(measure_admin, setup.folder, runs=setup.sizes.runs)


ADMIN = Command(
    name="admin",
    help="the administrator's pages over a large database",
    parts=(Part("pages", _measure_admin),),
    full=Sizes(runs=5),
    quick=Sizes(runs=2),
)
COMMANDS: tuple[Command, ...] = (TURNS, GATEWAY, ROUTE, MCP, WIRE, ADMIN, WATCH, SOAK, STREAMS)

MOST_RUNS = 1_000

FLAGS: dict[str, dict[str, Any]] = {
    "--server": {"choices": ("daphne", "uvicorn"), "help": "what serves the hub (default daphne)"},
    "--litellm": {
        "type": Path,
        "metavar": "PATH",
        "help": "LiteLLM's program, else $BENCH_LITELLM, else the one on PATH",
    },
}


@dataclass(frozen=True, slots=True)
class Options:
    command: Command
    parts: tuple[Part, ...]
    sizes: Sizes
    json_file: Path | None
    server: str
    litellm: Path | None


def read_options(description: str | None) -> Options:
    """What this process' command line asks for; ends the process if that can't be understood."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for command in COMMANDS:
        _add_command(commands, command)
    return _as_options(parser.parse_args())


def _add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Command) -> None:
    full, parts = command.full, [part.name for part in command.parts]
    parser = commands.add_parser(command.name, help=command.help, description=command.help)
    parser.set_defaults(command=command, server="daphne", litellm=None)
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    parser.add_argument("--runs", type=_positive, default=0, help=f"runs of what is asked once (default {full.runs})")
    parser.add_argument(
        "--rounds", type=_positive, default=0, help=f"rounds of what is asked by many (default {full.rounds})"
    )
    parser.add_argument("--only", action="append", choices=parts, help="leave out the other parts; may be repeated")
    parser.add_argument("--json", type=Path, help="write every single value to this file")
    for flag in command.flags:
        parser.add_argument(flag, **FLAGS[flag])


def _positive(word: str) -> int:
    number = int(word)
    if not 1 <= number <= MOST_RUNS:
        raise argparse.ArgumentTypeError(f"1 to {MOST_RUNS}")
    return number


def _as_options(given: argparse.Namespace) -> Options:
    command: Command = given.command
    base = command.quick if given.quick else command.full
    return Options(
        command=command,
        parts=tuple(part for part in command.parts if not given.only or part.name in given.only),
        sizes=replace(base, runs=given.runs or base.runs, rounds=given.rounds or base.rounds),
        json_file=given.json,
        server=given.server or "daphne",
        litellm=given.litellm,
    )
