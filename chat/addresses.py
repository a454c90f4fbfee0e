"""From which address a request comes, believing X-Forwarded-For no further than the owner's own proxies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from django.conf import settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The address of the nearest hop that is no trusted proxy; of the furthest known one if all are. Never raises.

    A peer that is no IP address (a Unix socket has none) is nobody's proxy, and is returned as it is.
    """
    nearest = _parse(peer)
    if nearest is None:
        return peer
    hops = reversed(forwarded_for.split(","))  # each proxy appends the address it was asked from
    while _is_in(nearest, trusted):
        further = _parse(next(hops, ""))
        if further is None:
            break  # whatever stands left of something illegible was not written by a trusted proxy
        nearest = further
    return str(nearest)


def address_of(scope: Mapping[str, Any]) -> str:
    """The client's address of an ASGI connection, by HUB_TRUSTED_PROXIES."""
    peer = str((scope.get("client") or [""])[0] or "")
    given = [value.decode("latin1") for name, value in scope.get("headers", ()) if name == b"x-forwarded-for"]
    return client_address(peer, ",".join(given), settings.HUB_TRUSTED_PROXIES)


def neighbourhood(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, all of which a single host may use."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address


def _parse(text: str) -> Address | None:
    """An address as proxies write it: with a port, in brackets, in quotes, IPv4 within IPv6, with a zone."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
