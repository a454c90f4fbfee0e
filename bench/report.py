"""What the benchmark shows: tables, the gates beside their values, and the verdict."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gate:
    """A value with its bound. One that is not judged (too few runs to mean anything) is only shown."""

    what: str
    value: float
    bound: str
    is_met: bool
    unit: str = ""
    is_judged: bool = True

    @classmethod
    def at_most(cls, what: str, value: float, most: float, unit: str = "", *, is_judged: bool = True) -> Gate:
        # NaN compares false, so a value that could not be taken misses its gate.
        return cls(what, value, f"<= {most:g}{unit}", value <= most, unit, is_judged)

    @classmethod
    def at_least(cls, what: str, value: float, least: float, unit: str = "", *, is_judged: bool = True) -> Gate:
        return cls(what, value, f">= {least:g}{unit}", value >= least, unit, is_judged)

    @property
    def verdict(self) -> str:
        if not self.is_judged:
            return "not judged"
        return "met" if self.is_met else "MISSED"


@dataclass(frozen=True, slots=True)
class Section:
    """One table. `data` goes into the JSON file: every single value behind it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    gates: list[Gate] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)


def progress(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def print_section(section: Section) -> None:
    print(f"\n{section.title}")
    _print_table([section.head, *section.rows])
    if section.note:
        print(section.note)


def print_gates(gates: list[Gate]) -> None:
    print("\nGates")
    rows = [[gate.what, f"{number(gate.value)}{gate.unit}", gate.bound, gate.verdict] for gate in gates]
    _print_table([["", "value", "gate", "verdict"], *rows])


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for index, row in enumerate(rows):
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
        if index == 0:
            print("  " + "  ".join("-" * width for width in widths))


def number(value: float) -> str:
    if math.isnan(value):
        return "-"
    # From 999.5 on, three digits would be written as 1e+03.
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def ms(value_s: float) -> str:
    return number(value_s * 1_000)


def seconds(value_s: float) -> str:
    return number(value_s)


def ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}x"


def megabytes(value_bytes: float) -> str:
    return number(value_bytes / 1024 / 1024) if value_bytes else "-"
