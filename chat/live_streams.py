"""Turns that can be watched: from any window of their owner, again from any number, at any hub of the same Redis.

A turn runs here apart from its watchers (chat/live.py), and ends when nobody has watched it for a while. The hub that
runs it adds to its feed and stores that in Redis a moment later; other hubs read it from there for whoever watches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import Any

from chat.ask import Note
from chat.changes import SessionChange, SessionChanges
from chat.errors import ResponseNotFound, StoreUnavailable
from chat.hot import HotState
from chat.live import LiveTurn, LiveTurns
from chat.live_feed import Feed
from chat.live_news import LiveNews
from chat.live_record import Recorder
from chat.live_store import LiveStore
from chat.prices import PriceList
from providers.events import Event
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

# What comes within this time goes to Redis together; so much may be lost with a hub that is killed.
STORE_EVERY_S = 0.1
LOOK_EVERY_S = 1.0
# How often another hub's turn is asked for while it is watched here, and while it says nothing.
READ_EVERY_S = 0.05
READ_SILENT_S = 0.25
STOP_WAIT_S = 2.0

Events = AsyncGenerator[Note | Event, None]


class Streams:
    """The watched turns of this hub. `start` and `stop` belong to the event loop that serves.

    `unwatched_s`: a turn that nobody watches, at any hub, ends after so long.
    """

    def __init__(
        self,
        hot: HotState,
        live: LiveTurns,
        changes: SessionChanges,
        prices: PriceList,
        *,
        keep_s: float,
        unwatched_s: float,
    ) -> None:
        self._live = live
        self._changes = changes
        self._prices = prices
        self._keep_s = keep_s
        self._unwatched_s = unwatched_s
        self._store = LiveStore(hot, keep_s=keep_s)
        self._news = LiveNews(hot, self._heard)
        self._tasks = Tasks()
        self._here: dict[tuple[str, str], tuple[Feed, LiveTurn, Recorder]] = {}
        self._elsewhere: dict[tuple[str, str], Feed] = {}
        self._dirty: dict[Feed, None] = {}
        self._has_dirty = asyncio.Event()
        self._listeners: dict[object, tuple[str, Callable[[str, str], None]]] = {}
        self._end_changes: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._tasks.repeat(self._store_soon, name="events of turns", pause_s=0)
        self._tasks.repeat(self._look, name="watched turns", pause_s=LOOK_EVERY_S)

    async def stop(self) -> None:
        """Store what is left to store; the turns have to be over."""
        self._end_changes()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_WAIT_S):
                await self._store_all(list(self._dirty))
        await self._news.stop()
        await self._tasks.cancel()

    # --- turns -------------------------------------------------------------------------------------------------------

    def begin(self, owner: str, turn: str, session_id: str, question: dict[str, Any], events: Events) -> Feed:
        """Run a turn's events to their end, and have them watched; `question` is what watchers are told first."""
        if (held := self._here.get((owner, turn))) is not None:
            return held[0]  # asked for twice at the same time
        self._listen()
        feed = Feed(owner, turn, is_here=True, session_id=session_id)
        feed.on_add = self._note_dirty
        feed.add({"type": "asked", "session": session_id or None, "at": feed.began_ms, "question": question})
        recorder = Recorder(feed, self._prices)
        live = self._live.start(owner, session_id, recorder.record(events))
        self._here[owner, turn] = feed, live, recorder
        return feed

    async def find(self, owner: str, turn: str) -> Feed:
        """The feed of an owner's turn. Raises ResponseNotFound, StoreUnavailable."""
        key = owner, turn
        if key in self._here:
            return self._here[key][0]
        if key not in self._elsewhere:
            feed = Feed(owner, turn, is_here=False)
            if not await self._read(feed):
                raise ResponseNotFound("the events of this turn are not kept (any more); fetch its session")
            self._elsewhere.setdefault(key, feed)
            self._tasks.start(self._follow(self._elsewhere[key]), name="turn of another hub")
        return self._elsewhere[key]

    async def find_in(self, owner: str, session_id: str) -> Feed | None:
        """The last turn of a session, if its events are kept; while Redis can't tell, the last one of this hub."""
        mine = [feed for feed, _, _ in self._here.values() if (feed.owner, feed.session_id) == (owner, session_id)]
        newest = max(mine, key=lambda feed: feed.began_ms, default=None)
        if newest is not None and not (newest.is_over and newest.stored == newest.last):
            return newest
        with suppress(StoreUnavailable, ResponseNotFound):
            if turn := await self._store.last_of(owner, session_id):
                return await self.find(owner, turn)
        return newest

    async def stop_turn(self, feed: Feed, *, by: str) -> None:
        """End a turn and its vendor call, wherever it runs. Raises StoreUnavailable."""
        if (held := self._here.get((feed.owner, feed.turn))) is not None:
            _, live, recorder = held
            recorder.stopped_by = by
            live.cancel()
        elif not feed.is_over:
            await self._store.ask_to_stop(feed.owner, feed.turn)

    # --- news --------------------------------------------------------------------------------------------------------

    def subscribe(self, owner: str, listener: Callable[[str, str], None]) -> Callable[[], None]:
        """Tell of an owner's sessions: called with the session and the turn that began in it, or what happened to it
        (`new`, `changed`, `deleted`). Returns what ends that."""
        self._listen()
        token = object()
        self._listeners[token] = owner, listener

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    def _listen(self) -> None:
        """Only since somebody came to this door."""
        if not self._listeners and not self._here:
            self._end_changes()
            self._end_changes = self._changes.subscribe(self._changed)
            self._news.hear()

    def _heard(self, owner: str, session_id: str, what: str) -> None:
        for of, listener in list(self._listeners.values()):
            if of == owner:
                listener(session_id, what)

    def _changed(self, change: SessionChange) -> None:
        if change.kind == "deleted":
            self._tasks.start(self._forget(change.owner, change.session_id), name="forget turns")
        self._heard(change.owner, change.session_id, change.kind)

    async def _forget(self, owner: str, session_id: str) -> None:
        """What was deleted is not kept for watchers either, and a turn that runs in it is in vain."""
        for feed, live, recorder in list(self._here.values()):
            if (feed.owner, feed.session_id) == (owner, session_id):
                feed.on_add = lambda _: None
                self._dirty.pop(feed, None)
                del self._here[feed.owner, feed.turn]
                recorder.stopped_by = "deleted"
                live.cancel()
                with suppress(StoreUnavailable):
                    await self._store.forget(feed)

    # --- what runs here ----------------------------------------------------------------------------------------------

    def _note_dirty(self, feed: Feed) -> None:
        self._dirty[feed] = None
        self._has_dirty.set()

    async def _store_soon(self) -> None:
        await self._has_dirty.wait()
        await asyncio.sleep(STORE_EVERY_S)
        self._has_dirty.clear()
        feeds, self._dirty = list(self._dirty), {}
        await self._store_all(feeds)

    async def _store_all(self, feeds: Iterable[Feed]) -> None:
        # At once, so that they travel together.
        await asyncio.gather(*(self._store_one(feed) for feed in feeds))

    async def _store_one(self, feed: Feed) -> None:
        try:
            await self._store.append(feed)
        except StoreUnavailable:
            self._dirty.setdefault(feed)  # with what comes next, or at the next look

    async def _look(self) -> None:
        if self._dirty:
            self._has_dirty.set()
        await asyncio.gather(*(self._look_at(*held) for held in list(self._here.values())))

    async def _look_at(self, feed: Feed, live: LiveTurn, recorder: Recorder) -> None:
        if live.is_over:
            self._let_go(feed)
            return
        is_watched = feed.is_watched
        with suppress(StoreUnavailable):
            must_stop, is_watched_elsewhere = await self._store.look(feed)
            is_watched = is_watched or is_watched_elsewhere
            if must_stop:
                await self.stop_turn(feed, by="caller")
        if is_watched:
            feed.watched_at = time.monotonic()
        elif time.monotonic() - feed.watched_at >= self._unwatched_s:
            logger.info("turn %s ends: nobody has watched it for %g s", feed.turn, self._unwatched_s)
            await self.stop_turn(feed, by="unwatched")

    def _let_go(self, feed: Feed) -> None:
        """Of a turn that is over, once Redis has it; without Redis it is kept here for the same time."""
        is_stored = feed.stored == feed.last
        if feed.is_watched or (not is_stored and time.monotonic() - feed.watched_at < self._keep_s):
            return
        del self._here[feed.owner, feed.turn]
        self._dirty.pop(feed, None)

    # --- what runs elsewhere -----------------------------------------------------------------------------------------

    async def _read(self, feed: Feed) -> bool:
        """Read what is new of another hub's turn; False if nothing is kept of it. Raises StoreUnavailable."""
        while (
            read := await self._store.read(feed.owner, feed.turn, feed.last, is_watched=feed.is_watched)
        ) is not None:
            feed.take(read.entries)
            if read.entries and not feed.is_over:
                continue
            if not read.is_alive and not feed.is_over:
                feed.add({"type": "stopped", "by": "hub", "timing": None})  # that hub is gone
            return True
        return False

    async def _follow(self, feed: Feed) -> None:
        """Until the turn is over, or nobody here has watched it for a while."""
        try:
            while not feed.is_over and (feed.is_watched or time.monotonic() - feed.watched_at < LOOK_EVERY_S):
                before = feed.last
                with suppress(StoreUnavailable):
                    if not await self._read(feed):
                        feed.add({"type": "stopped", "by": "hub", "timing": None})
                await asyncio.sleep(READ_EVERY_S if feed.last > before else READ_SILENT_S)
        finally:
            self._elsewhere.pop((feed.owner, feed.turn), None)
