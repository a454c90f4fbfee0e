"""A client of the hub's WebSocket for tests: asks and waits for what answers it, and keeps what comes beside."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.hub import HubProcess

Json = dict[str, Any]

WAIT_S = 20.0
SMALL_BYTES = 8 * 1024
MAKE_ADMIN = """
from hubsite.asgi import settings
from hubsite.first_run import ensure_admin
ensure_admin(settings.HUB_DATA_DIR)
"""
ENDS = ("finished", "error", "stopped")


class Talk:
    """One connection. `events` are all that came which answer nothing that was said."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[Json] = []
        self._answers: dict[int, Json] = {}
        self._next = 0

    def say(self, kind: str, **fields: Any) -> Json:
        """Say something and return what is answered to it."""
        self._next += 1
        number = self._next
        self.connection.send(json.dumps({"type": kind, "id": number, **fields}))
        while number not in self._answers:
            self.hear()
        return self._answers.pop(number)

    def hear(self) -> Json:
        """Take the next message in."""
        message: Json = json.loads(self.connection.recv(timeout=WAIT_S))
        if message.get("re") is not None:
            self._answers[message["re"]] = message
        else:
            self.events.append(message)
        return message

    def hear_until(self, holds: Callable[[Json], bool]) -> Json:
        """The first event, of those that came already too, of which this is true."""
        looked = 0
        ends_at = time.monotonic() + WAIT_S
        while True:
            for event in self.events[looked:]:
                if holds(event):
                    return event
            looked = len(self.events)
            assert time.monotonic() < ends_at, self.events[-5:]
            self.hear()

    def ask(self, text: str, **fields: Any) -> str:
        """Ask the demo provider; the turn's name."""
        answer = self.say("ask", text=text, **{"provider": "echo", **fields})
        assert answer["type"] == "accepted", answer
        return str(answer["turn"])

    def end_of(self, turn: str) -> Json:
        return self.hear_until(lambda it: it.get("turn") == turn and it["type"] in ENDS)

    def answer_to(self, text: str, **fields: Any) -> tuple[str, str]:
        """The session and the text of a whole answer."""
        turn = self.ask(text, **fields)
        end = self.end_of(turn)
        assert end["type"] == "finished", end
        return str(end["session"]), text_of(self.events, turn)

    def session_of(self, turn: str) -> str:
        return str(self.hear_until(lambda it: it.get("turn") == turn and it["type"] == "admitted")["session"])

    def hear_words(self, turn: str, *, count: int = 1) -> None:
        """Until so many pieces of text have come."""
        while len([it for it in self.events if it.get("turn") == turn and it["type"] == "delta"]) < count:
            self.hear()

    def cut(self) -> None:
        """End the connection without a word."""
        self.connection.socket.shutdown(socket.SHUT_RDWR)

    def close_code(self) -> int:
        """The code with which the hub ends the connection."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.hear()
        assert self.connection.close_code is not None
        return self.connection.close_code


def text_of(events: list[Json], turn: str) -> str:
    """The answer's text. Its events must be numbered without a gap or a repetition."""
    mine = [it for it in events if it.get("turn") == turn]
    last = mine[0]["first"] - 1
    for event in mine:
        assert event["first"] == last + 1, mine
        last = event["n"]
    return "".join(it["text"] for it in mine if it["type"] == "delta")


def accepts(hub: HubProcess) -> bool:
    """Whether it can be reached: uvicorn says that it is ready a moment before it listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", hub.port)) == 0


@contextlib.contextmanager
def opened(
    hub: HubProcess, headers: Mapping[str, str] | None = None, *, most_unread: int | None = None
) -> Iterator[Talk]:
    """A connection on which nothing was said yet; of unread messages it takes in so many, then the hub has to wait."""
    dialled = socket.socket()
    if most_unread is not None:
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    dialled.connect(("127.0.0.1", hub.port))
    made = connect(
        f"ws://127.0.0.1:{hub.port}/ws/chat/",
        sock=dialled,
        additional_headers=dict(headers or {}),
        max_size=None,
        max_queue=most_unread,
        proxy=None,
        open_timeout=WAIT_S,
        close_timeout=1,
        ping_interval=None,
    )
    with made:
        yield Talk(made)


@contextlib.contextmanager
def greeted(hub: HubProcess, key: str = "", *, most_unread: int | None = None) -> Iterator[Talk]:
    """A connection with a key, the hub's own if none is named."""
    with opened(hub, most_unread=most_unread) as talk:
        ready = talk.say("hello", key=key or hub.key)
        assert ready["type"] == "ready", ready
        yield talk


def admin_password(hub: HubProcess) -> str:
    """Of the user `admin`, whom the hub command makes; a server that only serves makes none."""
    path = hub.data_dir / "admin.password"
    if not path.exists():
        made = hub.run_program(sys.executable, "-c", MAKE_ADMIN)
        assert made.returncode == 0, made.stderr
    return path.read_text().strip()


@contextlib.contextmanager
def logged_in(hub: HubProcess) -> Iterator[httpx.Client]:
    """The browser of the admin that the first run has made."""
    with httpx.Client(base_url=hub.url, follow_redirects=True, timeout=WAIT_S) as browser:
        browser.get("/admin/login/")
        form = {
            "username": "admin",
            "password": admin_password(hub),
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
        }
        answer = browser.post("/admin/login/?next=/", data=form, headers={"Referer": hub.url})
        assert answer.status_code == 200, answer.text
        yield browser


def page_headers(hub: HubProcess, browser: httpx.Client) -> dict[str, str]:
    """What a page of the hub sends along with its connection."""
    return {"Cookie": f"sessionid={browser.cookies['sessionid']}", "Origin": hub.url}
