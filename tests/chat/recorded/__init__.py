"""What n8n 2.41.1 sent when its workflows were run against a hub, to be sent again.

The key is left out, and what belongs to the connection. Ids that a hub makes are placeholders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).resolve().parent
FIRST_SESSION = "session-of-the-first-answer"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. `opens` is the name that later ones give to the MCP session which it opens."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any = None
    opens: str = ""

    def send(self, client: httpx.Client, *, model: str = "", **headers: str) -> httpx.Response:
        """To a hub that may know another model, with headers of an earlier answer."""
        return client.send(self.build(client, model=model, **headers))

    def build(self, client: httpx.Client, *, model: str = "", **headers: str) -> httpx.Request:
        body = self.body | {name: model for name in ("model", "provider") if name in self.body} if model else self.body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.build_request(self.method, self.path, json=body, headers={**self.headers, **named})


def recorded(name: str) -> list[Recorded]:
    """The requests of a recording, as they came in."""
    return [Recorded(**request) for request in json.loads((FOLDER / f"{name}.json").read_text())["requests"]]
