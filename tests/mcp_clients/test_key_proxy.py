"""The proxy of the conformance tests hides nothing: it adds a key, and is out of the way else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio
from aiohttp import web

from tests.mcp_clients.key_proxy import KeyProxy

WAIT_S = 5


class Upstream:
    """Says one piece on each stream and falls silent; remembers what came in, and when the client is gone."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        if request.method != "GET":
            return web.json_response({"said": "no"}, status=418, headers={"Mcp-Session-Id": "abc"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()
        return response


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[tuple[Upstream, str]]:
    """A server to pass requests on to, and the proxy's address before it."""
    served = Upstream()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with KeyProxy(f"http://127.0.0.1:{runner.addresses[0][1]}", "hub_key") as proxy:
        yield served, proxy.url
    await runner.cleanup()


async def test_a_request_arrives_as_it_was_but_for_the_key(upstream: tuple[Upstream, str]) -> None:
    served, url = upstream
    headers = {"Host": "evil.example", "Mcp-Method": "ping"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/mcp?a=b", data=b"{}", headers=headers) as response,
    ):
        assert (response.status, response.headers["Mcp-Session-Id"]) == (418, "abc")
        assert await response.json() == {"said": "no"}
    (arrived,) = served.requests
    assert (arrived.path_qs, served.bodies) == ("/mcp?a=b", [b"{}"])
    assert arrived.headers["Authorization"] == "Bearer hub_key"
    assert (arrived.headers["Host"], arrived.headers["Mcp-Method"]) == ("evil.example", "ping")


async def test_a_stream_flows_at_once_and_a_hang_up_reaches_the_server(upstream: tuple[Upstream, str]) -> None:
    served, url = upstream
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as client:
        async with client.get(f"{url}/sse") as response:
            assert await response.content.readline() == b"data: one\n"
            response.close()
        await served.gone.wait()
