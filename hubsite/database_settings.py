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
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; "
    # What is erased is not to lie on in the file's free pages.
    "PRAGMA secure_delete=ON;",
}
POSTGRES_OPTIONS = {
    "connect_timeout": BUSY_TIMEOUT_S,
    "application_name": "llm-mcp-hub",
    # A server that vanished without a word is noticed within half a minute.
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


def read_database(env: Env, data_folder: Path) -> dict[str, Any]:
    """Django's settings of the one database. A URL that can't be read is a fault of the settings."""
    url = env.url("DATABASE_URL", SCHEMES)
    if not url:
        return _sqlite(data_folder / "hub.sqlite3")
    config: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=300, conn_health_checks=True))
    name = str(config.get("NAME") or "")
    if not name or name == ":memory:":
        env.refuse("DATABASE_URL", "names no database", "Use postgresql://user:password@host/name")
        return _sqlite(data_folder / "hub.sqlite3")
    if config["ENGINE"].endswith("sqlite3"):
        return _sqlite(data_folder / name)
    config["OPTIONS"] = {**POSTGRES_OPTIONS, **config.get("OPTIONS", {})}
    return config


def _sqlite(path: Path) -> dict[str, Any]:
    # Kept open: to open it and set it up anew would cost more than most questions.
    engine = "django.db.backends.sqlite3"
    return {"ENGINE": engine, "NAME": path, "CONN_MAX_AGE": None, "OPTIONS": SQLITE_OPTIONS}
