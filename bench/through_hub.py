"""Requests to a real hub over HTTP, timed as a client sees them."""

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
from tests.hub import HubProcess, running_hub

Json = dict[str, Any]


@contextlib.contextmanager
def fresh_hub(folder: Path, env: Mapping[str, str], *, server: str = "daphne") -> Iterator[HubProcess]:
    """A hub that is ready, on a data folder of its own."""
    with running_hub(Path(tempfile.mkdtemp(dir=folder, prefix="hub-")), env=env, server=server) as hub:
        yield hub


@contextlib.asynccontextmanager
async def client_of(hub: HubProcess, *, timeout_s: float) -> AsyncIterator[aiohttp.ClientSession]:
    """A client without a limit of connections that has asked once already, so key and route are looked up."""
    async with aiohttp.ClientSession(
        hub.url,
        headers=hub.headers,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    ) as client:
        async with client.get("/v1/models") as response:
            response.raise_for_status()
            await response.read()
        yield client


def request_body(prompt: str, *, provider: str, model: str, system: str = "", stream: bool = True) -> Json:
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"provider": provider, "model": model, "stream": stream, "messages": messages}


async def ask(client: aiohttp.ClientSession, body: Json, *, expect: str) -> Taken:
    """One request, streamed or whole as `body` says; `expect` has to be in the answer."""
    began = time.monotonic()
    try:
        async with client.post("/v1/chat/completions", json=body) as response:
            start = response.headers.get("X-Hub-Start", "")
            if response.status != 200:
                return Taken(0, 0, start, f"{response.status}: {(await response.text())[:200]}")
            first_s, text, is_complete = await (_streamed if body["stream"] else _whole)(response, began)
    except (aiohttp.ClientError, TimeoutError) as exc:
        return Taken(0, 0, error=f"{type(exc).__name__}: {exc}")
    total_s = time.monotonic() - began
    if not is_complete or expect not in text:
        return Taken(0, 0, start, f"not the right answer: {text[:80]!r}, {is_complete=}")
    return Taken(first_s, total_s, start)


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
