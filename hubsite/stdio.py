"""`manage.py run_mcp` before Django is there, and instead of it where a hub runs: clients do not wait for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcpbridge import launch

BASE_DIR = Path(__file__).resolve().parent.parent
COMMAND = "run_mcp"


def main() -> int:
    """Serve MCP on standard input and output; returns the exit code."""
    argv = sys.argv[1:]
    if argv[:1] == [COMMAND]:
        argv = argv[1:]
    environ = _environ()
    return launch.main(argv, folder=_data_folder(environ), environ=environ, embed=_embed)


def _environ() -> dict[str, str]:
    """What settings.py sees: the environment, and `.env` below it."""
    path = BASE_DIR / ".env"
    if not path.is_file():
        return dict(os.environ)
    from dotenv import dotenv_values  # late: only where there is such a file

    return {name: value for name, value in dotenv_values(path).items() if value} | dict(os.environ)


def _data_folder(environ: dict[str, str]) -> Path:
    return BASE_DIR / Path(environ.get("HUB_DATA_DIR", "").strip() or "var").expanduser()


def _embed(key: str) -> int:
    from hubsite import embedded

    return embedded.serve(key)
