"""Live sessions as Redis has them, for the admin's synchronous views. The layout is that of chat/sessions.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import islice

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError

from chat.conversation import Head, StoredMessage, load_head, load_message
from chat.errors import StoreUnavailable
from chat.sessions import TOMBSTONE_MS, Keys, Sessions, index_key

# Of all owners together; more are found under their owner.
MOST_LISTED = 1_000
MOST_READ = 20_000
LEAST_PER_OWNER = 50
GROUP = 500


@contextmanager
def _redis() -> Iterator[Redis]:
    """A client for one question. Raises StoreUnavailable for whatever keeps Redis from answering."""
    wait_s = settings.HUB_REDIS_TIMEOUT_S
    url = settings.HUB_REDIS_LOCATION
    try:
        with Redis.from_url(url, socket_timeout=wait_s, socket_connect_timeout=wait_s, retry=None) as redis:
            yield redis
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis can't be asked: {type(error).__name__}") from error


def live_heads(owners: Sequence[str]) -> list[Head]:
    """The owners' live sessions, the last used first, MOST_LISTED at most. Raises StoreUnavailable."""
    if not owners:
        return []
    per_owner = min(MOST_LISTED, max(LEAST_PER_OWNER, MOST_READ // len(owners)))
    with _redis() as redis:
        pipe = redis.pipeline(transaction=False)
        for owner in owners:
            pipe.zrange(index_key(owner), 0, per_owner - 1, desc=True, withscores=True)
        named = [
            [(-used, owner, it) for it, used in found] for owner, found in zip(owners, pipe.execute(), strict=True)
        ]
        keys = [Keys.of(owner, it.decode()).head for _, owner, it in merge(*named)]
        return list(islice(_heads(redis, keys), MOST_LISTED))


def _heads(redis: Redis, keys: Sequence[str]) -> Iterator[Head]:
    """Those that have not expired since they were last used."""
    for start in range(0, len(keys), GROUP):
        found: list[bytes | None] = redis.mget(keys[start : start + GROUP])  # type: ignore[assignment]
        yield from (load_head(raw) for raw in found if raw)


def live_head(owner: str, session_id: str) -> Head | None:
    """Raises StoreUnavailable."""
    with _redis() as redis:
        raw: bytes | None = redis.get(Keys.of(owner, session_id).head)  # type: ignore[assignment]
    return load_head(raw) if raw else None


class LiveMessages(Sequence[StoredMessage]):
    """A live session's messages, fetched in slices. Raises StoreUnavailable."""

    def __init__(self, owner: str, session_id: str) -> None:
        self._key = Keys.of(owner, session_id).messages

    def __len__(self) -> int:
        with _redis() as redis:
            return int(redis.llen(self._key))

    def __getitem__(self, place: int | slice) -> list[StoredMessage]:  # type: ignore[override]
        assert isinstance(place, slice)
        with _redis() as redis:
            found: list[bytes] = redis.lrange(self._key, place.start, place.stop - 1)  # type: ignore[assignment]
        return [load_message(raw) for raw in found]


def delete_live(owner: str, session_id: str, *, uids: Sequence[str] = ()) -> str:
    """What Sessions.delete does: remove a session from Redis and leave the marks that keep a running turn from
    bringing it back. What it was known by. Raises StoreUnavailable.
    """
    keys = Keys.of(owner, session_id)
    names = (keys.head, keys.messages, keys.lock, keys.index, keys.deleted)
    with _redis() as redis:
        had: bytes = redis.eval(Sessions.delete_script.text, len(names), *names, session_id, str(TOMBSTONE_MS), *uids)
    return had.decode()
