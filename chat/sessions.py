"""Conversations in Redis: opened under a lock for one turn at a time, written when the turn is over.

Keys of one owner share sessions, ids are the owner's own: another owner's session can't even be named.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote

from redis.asyncio import Redis

from chat.conversation import (
    Conversation,
    Head,
    Outcome,
    StoredMessage,
    dump_head,
    dump_message,
    dump_outcome,
    load_head,
    load_message,
    now_ms,
)
from chat.errors import BadRequest, SessionBusy, SessionLost, StoreUnavailable
from chat.hot import HotState, Script
from chat.ids import new_id

# What a caller may name a session: harmless in URLs, headers and logs.
SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
POLL_S = 0.05
# Longer than any turn: a deleted session must not come back with the end of a turn that was running.
TOMBSTONE_MS = 2 * 86_400 * 1_000
UNARCHIVED = "hub:unarchived"
LIVE = "hub:sessions_live"  # named in the scripts, too: by when each expires


def check_session_id(session_id: str) -> str:
    """Raises BadRequest for an id no session can have."""
    if SESSION_ID.fullmatch(session_id):
        return session_id
    message = "a session id is 1 to 128 of the characters A-Z a-z 0-9 . _ : - and begins with a letter or digit"
    raise BadRequest(message, param="X-Session-ID")


def new_session_id() -> str:
    return f"sess_{new_id()}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a session lies in Redis."""

    head: str
    messages: str
    lock: str
    deleted: str
    index: str

    @classmethod
    def of(cls, owner: str, session_id: str) -> Keys:
        name = f"hub:session:{quote(owner, safe='')}:{session_id}"
        return cls(f"{name}:head", f"{name}:messages", f"{name}:lock", f"{name}:deleted", index_key(owner))


def index_key(owner: str) -> str:
    return f"hub:sessions:{quote(owner, safe='')}"


@dataclass(frozen=True, slots=True)
class Held:
    """A session under lock. `conversation` is None if Redis has none of that id."""

    keys: Keys
    token: str
    conversation: Conversation | None


class Sessions:
    """The sessions of all owners. `lock_s`: a lock whose hub was killed comes free after so many seconds."""

    open_script = Script("session_open")
    commit_script = Script("session_commit")
    release_script = Script("session_release")
    renew_script = Script("session_renew")
    delete_script = Script("session_delete")
    restore_script = Script("session_restore")

    def __init__(self, hot: HotState, *, lock_s: float) -> None:
        self._hot = hot
        self._lock_ms = int(lock_s * 1_000)
        self._queues: dict[Keys, _Queue] = {}

    async def open(self, owner: str, session_id: str, *, wait_s: float) -> Held:
        """Take the session's lock, waiting for a running turn up to `wait_s` seconds.

        Turns of one process come in the order they asked. Raises SessionBusy, StoreUnavailable.
        """
        keys = Keys.of(owner, session_id)
        try:
            # Without patience it is one look, which the store's own timeout bounds.
            async with asyncio.timeout(wait_s or None), self._in_order(keys):
                return await self._take(keys, may_wait=wait_s > 0)
        except TimeoutError as exc:
            raise self._busy(wait_s) from exc

    async def begin(self, owner: str, session_id: str) -> Held:
        """Take the lock of a session whose id was just made: as nobody else knows it, nobody stands in line.

        Raises StoreUnavailable.
        """
        return await self._take(Keys.of(owner, session_id), may_wait=False)

    async def count_live(self) -> int:
        """How many sessions of all owners live in this Redis. Raises StoreUnavailable."""

        async def count(redis: Redis) -> int:
            return int(await redis.zcount(LIVE, now_ms(), "+inf"))

        return await self._hot.ask(count)

    async def _take(self, keys: Keys, *, may_wait: bool) -> Held:
        token = new_id()
        try:
            while True:
                answer = await self._hot.run(
                    self.open_script, (keys.head, keys.messages, keys.lock), (token, self._lock_ms)
                )
                if answer[0]:
                    return Held(keys, token, _conversation(answer[1], answer[2]))
                if not may_wait:
                    raise self._busy(0)
                await asyncio.sleep(POLL_S)
        except (asyncio.CancelledError, StoreUnavailable):
            # The answer may have been on its way: the lock is given back by whoever can still await.
            self._hot.soon(self.release_script, (keys.lock,), (token,))
            raise

    def _busy(self, wait_s: float) -> SessionBusy:
        waited = f" and did not end within {wait_s:g} s" if wait_s else ""
        return SessionBusy(f"another turn of this session is under way{waited}", retry_after_s=1)

    @asynccontextmanager
    async def _in_order(self, keys: Keys) -> AsyncIterator[None]:
        """Only the first in line asks Redis; the others of this process wait for it here."""
        queue = self._queues.setdefault(keys, _Queue(asyncio.Lock()))
        queue.count += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.count -= 1
            if not queue.count:
                del self._queues[keys]

    async def renew(self, keys: Keys, token: str) -> bool:
        """Hold on to the lock of a running turn; False if another turn has it."""
        return bool(await self._hot.run(self.renew_script, (keys.lock,), (token, self._lock_ms)))

    def release(self, held: Held) -> None:
        """Let go of the lock and leave the session as it was. Does not wait."""
        self._hot.soon(self.release_script, (held.keys.lock,), (held.token,))

    async def commit(self, held: Held, before: Conversation, outcome: Outcome, *, archive: bool) -> bool:
        """Write a turn's messages and let go of the lock; the turn is durable when this returns.

        False if the session was deleted meanwhile. Raises SessionLost, StoreUnavailable.
        """
        record = dump_outcome(outcome if archive else outcome.without_text())
        said = await self._write(held, before.head.revision, outcome, outcome.keep, outcome.messages, record)
        if said == b"gone":
            whole = (*before.messages[: outcome.keep], *outcome.messages)
            said = await self._write(held, 0, outcome, 0, whole, record)
        if said in (b"lost", b"gone"):
            raise SessionLost("another turn took this session over while this one ran")
        return bool(said == b"ok")

    async def _write(
        self,
        held: Held,
        revision: int,
        outcome: Outcome,
        keep: int,
        messages: Sequence[StoredMessage],
        record: bytes,
    ) -> bytes:
        head, keys = outcome.head, held.keys
        assert head is not None
        said: bytes = await self._hot.run(
            self.commit_script,
            (keys.head, keys.messages, keys.lock, keys.index, UNARCHIVED, keys.deleted),
            (
                *(held.token, revision, keep, dump_head(head), head.ttl_s * 1_000, head.updated_ms),
                *(head.session_id, outcome.figures.turn_id, record, head.uid),
                *map(dump_message, messages),
            ),
        )
        return said

    async def restore(self, conversation: Conversation, left_ms: int) -> bool:
        """Put back what Redis has lost, for the time it has left. Only under the session's lock.

        False if it was deleted meanwhile. Raises StoreUnavailable.
        """
        head = conversation.head
        keys = Keys.of(head.owner, head.session_id)
        names = (keys.head, keys.messages, keys.index, keys.deleted)
        about = (head.uid, dump_head(head), left_ms, head.updated_ms, head.session_id)
        return bool(
            await self._hot.run(self.restore_script, names, (*about, *map(dump_message, conversation.messages)))
        )

    async def get(self, owner: str, session_id: str) -> Conversation | None:
        """What Redis holds of a session, None if nothing. Raises StoreUnavailable."""
        keys = Keys.of(owner, session_id)

        async def read(redis: Redis) -> Conversation | None:
            pipe = redis.pipeline(transaction=True)
            pipe.get(keys.head)
            pipe.lrange(keys.messages, 0, -1)
            return _conversation(*(await pipe.execute()))

        return await self._hot.ask(read)

    async def uid_of(self, owner: str, session_id: str) -> str:
        """What a session is known by inside, empty if Redis holds none of that id. Raises StoreUnavailable."""
        raw = await self._hot.ask(lambda redis: redis.get(Keys.of(owner, session_id).head))
        return load_head(raw).uid if raw else ""

    async def is_busy(self, owner: str, session_id: str) -> bool:
        """Whether a turn of it is under way, in whichever hub. Raises StoreUnavailable."""
        return bool(await self._hot.ask(lambda redis: redis.exists(Keys.of(owner, session_id).lock)))

    async def delete(self, owner: str, session_id: str, *, uids: Sequence[str] = ()) -> str:
        """Remove a session, that of a first turn that still runs too. What it was known by, empty if there was none.

        None of `uids`, which it has or had, comes back. Raises StoreUnavailable.
        """
        keys = Keys.of(owner, session_id)
        names = (keys.head, keys.messages, keys.lock, keys.index, keys.deleted)
        had: bytes = await self._hot.run(self.delete_script, names, (session_id, TOMBSTONE_MS, *uids))
        return had.decode()

    async def page(self, owner: str, *, before_ms: int | None, limit: int) -> list[Head]:
        """The owner's live sessions, newest first, those last used at or before a time. Raises StoreUnavailable."""

        async def read(redis: Redis) -> list[Head]:
            index = index_key(owner)
            top = "+inf" if before_ms is None else before_ms
            found: list[Head] = []
            offset = 0
            while len(found) < limit:
                ids: list[bytes] = await redis.zrevrangebyscore(index, top, "-inf", start=offset, num=limit)  # type: ignore[assignment]
                if not ids:
                    break
                heads = await redis.mget([Keys.of(owner, it.decode()).head for it in ids])
                found += [load_head(raw) for raw in heads if raw]
                # Those that expired leave the index here; they shift what comes after them.
                expired = [it for it, raw in zip(ids, heads, strict=True) if not raw]
                if expired:
                    await redis.zrem(index, *expired)
                offset += len(ids) - len(expired)
            return found[:limit]

        return await self._hot.ask(read)


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock
    count: int = 0


def _conversation(head: bytes | None, messages: list[bytes]) -> Conversation | None:
    if head is None:
        return None
    return Conversation(load_head(head), tuple(map(load_message, messages)))


def after_turn(head: Head, *, updated_ms: int, **changes: str | int) -> Head:
    """The head one turn later."""
    return replace(head, revision=head.revision + 1, updated_ms=updated_ms, **changes)  # type: ignore[arg-type]
