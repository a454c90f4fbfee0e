"""Which database: SQLite in the data folder, or what DATABASE_URL names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dj_database_url

from hubsite.env import Env

SCHEMES = ("postgres", "postgresql", "sqlite")
# A writer waits this long for another one; beyond it the hub keeps the turn and tries again.
BUSY_TIMEOUT_S = 5

SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": BUSY_TIMEOUT_S,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
}
POSTGRES_OPTIONS = {"connect_timeout": BUSY_TIMEOUT_S, "application_name": "llm-mcp-hub"}


def read_database(env: Env, data_folder: Path) -> dict[str, Any]:
    """Django's settings of the one database. A URL that can't be read is a fault of the settings."""
    url = env.url("DATABASE_URL", SCHEMES)
    if not url:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": data_folder / "hub.sqlite3", "OPTIONS": SQLITE_OPTIONS}
    config: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=300, conn_health_checks=True))
    is_sqlite = config["ENGINE"].endswith("sqlite3")
    config["OPTIONS"] = {**(SQLITE_OPTIONS if is_sqlite else POSTGRES_OPTIONS), **config.get("OPTIONS", {})}
    return config
