"""Requests to a real hub (or another server with OpenAI's API) over HTTP, timed as a client sees them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from bench.stats import Taken
from tests.hub import HubProcess

Json = dict[str, Any]

# Limits that are checked on every request and never reached: without any, a part of the hub's work would be left out.
NEVER = str(2**31 - 1)
HUB_ENV = {"HUB_KEY_REQUESTS_PER_MINUTE": "10000000"}
KEY_LIMITS = ("--tpm", NEVER, "--tpd", NEVER, "--concurrent", NEVER)


class BenchHub(HubProcess):
    """A hub whose key has limits of every kind that a turn without a price can have."""

    limited_key = ""

    @property
    def key(self) -> str:
        return self.limited_key

    def start(self, *, bind: str = "") -> None:
        super().start(bind=bind)
        made = self.run("create_key", "bench", "--quiet", *KEY_LIMITS)
        assert made.returncode == 0, made.stderr
        self.limited_key = made.stdout.strip()


@contextlib.contextmanager
def fresh_hub(folder: Path, env: Mapping[str, str], *, server: str = "daphne") -> Iterator[HubProcess]:
    """A hub that is ready, on a data folder of its own, ended with the block whatever happens in it."""
    hub = BenchHub(Path(tempfile.mkdtemp(dir=folder, prefix="hub-")), env={**HUB_ENV, **env}, server=server)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


def new_client(url: str, headers: Mapping[str, str], *, timeout_s: float) -> aiohttp.ClientSession:
    """A client without a limit of connections that has none yet.

    It drops idle ones before uvicorn does (after 5 s): one that is closed just when it is used again would count as an
    error of the server's.
    """
    return aiohttp.ClientSession(
        url,
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    )


@contextlib.asynccontextmanager
async def client_of(hub: HubProcess, *, timeout_s: float) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that has asked once already, so key and route are looked up."""
    async with new_client(hub.url, hub.headers, timeout_s=timeout_s) as client:
        async with client.get("/v1/models") as response:
            response.raise_for_status()
            await response.read()
        yield client


def request_body(prompt: str, *, provider: str, model: str, system: str = "", stream: bool = True) -> Json:
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"provider": provider, "model": model, "stream": stream, "messages": messages}


async def ask(client: aiohttp.ClientSession, body: Json, *, expect: str, session: str = "") -> Taken:
    """One request, streamed or whole as `body` says, a session's next if one is named; `expect` has to be in it."""
    headers = {"X-Session-ID": session} if session else None
    began = time.monotonic()
    try:
        async with client.post("/v1/chat/completions", json=body, headers=headers) as response:
            start, session = response.headers.get("X-Hub-Start", ""), response.headers.get("X-Session-ID", "")
            if response.status != 200:
                return Taken(0, 0, start, f"{response.status}: {(await response.text())[:200]}")
            first_s, text, is_complete = await (_streamed if body["stream"] else _whole)(response, began)
    except (aiohttp.ClientError, TimeoutError) as exc:
        return Taken(0, 0, error=f"{type(exc).__name__}: {exc}")
    total_s = time.monotonic() - began
    if not is_complete or expect not in text:
        return Taken(0, 0, start, f"not the right answer: {text[:80]!r}, {is_complete=}")
    return Taken(first_s, total_s, start, session=session)


async def _streamed(response: aiohttp.ClientResponse, began: float) -> tuple[float, str, bool]:
    first_s, texts, is_complete = 0.0, [], False
    async for line in response.content:
        if line.startswith(b"data: {"):
            if text := _delta(orjson.loads(line[6:])):
                first_s = first_s or time.monotonic() - began
                texts.append(text)
        elif line.startswith(b"data: [DONE]"):
            is_complete = True
    return first_s, "".join(texts), is_complete


def _delta(chunk: Json) -> str:
    match chunk:
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
    return ""


async def _whole(response: aiohttp.ClientResponse, began: float) -> tuple[float, str, bool]:
    answer = orjson.loads(await response.read())
    text = str(answer["choices"][0]["message"]["content"])
    return time.monotonic() - began, text, True
