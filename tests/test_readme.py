"""README's table of providers says what the adapters say. `python -m tests.test_readme` prints it."""

from __future__ import annotations

import sys
from pathlib import Path

from providers.adapters.base import AdapterInfo
from providers.clis import pins
from providers.registry import adapters_by_name

README = Path(__file__).resolve().parent.parent / "README.md"
SHOWN_MODELS = 4
HEAD = (
    "| provider | program | models, the default first | get it | log in | can |",
    "|---|---|---|---|---|---|",
)


def table() -> str:
    return "\n".join((*HEAD, *(_row(adapter.info) for adapter in adapters_by_name().values())))


def _row(info: AdapterInfo) -> str:
    cells = (f"`{info.name}`", _program(info), _models(info), _code(info.mend_install), info.mend_login, _can(info))
    return "| " + " | ".join(cells) + " |"


def _program(info: AdapterInfo) -> str:
    if not info.program:
        return f"{info.title}: any program" if info.needs_command else f"{info.title}, built in"
    engines = pins.read_pin(info.name).engines if info.name in pins.names() else {}
    needs = [f"needs Node {least}" for tool, least in engines.items() if tool == "node"]
    return ", ".join((f"{info.title} {info.tested_version}", *needs))


def _models(info: AdapterInfo) -> str:
    names = list(dict.fromkeys((info.default_model, *info.models)))
    shown = [f"`{name}`" for name in names[:SHOWN_MODELS]]
    more = [f"{len(names) - SHOWN_MODELS} more"] if len(names) > SHOWN_MODELS else []
    return ", ".join((*shown, *more, *(f"any `{prefix}...`" for prefix in info.model_prefixes)))


def _code(mend: str) -> str:
    return f"`{mend}`" if mend.startswith("uv run") else mend


def _can(info: AdapterInfo) -> str:
    lacks = [f"`{name}`" for name in info.unsupported_sampling]
    said = (
        f"{info.context_tokens // 1_000:,}k tokens" if info.program else "",
        "goes on with a kept conversation" if info.can_keep else "",
        "tells what a turn cost" if info.reports_cost else "",
        " and ".join(_beyond_texts(info)),
        f"no {', '.join(lacks)}" if lacks else "all of sampling",
        "only by name" if info.by_name_only else "",
    )
    return "; ".join(filter(None, said))


def _beyond_texts(info: AdapterInfo) -> list[str]:
    shown = [word for word, part in (("images", "image/"), ("PDF", "/pdf")) if any(part in it for it in info.media)]
    known = [*(["function calling"] if info.has_tools else []), *(["JSON by schema"] if info.has_json else []), *shown]
    return [", ".join(known[:-1]), known[-1]] if len(known) > 1 else known


def test_the_table_of_providers_is_that_of_the_adapters() -> None:
    assert table() in README.read_text(), f"README.md lacks this table:\n\n{table()}\n"


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
