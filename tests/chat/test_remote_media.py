"""Files at web addresses: only public ones, only what is asked for, and never for long."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from chat import remote_media
from chat.errors import BadRequest, Unsupported
from chat.remote_media import fetch_as_data_url, is_public, is_remote

pytestmark = pytest.mark.asyncio

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 40
Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def web(serve: Serve) -> AsyncIterator[str]:
    """A server on this machine; what it was asked comes whole to `serve`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(await reader.readuntil(b"\r\n\r\n"), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}/a.png?x=1#part"


def answer(body: bytes, status: str = "200 OK", *headers: str) -> Serve:
    async def serve(request: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return serve


async def fetch(url: str, max_bytes: int = 10_000) -> bytes:
    found = await fetch_as_data_url(url, is_allowed=True, max_bytes=max_bytes, where="here")
    return base64.b64decode(found.partition(",")[2])


@pytest.fixture
def everything_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_media, "is_public", lambda address: True)


async def test_nothing_is_fetched_unless_the_owner_allows_it() -> None:
    asked: list[bytes] = []

    async def serve(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(request)

    async with web(serve) as url:
        with pytest.raises(Unsupported, match="HUB_REMOTE_MEDIA"):
            await fetch_as_data_url(url, is_allowed=False, max_bytes=10, where="here")
        with pytest.raises(BadRequest, match="not a public one"):
            await fetch(url)
    assert asked == []


@pytest.mark.usefixtures("everything_is_public")
async def test_a_file_comes_with_its_type_and_the_server_is_asked_by_its_name() -> None:
    asked: list[bytes] = []

    async def serve(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        await answer(PNG)(request, writer)

    async with web(serve) as url:
        found = await fetch_as_data_url(url, is_allowed=True, max_bytes=1_000, where="here")
    assert found == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert asked[0].startswith(b"GET /a.png?x=1 HTTP/1.1\r\n")
    assert b"\r\nHost: localhost:" in asked[0]
    assert b"part" not in asked[0]


@pytest.mark.usefixtures("everything_is_public")
async def test_redirects_errors_and_large_files_are_refused() -> None:
    async with web(answer(b"", "302 Found", "Location: http://127.0.0.1/")) as url:
        with pytest.raises(BadRequest, match="status 302"):
            await fetch(url)
    async with web(answer(b"no", "404 Not Found")) as url:
        with pytest.raises(BadRequest, match="status 404"):
            await fetch(url)
    async with web(answer(b"x" * 5_000)) as url:
        with pytest.raises(BadRequest, match="larger than 1000 bytes"):
            await fetch(url, max_bytes=1_000)
        assert len(await fetch(url)) == 5_000


@pytest.mark.usefixtures("everything_is_public")
async def test_a_server_that_drips_or_breaks_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_media, "FETCH_S", 0.3)

    async def drip(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def garbage(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"what?\r\n\r\n")

    async with web(drip) as url:
        with pytest.raises(BadRequest, match="took longer"):
            await fetch(url)
    async with web(garbage) as url:
        with pytest.raises(BadRequest, match="can't be reached"):
            await fetch(url)
    with pytest.raises(BadRequest, match="can't be reached"):
        await fetch(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://localhost/",
        "http://0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "http://user:pass@127.0.0.1/",
        "http://127.0.0.1:22/",
        "http://:80/",
        "http://[/",
        "http://a:99999/",
        "https://" + "a" * 70 + ".invalid/",
    ],
)
async def test_addresses_that_are_not_of_the_public_web_are_refused(url: str) -> None:
    assert is_remote(url)
    with pytest.raises(BadRequest) as caught:
        await fetch(url)
    assert caught.value.param == "here"


async def test_public_addresses_are_public() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    assert not is_public("fe80::1%eth0")
    for over in ("64:ff9b::a00:1", "64:ff9b:1::a00:1", "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1", "2001::1"):
        assert not is_public(over)
