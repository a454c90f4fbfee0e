"""What came in: one record per request, safe to print."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Vendor = Literal["anthropic", "gemini", "openai", ""]
Kind = Literal["chat", "count", "models", "account", "other"]

_SECRETS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-goog-api-key"})
_SECRET_IN_PATH = re.compile(r"([?&](?:key|access_token)=[^&]{0,6})[^&]*")
_SHOWN_CHARS = 6  # enough to tell two test keys apart


@dataclass(slots=True)
class Received:
    """One request as it came, and how its response ended."""

    vendor: Vendor
    kind: Kind
    method: str
    path: str  # with its query
    headers: dict[str, str]  # names in lower case
    body: Any  # parsed JSON; None if there was none
    at: float  # time.monotonic()
    closed_at: float | None = field(default=None)
    aborted: bool = field(default=False)  # the client hung up before the answer was complete

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shown_path(path: str) -> str:
    return _SECRET_IN_PATH.sub(r"\1", path)


def shown_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): _shown(name.lower(), value) for name, value in headers}


def _shown(name: str, value: str) -> str:
    if name not in _SECRETS:
        return value
    scheme, space, token = value.rpartition(" ")
    return f"{scheme}{space}{token[:_SHOWN_CHARS]}"
