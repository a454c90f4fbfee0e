"""The decision in a turn's record, as lines of text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.utils.html import format_html_join

from chat.models import TurnRecord


def parts(turn: TurnRecord, name: str) -> list[defaultdict[str, Any]]:
    """One of the record's lists; empty for a turn without it. What an entry lacks reads as 0."""
    try:
        found = json.loads(turn.decision or "{}").get(name, [])
    except (ValueError, AttributeError):  # cut short, or of another version
        return []
    return [defaultdict(int, it) for it in found if isinstance(it, dict)] if isinstance(found, list) else []


def name(part: defaultdict[str, Any]) -> str:
    return f"{part['provider']}, {part['model']}" if part["model"] else str(part["provider"])


def lines(texts: Iterable[str]) -> str | None:
    return format_html_join("", "{}<br>", ((text,) for text in texts)) or None
