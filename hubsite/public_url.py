"""The address others know the hub by, where a proxy with TLS stands in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from hubsite.env import Env

# Half a year: browsers then ask over TLS only.
HSTS_S = 15_768_000


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """HUB_PUBLIC_URL in parts, all empty if it is not set. `authority` is the host with its port, if it has one."""

    is_tls: bool = False
    authority: str = ""
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def read_public_url(env: Env) -> PublicUrl:
    """A URL that can't be read is a fault of the settings."""
    url = env.url("HUB_PUBLIC_URL", ("http", "https"))
    if not url:
        return PublicUrl()
    parts = urlsplit(url)
    host, is_whole = parts.hostname, parts.path in ("", "/") and not parts.query
    if not host or not is_whole or parts.username is not None:
        env.refuse("HUB_PUBLIC_URL", "is no address of a site", "Use https://hub.example.com, without a path")
        return PublicUrl()
    # As Django compares it: an IPv6 address in its brackets, without the port.
    name = f"[{host}]" if ":" in host else host
    return PublicUrl(parts.scheme == "https", parts.netloc, (name,), (f"{parts.scheme}://{parts.netloc}",))
