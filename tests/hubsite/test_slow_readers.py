"""An answer does not pile up in the hub for a client that does not read, and loses nothing for one that reads late."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import psutil
import pytest

from hubsite import door
from hubsite.door import Valve
from tests.asking import CHAT, eventually
from tests.hub import HubProcess

WAIT_S = 5
MB = 1024 * 1024
QUESTION = "x" * (4 * MB)


async def test_valve_lets_through_what_the_transport_takes() -> None:
    assert await Valve().wait()


async def test_closed_valve_holds_the_answer_back_until_it_opens() -> None:
    valve = Valve()
    valve.pauseProducing()
    waiting = asyncio.create_task(valve.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    valve.resumeProducing()
    async with asyncio.timeout(WAIT_S):
        assert await waiting


async def test_client_that_takes_nothing_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SEND_TIMEOUT_S", 0.01)
    valve = Valve()
    valve.pauseProducing()
    async with asyncio.timeout(WAIT_S):
        assert not await valve.wait()


def ask_without_reading(hub: HubProcess) -> socket.socket:
    body = {"provider": "echo", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT_S)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {hub.key}\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    return client


def test_answer_is_whole_for_a_client_that_reads_late(hub: HubProcess, http: httpx.Client) -> None:
    client = ask_without_reading(hub)
    with client:
        assert client.recv(15, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
        assert http.get("/health").status_code == 200
        answer = bytearray()
        while piece := client.recv(MB):
            answer += piece
    assert b"data: [DONE]" in answer[-200:]
    assert answer.count(b"x") >= len(QUESTION)


def test_client_that_goes_away_unread_leaves_its_worker_to_the_next(hub: HubProcess, http: httpx.Client) -> None:
    before = psutil.Process(hub.pid).num_fds()
    for _ in range(3):
        with ask_without_reading(hub) as client:
            assert client.recv(15, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
    answer = http.post(CHAT, json={"provider": "echo", "messages": [{"role": "user", "content": "Hi"}]})
    assert answer.json()["choices"][0]["message"]["content"] == "Hi"
    # A worker may be replaced meanwhile: three pipes each.
    assert psutil.Process(hub.pid).num_fds() <= before + 12


def test_large_whole_answer_is_no_hang_up(hub: HubProcess, http: httpx.Client) -> None:
    """Larger than what the transport takes at once."""
    before = hub.log.read_text().count(" 499 in ")
    body = {"provider": "echo", "messages": [{"role": "user", "content": QUESTION}]}
    for _ in range(3):
        answered = http.post(CHAT, json=body)
        assert len(answered.json()["choices"][0]["message"]["content"]) == len(QUESTION)
    eventually(lambda: hub.log.read_text().count("POST /v1/chat/completions 200 in ") >= 3)
    assert hub.log.read_text().count(" 499 in ") == before
