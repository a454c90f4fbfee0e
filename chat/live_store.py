"""The events of watched turns in Redis, kept for a while: for those who come back, and for other hubs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import orjson
from redis.asyncio import Redis

from chat.hot import HotState, Script, Value
from chat.live_feed import TEXTS, Entry, Feed
from chat.sessions import Keys as SessionKeys

# A hub that said nothing for so long is gone, and with it the turns it ran.
ALIVE_MS = 6_000
# Another hub says so often that somebody there watches that it is believed for this long.
WATCHED_MS = 5_000
# Of one turn; of a longer answer the text goes on only to those who watch it here.
MOST_STORED_CHARS = 8_000_000
READ_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a turn's log lies, what is said about it, and the turns of its session."""

    log: str
    alive: str
    stop: str
    watched: str

    @classmethod
    def of(cls, owner: str, turn: str) -> Keys:
        name = f"hub:live:{quote(owner, safe='')}:{turn}"
        return cls(name, f"{name}:alive", f"{name}:stop", f"{name}:watched")


def turns_key(owner: str, session_id: str) -> str:
    """Of a session: deleted with it (chat/lua/session_delete.lua), and the logs it names."""
    return SessionKeys.of(owner, session_id).head.removesuffix(":head") + ":live"


@dataclass(frozen=True, slots=True)
class Read:
    """What Redis tells of a turn: its events, and whether a hub still runs it."""

    is_alive: bool
    entries: list[Entry]


class LiveStore:
    """`keep_s`: how long after its last event a turn's log is there. All raise StoreUnavailable."""

    append_script = Script("live_append")
    look_script = Script("live_look")
    read_script = Script("live_read")

    def __init__(self, hot: HotState, *, keep_s: float) -> None:
        self._hot = hot
        self._keep_ms = int(keep_s * 1_000)
        self._chars: dict[Feed, int] = {}

    async def append(self, feed: Feed) -> None:
        """Store what is new in a feed of this hub."""
        keys = Keys.of(feed.owner, feed.turn)
        entries = [it for it in feed.after(feed.stored) if it.n > feed.stored]
        if not entries:
            return
        is_news = any(it.type == "admitted" and it.body["session"] for it in entries)
        args: list[Value] = [self._keep_ms, ALIVE_MS, feed.turn, feed.began_ms, feed.session_id]
        args += [quote(feed.owner, safe=""), int(is_news)]
        for entry in self._within_bounds(feed, entries):
            args += [entry.n, orjson.dumps(entry.body)]
        await self._hot.run(self.append_script, (keys.log, keys.alive, turns_key(feed.owner, feed.session_id)), args)
        feed.stored = entries[-1].n
        if feed.is_over:
            self._chars.pop(feed, None)

    def _within_bounds(self, feed: Feed, entries: Sequence[Entry]) -> list[Entry]:
        chars = self._chars.get(feed, 0)
        kept = []
        for entry in entries:
            chars += len(entry.body["text"]) if entry.type in TEXTS else 0
            if entry.type not in TEXTS or chars <= MOST_STORED_CHARS:
                kept.append(entry)
        self._chars[feed] = chars
        return kept

    async def look(self, feed: Feed) -> tuple[bool, bool]:
        """Of a turn that runs here: whether it is to stop, and whether another hub watches it."""
        keys = Keys.of(feed.owner, feed.turn)
        names = (keys.log, keys.alive, keys.stop, keys.watched, turns_key(feed.owner, feed.session_id))
        stop, watched = await self._hot.run(self.look_script, names, (self._keep_ms, ALIVE_MS))
        return bool(stop), bool(watched)

    async def read(self, owner: str, turn: str, after: int, *, is_watched: bool) -> Read | None:
        """The events after a number; None if nothing is kept of the turn."""
        keys = Keys.of(owner, turn)
        args = (after, READ_AT_ONCE, WATCHED_MS if is_watched else 0)
        answer = await self._hot.run(self.read_script, (keys.log, keys.alive, keys.watched), args)
        if not answer:
            return None
        alive, *rest = answer
        return Read(bool(alive), [Entry(int(n), orjson.loads(e)) for n, e in zip(rest[::2], rest[1::2], strict=True)])

    async def last_of(self, owner: str, session_id: str) -> str:
        """The last turn of a session that anything is kept of; empty if there is none."""

        async def read(redis: Redis) -> list[bytes]:
            return await redis.zrevrange(turns_key(owner, session_id), 0, 0)  # type: ignore[return-value]

        return "".join(it.decode() for it in await self._hot.ask(read))

    async def ask_to_stop(self, owner: str, turn: str) -> None:
        """Have whichever hub runs a turn stop it."""

        async def write(redis: Redis) -> None:
            await redis.set(Keys.of(owner, turn).stop, 1, px=ALIVE_MS)

        await self._hot.ask(write)

    async def forget(self, feed: Feed) -> None:
        """Remove a turn's log: its session was deleted."""

        async def remove(redis: Redis) -> None:
            await redis.delete(Keys.of(feed.owner, feed.turn).log, turns_key(feed.owner, feed.session_id))

        await self._hot.ask(remove)
