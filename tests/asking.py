"""What tests of the doors send, and how they read what comes back."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from redis import Redis

from tests.hub import HubProcess

CHAT = "/v1/chat/completions"
SESSION = "X-Session-ID"
WAIT_S = 10.0
UNARCHIVED = "hub:unarchived"

MAKE_KEYS = """
import json, sys
from hubsite.asgi import settings
from chat.keys import KeyTerms, create_key
asked = json.loads(sys.argv[1]).items()
print(json.dumps({name: create_key(name, owner=owner, terms=KeyTerms(**terms)) for name, (owner, terms) in asked}))
"""
KEYS_TURNS = """
SELECT turn.* FROM chat_turnrecord turn JOIN chat_apikey ON key_id = chat_apikey.id WHERE prefix = ? ORDER BY turn.id
"""


def ask(text: str, **fields: Any) -> dict[str, Any]:
    """A request to the demo provider."""
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}


def answer_of(response: httpx.Response) -> str:
    """The text of a whole answer."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def data_lines(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a whole stream, which must end with [DONE]."""
    assert response.status_code == 200, response.text
    *chunks, end = data_lines(response.text)
    assert end == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def streamed_text(response: httpx.Response) -> str:
    deltas = [choice["delta"] for chunk in chunks_of(response) for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape and nothing else."""
    assert response.status_code >= 400, response.text
    assert response.headers["content-type"].startswith("application/json"), response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


def session_of(response: httpx.Response) -> str:
    """The session a turn belongs to."""
    return str(response.headers[SESSION])


@contextlib.contextmanager
def begun_stream(client: httpx.Client, body: dict[str, Any], **headers: str) -> Iterator[Iterator[str]]:
    """A streamed answer whose first words have come, as the lines after them; leaving the block hangs up."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with client.stream("POST", CHAT, json={**body, "stream": True}, headers=named) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        lines = response.iter_lines()
        next(line for line in lines if '"content":"' in line and '"role"' not in line)
        yield lines


# --- the hub's keys and what it has written down ---------------------------------------------------------------------


def client_of(hub: HubProcess, key: str, **headers: str) -> httpx.Client:
    return httpx.Client(
        base_url=hub.url, headers={"Authorization": f"Bearer {key}", **headers}, timeout=httpx.Timeout(2 * WAIT_S)
    )


def make_keys(hub: HubProcess, **terms: dict[str, Any]) -> dict[str, str]:
    """Keys by their names, each with its `owner` and the fields of KeyTerms; one process makes them all."""
    asked = {name: (given.pop("owner", name), given) for name, given in terms.items()}
    made = hub.run_program(sys.executable, "-c", MAKE_KEYS, json.dumps(asked))
    assert made.returncode == 0, made.stderr
    return dict(json.loads(made.stdout))


def turns_of(hub: HubProcess, key: str) -> list[dict[str, Any]]:
    """The key's turns as the database has them once it has all that Redis holds for it, the first one first."""
    with Redis.from_url(hub.redis_url) as redis:
        eventually(lambda: not redis.exists(UNARCHIVED))
    with contextlib.closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", timeout=WAIT_S)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(KEYS_TURNS, (key[:10],))]


def eventually(holds: Callable[[], bool], *, within_s: float = WAIT_S) -> None:
    """Wait for what nobody announces."""
    ends_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends_at, "it did not come about"
        time.sleep(0.02)
