"""What the fault tests share: turns of a session with a fault in their middle, and what came of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.asking import CHAT, SESSION, WAIT_S, ask, begun_stream, data_lines, eventually
from tests.hub import HubProcess

REDIS_TIMEOUT_S = 0.5
# Short enough to be waited for, long enough for a machine that has other things to do.
FAULTY = {
    "HUB_PROVIDERS": "echo",
    "HUB_REDIS_TIMEOUT_S": str(REDIS_TIMEOUT_S),
    "HUB_SHUTDOWN_GRACE_S": "1",
}


def say(client: httpx.Client, text: str, *, session: str = "", **fields: Any) -> httpx.Response:
    """One turn, answered whole. Without a session a new one is begun."""
    return client.post(CHAT, json=ask(text, **fields), headers={SESSION: session} if session else {})


def said_in(client: httpx.Client, session: str) -> list[str]:
    """The texts of a session, none if there is no such session."""
    response = client.get(f"/v1/sessions/{session}")
    if response.status_code == 404:
        return []
    assert response.status_code == 200, response.text
    return [message["content"] for message in response.json()["messages"]]


def health_of(hub: HubProcess) -> str:
    """The hub's own word for its state, of a hub that takes requests."""
    response = httpx.get(f"{hub.url}/health", timeout=WAIT_S)
    assert response.status_code == 200, response.text
    return str(response.json()["status"])


def until_healthy(*hubs: HubProcess) -> None:
    eventually(lambda: all(health_of(hub) == "healthy" for hub in hubs))


@dataclass(frozen=True, slots=True)
class Rest:
    """What came of a stream after its first piece: whether it was whole, else the code of its error."""

    is_whole: bool
    code: str = ""


WHOLE = Rest(is_whole=True)


class Stream:
    """A turn that has begun to answer."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def rest(self) -> Rest:
        *_, last = data_lines("\n".join(self._lines))
        return WHOLE if last == "[DONE]" else Rest(is_whole=False, code=json.loads(last)["error"]["code"])


@contextlib.contextmanager
def begun(client: httpx.Client, text: str, *, session: str) -> Iterator[Stream]:
    """A streamed turn of a session, its first piece read; leaving the block hangs up."""
    with begun_stream(client, ask(text), X_Session_ID=session) as lines:
        yield Stream(lines)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Whoever works in a folder: a private Redis server, its keeper, workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def leaving_nothing(folder: Path) -> Iterator[Path]:
    """A folder in which after the block no process may be at work, and no worker's place left."""
    yield folder
    eventually(lambda: not processes_in(folder))
    assert not list(folder.glob("**/run/workers/*"))
