"""The database's questions, counted under django-prometheus' names.

By Django's own hook: django-prometheus' engines would make a class for every cursor, and hide which engine it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django_prometheus.db import connections_total, errors_total, execute_total, query_duration_seconds


def meter_database() -> None:
    """Have every connection counted from now on."""
    connection_created.connect(_on_connection, dispatch_uid="hubsite.database_meter")


def _on_connection(connection: BaseDatabaseWrapper, **about: Any) -> None:
    connections_total.labels(connection.alias, connection.vendor).inc()
    if _measured not in connection.execute_wrappers:
        connection.execute_wrappers.append(_measured)


def _measured(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    connection = context["connection"]
    names, began_at = (connection.alias, connection.vendor), time.perf_counter()
    try:
        return execute(sql, params, many, context)
    except Exception as error:
        errors_total.labels(*names, type(error).__name__).inc()
        raise
    finally:
        execute_total.labels(*names).inc()
        query_duration_seconds.labels(*names).observe(time.perf_counter() - began_at)
