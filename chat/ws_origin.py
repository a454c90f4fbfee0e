"""From where a WebSocket may be opened: a page a browser was lured to must not reach a hub on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host

DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin1").lower(): value.decode("latin1") for name, value in scope["headers"]}


def is_welcome(headers: Mapping[str, str]) -> bool:
    """Whether the host is the hub's, and the origin, which browsers always tell, the hub's own page or a known one."""
    host = headers.get("host", "")
    domain, _ = split_domain_port(host)
    if not domain or not validate_host(domain, settings.ALLOWED_HOSTS):
        return False
    origin = headers.get("origin", "")
    return not origin or is_own(origin, host) or origin.rstrip("/") in settings.HUB_ALLOWED_ORIGINS


def is_own(origin: str, host: str) -> bool:
    """Whether a page at `origin` came from `host`, port and all: cookies are sent to every port of a name."""
    parts = urlsplit(origin)
    port = DEFAULT_PORTS.get(parts.scheme)
    return port is not None and parts.netloc.lower().removesuffix(port) == host.lower().removesuffix(port)
