"""Where a key stands with its limits, as response headers."""

from __future__ import annotations

import math

from chat.standing import Standing

MICRO = 1_000_000


def limit_headers(standing: Standing) -> dict[str, str]:
    """X-RateLimit-Limit, -Remaining and -Reset (in seconds from now); a budget counts in US dollars."""
    if not standing.name:
        return {}
    is_money = standing.name.startswith("budget")
    limit, remaining = (
        f"{it / MICRO:.6f}" if is_money else f"{it:.0f}" for it in (standing.limit, max(0, standing.remaining))
    )
    reset = str(math.ceil(standing.reset_s))
    return {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
