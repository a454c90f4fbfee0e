"""The ids that go with every line of the log: whose request it is about, and which turn."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

Ids = Mapping[str, str | int]

_ids: ContextVar[Ids] = ContextVar("hub_log_ids", default=MappingProxyType({}))


def log_ids() -> Ids:
    """Those of whatever runs now; nothing outside of a request."""
    return _ids.get()


def begin(request_id: str) -> None:
    """A request begins, in a task of its own."""
    _ids.set({"request_id": request_id})


def add(**more: str | int) -> None:
    """More is known of what runs now."""
    _ids.set({**_ids.get(), **more})
