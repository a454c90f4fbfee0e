"""This hub as it is at the moment: its providers with their workers, and the turns that run."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from typing import Any

import psutil
from django.conf import settings

from chat.models import ApiKey
from chat.running import RunningTurn
from chat.runtime import chat
from providers import runtime
from providers.admin import snapshot
from providers.errors import ShuttingDown

MOST_TURNS = 100


def hub() -> dict[str, Any]:
    """Which hub this is: others on the same database show their own workers and turns."""
    started_at = psutil.Process().create_time()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": settings.VERSION,
        "started_at": round(started_at),
    }


def providers() -> list[dict[str, Any]] | None:
    """None where no engine runs in this process."""
    found = snapshot.take()
    return None if found is None else [asdict(it) for it in found]


def turns() -> list[dict[str, Any]]:
    """Those that run here, the first one first, MOST_TURNS at most; nothing of what is said in them."""
    try:
        running = runtime.ask_engine(lambda _: [_turn(it) for it in chat().under_way][:MOST_TURNS])
    except ShuttingDown:
        return []
    keys = ApiKey.objects.in_bulk({it["key_id"] for it in running if it["key_id"]})
    for turn in running:
        key = keys.get(turn.pop("key_id"))
        turn["key"] = key.name if key else ""
    return running


def _turn(turn: RunningTurn) -> dict[str, Any]:
    return {
        "id": turn.turn_id,
        "key_id": turn.key_id,
        "owner": turn.owner,
        "door": turn.door,
        "provider": turn.provider,
        "model": turn.model,
        "session_id": turn.session_id,
        "began_at": turn.began_ms // 1_000,
        "is_answering": turn.started is not None,
        "is_stopping": turn.stop.is_asked,
        "chars": turn.output_chars,
    }


def stop_turn(turn_id: str) -> bool:
    """Whether it runs here."""
    try:
        return runtime.ask_engine(lambda _: chat().under_way.stop(turn_id))
    except ShuttingDown:
        return False
