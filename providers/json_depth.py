"""How deep JSON is nested: programs on its way have limits of their own, and fail in ways of their own beyond them."""

from __future__ import annotations

from typing import Any

# The lowest known is 128, of codex; what a value is wrapped in on its way takes some of it.
MOST_LEVELS = 100


def is_deeper(value: Any, most: int) -> bool:
    """Whether it has more levels of objects and lists than `most`."""
    level = [value]
    for _ in range(most + 1):
        inside: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                inside += part.values()
            elif isinstance(part, list):
                inside += part
        level = [part for part in inside if isinstance(part, (dict, list))]
        if not level:
            return False
    return True
