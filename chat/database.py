"""Questions to the database from the event loop: bounded, and with one kind of failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError

from chat.errors import DatabaseUnavailable

T = TypeVar("T")

# Longer than SQLite waits for a writer of another process.
WAIT_S = 8.0
RETRY_AFTER_S = 2.0


async def ask_database(question: Callable[[], T], what: str, *, wait_s: float = WAIT_S) -> T:
    """The answer to a blocking question. Raises DatabaseUnavailable, which says what was asked for."""
    try:
        async with asyncio.timeout(wait_s):
            return await sync_to_async(question)()
    except (OperationalError, InterfaceError, TimeoutError) as exc:
        message = f"{what} can't be looked up: the database can't be asked"
        raise DatabaseUnavailable(message, retry_after_s=RETRY_AFTER_S) from exc
