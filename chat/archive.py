"""The archive: the database's copy of conversations, and the record of all turns.

A turn's end is in Redis before it comes here. It is written a moment later with all that came meanwhile, by one thread
in one transaction; who reads the archive has what waits written first, and a client waits for it only where Redis
writes no file of its own. While the database is locked or away, turns stay in Redis and in memory. What a killed hub
leaves in Redis, any hub writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from django.db import Error, InterfaceError, OperationalError
from redis.asyncio import Redis

from chat.archive_writer import erase_session, find_conversation, find_heads, write_outcomes
from chat.blocks import chars_of
from chat.conversation import Conversation, Head, Outcome, dump_outcome, load_outcome, now_ms
from chat.database_thread import DatabaseThread
from chat.errors import DatabaseUnavailable, StoreUnavailable
from chat.hot import HotState
from chat.sessions import UNARCHIVED
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

LINGER_S = 0.1  # a transaction costs as much as ten turns, so they are gathered
SAVE_WAIT_S = 3.0  # nobody is kept longer for a database that is away
ANSWER_WAIT_S = 8.0  # longer than SQLite waits for a writer of another process
STOP_WAIT_S = 5.0
RETRY_S = 0.5
RETRY_AFTER_S = 2.0
SWEEP_EVERY_S = 30.0
# Since it began, which is all its id tells: a longer turn may be written by two hubs, which does no harm.
LEFT_BEHIND_MS = 30_000
GROUP = 500
SWEPT_AT_ONCE = 100
# What waits in memory for the database; of more than that the oldest are left to Redis.
MAX_WAITING = 10_000
MAX_WAITING_CHARS = 64 * 1024 * 1024

T = TypeVar("T")


class Archive:
    """What the hub keeps for good. `start` and `stop` belong to the event loop that serves.

    Without `keeps_conversations` nothing of a conversation touches the database: turns leave their figures alone.
    """

    def __init__(self, hot: HotState, *, keeps_conversations: bool) -> None:
        self._hot = hot
        self._keeps_conversations = keeps_conversations
        self._writer = DatabaseThread("archive writer")
        self._reader = DatabaseThread("archive reader")
        self._tasks = Tasks()
        self._waiting: dict[str, _Waiting] = {}
        self._waiting_chars = 0
        self._has_work = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._is_behind = False
        self._refused: set[str] = set()

    async def start(self) -> None:
        self._writer.start()
        self._reader.start()
        self._tasks.repeat(self._write_waiting, name="archive writer", pause_s=0)
        self._tasks.repeat(self._sweep_quietly, name="archive sweep", pause_s=SWEEP_EVERY_S)

    async def stop(self) -> None:
        """Write what waits, for a few seconds at most; the rest is left to Redis."""
        await self._write_all(STOP_WAIT_S)
        if self._waiting:
            logger.warning("%d turns are left in Redis for the database", len(self._waiting))
        await self._tasks.cancel()
        await asyncio.gather(self._writer.stop(), self._reader.stop())

    @property
    def is_behind(self) -> bool:
        """Whether the database did not take what it was last given; what waits for it is in Redis or in memory."""
        return self._is_behind

    @property
    def waiting(self) -> int:
        """How many turns wait in memory to be written."""
        return len(self._waiting)

    # --- turns -------------------------------------------------------------------------------------------------------

    async def save(self, outcome: Outcome) -> None:
        """Have a turn written soon. Never raises for the state of the database.

        One that is not in a durable Redis is waited for, and left in Redis if the database takes too long.
        """
        waiting = _Waiting(outcome if self._keeps_conversations else outcome.without_text())
        self._enqueue(waiting)
        if outcome.head is not None and self._hot.is_durable:
            return
        if not self._is_behind:
            self._is_urgent.set()
            await asyncio.wait([waiting.is_written], timeout=SAVE_WAIT_S)
        if not waiting.is_written.done():
            self._note_trouble("it took too long")
            if outcome.head is None:
                await self._leave_in_redis(waiting.outcome)

    async def catch_up(self) -> None:
        """Have all that waits written before one asks the database, unless it is in trouble."""
        if not self._is_behind:
            await self._write_all(SAVE_WAIT_S)

    async def _write_all(self, wait_s: float) -> None:
        if self._waiting:
            self._is_urgent.set()
            await asyncio.wait([it.is_written for it in self._waiting.values()], timeout=wait_s)

    def _enqueue(self, waiting: _Waiting) -> None:
        self._waiting[waiting.turn_id] = waiting
        self._waiting_chars += waiting.chars
        while len(self._waiting) > MAX_WAITING or self._waiting_chars > MAX_WAITING_CHARS:
            self._drop(next(iter(self._waiting)))
        self._has_work.set()

    def _drop(self, turn_id: str) -> _Waiting | None:
        waiting = self._waiting.pop(turn_id, None)
        self._waiting_chars -= waiting.chars if waiting else 0
        return waiting

    async def _leave_in_redis(self, outcome: Outcome) -> None:
        """A turn without a session would be lost with this process."""
        record, turn_id = dump_outcome(outcome), outcome.figures.turn_id

        async def write(redis: Redis) -> None:
            await redis.hset(UNARCHIVED, turn_id, record)

        with suppress(StoreUnavailable):
            await self._hot.ask(write)

    async def _write_waiting(self) -> None:
        await self._has_work.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._is_urgent.wait()
        group = list(islice(self._waiting.values(), GROUP))
        if not group:
            self._has_work.clear()
            self._is_urgent.clear()
        elif await self._write([it.outcome for it in group]):
            await self._forget([it.turn_id for it in group])
        else:
            await asyncio.sleep(RETRY_S)

    async def _write(self, outcomes: Sequence[Outcome]) -> bool:
        """Write a group and let those go who wait for it; False if the database can't take it now."""
        is_late = asyncio.get_running_loop().call_later(SAVE_WAIT_S, self._note_trouble, "it takes too long")
        try:
            refused = await self._writer.run(partial(write_outcomes, outcomes))
        except Error as error:
            self._note_trouble(f"{type(error).__name__}: {error}")
            return False
        finally:
            is_late.cancel()
        self._refused |= refused
        for outcome in outcomes:
            if waiting := self._drop(outcome.figures.turn_id):
                waiting.is_written.set_result(None)
        if self._is_behind:
            logger.info("the database takes turns again, %d wait", len(self._waiting))
        self._is_behind = False
        return True

    async def _forget(self, turn_ids: Sequence[str]) -> None:
        """Take written turns out of Redis. Where that fails they are found by the sweep, and known."""
        written = [it for it in turn_ids if it not in self._refused]

        async def remove(redis: Redis) -> None:
            if written:
                await redis.hdel(UNARCHIVED, *written)

        with suppress(StoreUnavailable):
            await self._hot.ask(remove)

    def _note_trouble(self, what: str) -> None:
        if not self._is_behind:
            logger.warning("the database takes no turns, they wait in Redis: %s", what.strip())
        self._is_behind = True

    # --- what other hubs have left -----------------------------------------------------------------------------------

    async def _sweep_quietly(self) -> None:
        with suppress(StoreUnavailable):
            await self._sweep()

    async def _sweep(self) -> None:
        turn_ids = await self._left_behind()
        for start in range(0, len(turn_ids), SWEPT_AT_ONCE):
            some = turn_ids[start : start + SWEPT_AT_ONCE]
            outcomes = [it for it in map(self._loaded, some, await self._records(some)) if it]
            if not await self._write(outcomes):
                return
            await self._forget([it.figures.turn_id for it in outcomes])

    async def _left_behind(self) -> list[str]:
        async def read(redis: Redis) -> list[bytes]:
            return await redis.hkeys(UNARCHIVED)  # type: ignore[return-value]

        # The first 12 digits of a turn's id are its time, in milliseconds.
        newest = f"{now_ms() - LEFT_BEHIND_MS:012x}"
        turn_ids = [it.decode() for it in await self._hot.ask(read)]
        known = self._waiting.keys() | self._refused
        return sorted(it for it in turn_ids if it[:12] <= newest and it not in known)

    async def _records(self, turn_ids: Sequence[str]) -> list[bytes | None]:
        async def read(redis: Redis) -> list[bytes | None]:
            return await redis.hmget(UNARCHIVED, turn_ids)  # type: ignore[return-value]

        return await self._hot.ask(read)

    def _loaded(self, turn_id: str, record: bytes | None) -> Outcome | None:
        if record is None:  # another hub was faster
            return None
        try:
            outcome = load_outcome(record)
        except (ValueError, TypeError, KeyError):
            logger.exception("turn %s in Redis can't be read", turn_id)
            self._refused.add(turn_id)
            return None
        return outcome if self._keeps_conversations else outcome.without_text()

    # --- conversations -----------------------------------------------------------------------------------------------

    async def find(self, owner: str, session_id: str) -> Conversation | None:
        """The session of that id if it is alive. Raises DatabaseUnavailable."""
        if not self._keeps_conversations:
            return None
        # What is not written yet would be missing from the conversation.
        waiting = [it.is_written for it in self._waiting.values() if it.is_of(owner, session_id)]
        if waiting and (await asyncio.wait(waiting, timeout=SAVE_WAIT_S))[1]:
            raise _unavailable("turns of this session still wait for it")
        return await self._ask(self._reader, partial(find_conversation, owner, session_id))

    async def page(self, owner: str, *, before_ms: int | None, limit: int) -> list[Head]:
        """Live sessions, newest first, those last used at or before a time. Raises DatabaseUnavailable."""
        if not self._keeps_conversations:
            return []
        await self.catch_up()
        return await self._ask(self._reader, partial(find_heads, owner, before_ms, limit))

    async def delete(self, owner: str, session_id: str, *, uid: str = "") -> list[str]:
        """Erase the texts of a session for good, those of turns that are still to be written too.

        `uid` is what Redis knew it by. Returns the uids of what was deleted. Raises DatabaseUnavailable.
        """
        known = {it.uid for it in self._waiting.values() if it.is_of(owner, session_id)} | ({uid} if uid else set())
        # In the writer's thread: a turn that is being written is there before, or finds its session deleted.
        uids = known if self._keeps_conversations else set()
        return await self._ask(self._writer, partial(erase_session, owner, session_id, uids))

    async def _ask(self, thread: DatabaseThread, question: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                return await thread.run(question)
        except TimeoutError as exc:
            raise _unavailable(f"no answer within {ANSWER_WAIT_S:g} s") from exc
        except (OperationalError, InterfaceError) as exc:
            raise _unavailable(type(exc).__name__) from exc


@dataclass(slots=True, eq=False)
class _Waiting:
    """A turn that is to be written, and who waits for that."""

    outcome: Outcome
    is_written: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def turn_id(self) -> str:
        return self.outcome.figures.turn_id

    @property
    def uid(self) -> str:
        return self.outcome.head.uid if self.outcome.head else ""

    @property
    def chars(self) -> int:
        return sum(chars_of(message.blocks) for message in self.outcome.messages)

    def is_of(self, owner: str, session_id: str) -> bool:
        head = self.outcome.head
        return head is not None and (head.owner, head.session_id) == (owner, session_id)


def _unavailable(why: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the database can't be asked: {why}", retry_after_s=RETRY_AFTER_S)
