"""DATABASE_URL: which database the hub uses, and that no fault ever quotes its password."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hubsite.database_settings import read_database
from hubsite.env import Env
from tests.hub import HubProcess, free_port
from tests.postgres import PASSWORD, QUOTED_PASSWORD, PostgresServer, running_postgres

FOLDER = Path("/data")
SECRET = "s3cret"
WRONG = [
    f"mysql://hub:{SECRET}@db/hub",
    f"POSTGRESQL://hub:{SECRET}@db/hub",
    f"postgresql:hub:{SECRET}@db/hub",
    f"postgresql://hub:{SECRET}@db:54x2/hub",
    f"postgresql://hub:{SECRET}@db:99999/hub",
    f"postgresql://hub:{SECRET}/1@db/hub",
    f"postgresql://hub:{SECRET}#1@db/hub",
    f"postgresql://hub:{SECRET}[1@db/hub",
    SECRET,
]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


def read(url: str) -> tuple[dict[str, object], Env]:
    env = Env({"DATABASE_URL": url})
    return read_database(env, FOLDER), env


def test_without_a_url_it_is_sqlite_in_the_data_folder() -> None:
    config, env = read("")
    assert config["ENGINE"] == "django.db.backends.sqlite3"
    assert config["NAME"] == FOLDER / "hub.sqlite3"
    assert env.faults == []


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_url_of_postgresql_is_taken_apart(scheme: str) -> None:
    config, env = read(f"{scheme}://hub:p%2Fs%3Fw%40rd%3A1@db.example:5433/archive?sslmode=require")
    named = ("ENGINE", "HOST", "PORT", "USER", "PASSWORD", "NAME")
    expected = ("django.db.backends.postgresql", "db.example", 5433, "hub", "p/s?w@rd:1", "archive")
    assert tuple(config[it] for it in named) == expected
    options = config["OPTIONS"]
    assert isinstance(options, dict)
    assert options["sslmode"] == "require"
    assert options["connect_timeout"]
    assert env.faults == []


def test_postgresql_on_a_socket_is_named_by_its_folder() -> None:
    config, _ = read("postgresql://hub@%2Fvar%2Frun%2Fpostgresql/hub")
    assert config["HOST"] == "/var/run/postgresql"


def test_sqlite_by_url_has_the_same_options() -> None:
    named, _ = read("sqlite:////srv/hub.sqlite3")
    assert named["NAME"] == Path("/srv/hub.sqlite3")
    assert named["OPTIONS"] == read("")[0]["OPTIONS"]


@pytest.mark.parametrize("url", WRONG)
def test_wrong_url_is_a_fault_that_does_not_quote_it(url: str) -> None:
    config, env = read(url)
    assert config == read("")[0]
    assert [it.name for it in env.faults] == ["DATABASE_URL"]
    assert SECRET not in str(env.faults)


def test_wrong_url_keeps_commands_from_running_and_stays_secret(tmp_path: Path) -> None:
    ran = HubProcess(tmp_path, env={"DATABASE_URL": WRONG[0]}).run("migrate")
    assert ran.returncode != 0
    assert "DATABASE_URL" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert SECRET not in ran.stdout + ran.stderr


def test_database_that_does_not_answer_stays_secret(tmp_path: Path) -> None:
    url = f"postgresql://hub:{SECRET}@127.0.0.1:{free_port()}/hub"
    ran = HubProcess(tmp_path, env={"DATABASE_URL": url}).run("migrate")
    assert ran.returncode != 0
    assert SECRET not in ran.stdout + ran.stderr


def test_commands_work_on_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    hub = HubProcess(tmp_path, env={"DATABASE_URL": postgres.url})
    for argv in (("migrate",), ("create_key", "n8n", "--quiet"), ("purge_archive",)):
        ran = hub.run(*argv)
        assert ran.returncode == 0, ran.stderr
        assert PASSWORD not in ran.stdout + ran.stderr
        assert QUOTED_PASSWORD not in ran.stdout + ran.stderr
    assert not (hub.data_dir / "hub.sqlite3").exists()


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    """A reader and a writer at once, as hub and admin commands are, would else lock each other out."""
    hub = HubProcess(tmp_path)
    assert hub.run("migrate").returncode == 0
    with closing(sqlite3.connect(hub.data_dir / "hub.sqlite3")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_relative_sqlite_counts_from_the_data_folder() -> None:
    """Never from the working directory (hub rule)."""
    config, _ = read("sqlite:///mine.sqlite3")
    path = Path(str(config["NAME"]))
    assert path.is_absolute()
    assert path.name == "mine.sqlite3"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite://:memory:", "postgresql://hub@localhost"])
def test_url_that_names_no_database_is_a_fault(url: str) -> None:
    _, env = read(url)
    assert [fault.name for fault in env.faults] == ["DATABASE_URL"]
