from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Tests leave it running; its database is for the hubs of one module at a time."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server
