"""Where the hub keeps things, in words without a password; and whether it can be reached."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import Error, connection
from redis import Redis, RedisError

from hubsite.private_redis import PrivateRedisFailed, find_server
from hubsite.shared_board import NOTES, read_cooldowns
from providers.cooldowns import Cooldown


def redis_place() -> str:
    """Which Redis: the private one, or that of REDIS_URL."""
    if not settings.HUB_REDIS_URL:
        return f"private server in {settings.HUB_PRIVATE_REDIS_DIR}"
    return _without_login(settings.HUB_REDIS_URL)


def database_place() -> str:
    """Which database."""
    config = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"SQLite, {config['NAME']}"
    return f"{connection.vendor} at {config['HOST'] or 'the local socket'}, {config['NAME']}"


def redis_trouble() -> str:
    """Why Redis can't be used; empty if it can. Starts nothing."""
    try:
        if not settings.HUB_REDIS_URL:
            find_server()
            return ""
        timeout_s = settings.HUB_REDIS_TIMEOUT_S
        with Redis.from_url(
            settings.HUB_REDIS_URL, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        ) as redis:
            redis.ping()
    except (PrivateRedisFailed, RedisError, OSError) as error:
        return str(error)
    return ""


def cooldowns() -> list[Cooldown]:
    """What the hubs of this Redis wait for at their vendors; nothing if it can't be asked. Starts nothing."""
    timeout_s = settings.HUB_REDIS_TIMEOUT_S
    try:
        with Redis.from_url(
            settings.HUB_REDIS_LOCATION, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        ) as redis:
            held: Any = redis.hgetall(NOTES)
            return read_cooldowns(held)
    except (RedisError, OSError):
        return []


def database_trouble() -> str:
    """Why the database can't be used; empty if it can."""
    try:
        connection.ensure_connection()
    except Error as error:
        return str(error).strip()
    return ""


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
