"""Files at web addresses, fetched for a caller where the hub's owner allows it.

The caller names the address and the hub's machine goes there, so only public ones count: the name is looked up once,
every address it has must be public, and the connection goes to just that address. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import AsyncIterator
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from chat.errors import BadRequest, Unsupported
from chat.wire.media import sniff

FETCH_S = 10.0
# Fetches at a time, of all callers together.
AT_ONCE = 8
PORTS = {"http": 80, "https": 443}

GIVEN_OUT = ipaddress.ip_network("2000::/3")
WAYS_OVER = (ipaddress.ip_network("2001::/32"), ipaddress.ip_network("2002::/16"))

_places = asyncio.Semaphore(AT_ONCE)


class Unfetchable(ValueError):
    """The message says why, in words for the caller."""


def is_remote(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


async def fetch_file(url: str, where: str) -> str:
    """`fetch_as_data_url` as the hub is set."""
    is_allowed, max_bytes = settings.HUB_REMOTE_MEDIA, settings.HUB_MEDIA_MAX_BYTES
    return await fetch_as_data_url(url, is_allowed=is_allowed, max_bytes=max_bytes, where=where)


async def fetch_as_data_url(url: str, *, is_allowed: bool, max_bytes: int, where: str) -> str:
    """The file at an address as a data URL. Raises Unsupported where it is not allowed, else BadRequest."""
    if not is_allowed:
        raise Unsupported(
            "files are taken as data URLs (data:image/png;base64,...); the hub's owner may allow http addresses with "
            "HUB_REMOTE_MEDIA",
            param=where,
        )
    try:
        async with asyncio.timeout(FETCH_S), _places:
            content = await _fetch(url, max_bytes)
    except TimeoutError as exc:
        raise BadRequest(f"the file can't be fetched: it took longer than {FETCH_S:g} s", param=where) from exc
    except Unfetchable as exc:
        raise BadRequest(f"the file can't be fetched: {exc}", param=where) from exc
    return f"data:{sniff(content[:64]) or 'application/octet-stream'};base64,{base64.b64encode(content).decode()}"


async def _fetch(url: str, max_bytes: int) -> bytes:
    # Imported here: it takes a moment, for hubs whose owner allows it.
    import httpx2

    try:
        parts = urlsplit(url)
        host, port = _target(parts)
        parts.netloc.encode("ascii")
    except ValueError as exc:
        raise Unfetchable(str(exc) if isinstance(exc, Unfetchable) else "that is no address") from exc
    address = await _public_address(host, port)
    # To the address that was looked at, under the name that was asked for: its certificate has to be the name's.
    place = parts._replace(netloc=f"[{address}]:{port}" if ":" in address else f"{address}:{port}", fragment="")
    headers = {"Host": parts.netloc, "User-Agent": "llm-mcp-hub", "Accept-Encoding": "identity"}
    try:
        async with (
            httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=FETCH_S) as client,
            client.stream("GET", place.geturl(), headers=headers, extensions={"sni_hostname": host}) as response,
        ):
            if response.status_code != 200:
                raise Unfetchable(f"its server answered with status {response.status_code}")
            return await _read(response.aiter_raw(), max_bytes)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        raise Unfetchable("its server can't be reached") from exc


def _target(parts: SplitResult) -> tuple[str, int]:
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise Unfetchable("it has to be an http or https address, without a user's name")
    port = parts.port or PORTS[parts.scheme]
    if port < 1_024 and port not in PORTS.values():
        raise Unfetchable("its port is not one of the web")
    return parts.hostname, port


async def _public_address(host: str, port: int) -> str:
    """The one address to go to. None of the name's addresses may be private, nor one of this machine."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise Unfetchable("its server is not known") from exc
    addresses = [str(place[4][0]) for place in found]
    if not addresses or not all(map(is_public, addresses)):
        raise Unfetchable("its address is not a public one")
    return addresses[0]


def is_public(address: str) -> bool:
    """Of the new addresses only those that are given out, without the ways over that lead to old ones."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in GIVEN_OUT or any(ip in way for way in WAYS_OVER)):
        return False
    return ip.is_global and not ip.is_multicast


async def _read(pieces: AsyncIterator[bytes], max_bytes: int) -> bytes:
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > max_bytes:
            raise Unfetchable(f"it is larger than {max_bytes} bytes (HUB_MEDIA_MAX_BYTES)")
    return bytes(content)
