"""Numbers of requests as JSON has them: 5.0 is the same as 5, and nothing else is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_as_whole)]
