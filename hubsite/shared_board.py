"""Carries what the vendors said from hub to hub, through Redis; it is there again after a restart, too.

Each note lies in one hash under its place, with the time it was made; the newest wins, here and there. A note taken
back stays as such, so that a missing one means nothing: Redis may have lost it, and whoever still has it writes it
again. Without Redis every hub is alone with what it was told itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import orjson
from redis.asyncio import Redis

from chat.errors import StoreUnavailable
from chat.hot import HotState
from providers.cooldowns import CLOCKS_DIFFER_S, MOST_S, PROBE_S, Board, Cooldown, Note, Window
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

NOTES = "hub:provider:notes"
# Others know of a note within this time and an exchange.
POLL_S = 0.4
# A note whose time has been over for this long is swept out of Redis.
STALE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A note as Redis holds it."""

    note: Note
    is_over: bool = False

    @property
    def age(self) -> tuple[float, bool]:
        """Later is newer."""
        return (self.note.told_at if isinstance(self.note, Window) else self.note.since), self.is_over

    @property
    def is_stale(self) -> bool:
        """Whether nobody can make anything of it any more."""
        note = self.note
        ends_at = (note.resets_at or note.told_at) if isinstance(note, Window) else note.until
        return ends_at + STALE_S < time.time()


class SharedBoard:
    """A board that all hubs of one Redis share. It and its board belong to the event loop that serves."""

    def __init__(self, hot: HotState) -> None:
        self.board = Board(on_change=self._changed, probes=self)
        self._hot = hot
        self._here: dict[str, Shown] = {}
        self._tokens: dict[str, str] = {}
        self._tasks = Tasks()

    async def start(self) -> None:
        """Take what is known already, and keep up with it. Never raises for a Redis that is not there."""
        await self._sync()
        self._tasks.repeat(self._sync, name="provider notes", pause_s=POLL_S)

    async def stop(self) -> None:
        await self._sync()
        await self._tasks.cancel()

    # --- notes -------------------------------------------------------------------------------------------------------

    def _changed(self, note: Note, is_over: bool) -> None:
        self._here[_place(note)] = Shown(note, is_over)
        if isinstance(note, Cooldown):  # windows are told with every turn, and can wait
            self._tasks.start(self._sync(), name="provider note")

    async def _sync(self) -> None:
        """Take what is newer there, write what is newer here."""
        try:
            there = dict(_read(await self._hot.ask(_all_notes)))
            for place, shown in there.items():
                self._take(place, shown)
            await self._write(there)
        except StoreUnavailable as error:
            logger.debug("provider notes stay here: %s", error)

    async def _write(self, there: dict[str, Shown]) -> None:
        stale = [place for place, shown in self._here.items() if shown.is_stale]
        for place in stale:
            del self._here[place]
        newer = {place: it for place, it in self._here.items() if place not in there or it.age > there[place].age}
        if newer or stale:
            await self._hot.ask(lambda redis: _change(redis, newer, stale))

    def _take(self, place: str, shown: Shown) -> None:
        known = self._here.get(place)
        if known is None or known.age < shown.age:
            self._here[place] = shown
            self.board.take_over(shown.note, shown.is_over)

    # --- probes ------------------------------------------------------------------------------------------------------

    async def take(self, provider: str) -> bool:
        """Whether no request of any hub tries this provider now; without Redis nobody else is known to."""
        token, key = uuid4().hex, _probe_key(provider)
        try:
            taken = await self._hot.ask(lambda redis: redis.set(key, token, nx=True, px=int(PROBE_S * 1_000)))
        except StoreUnavailable:
            return True
        except BaseException:  # a caller who leaves now may have it already
            self._tasks.start(self._free(key, token), name="provider probe")
            raise
        if taken:
            self._tokens[provider] = token
        return bool(taken)

    def give_back(self, provider: str) -> None:
        if (token := self._tokens.pop(provider, None)) is not None:
            self._tasks.start(self._free(_probe_key(provider), token), name="provider probe")

    async def _free(self, key: str, token: str) -> None:
        try:
            # Between these two another may have taken it: then two requests try, which harms nobody.
            if await self._hot.ask(lambda redis: redis.get(key)) == token.encode():
                await self._hot.ask(lambda redis: redis.delete(key))
        except StoreUnavailable:
            logger.debug("the probe of %s ends by itself", key)


def _probe_key(provider: str) -> str:
    return f"hub:provider:{provider}:probe"


def _place(note: Note) -> str:
    parts = ("window", note.provider, note.name) if isinstance(note, Window) else ("cool", note.provider, note.model)
    return "\0".join(parts)


async def _all_notes(redis: Redis) -> Any:
    return await redis.hgetall(NOTES)


async def _change(redis: Redis, notes: dict[str, Shown], stale: list[str]) -> None:
    pipe = redis.pipeline(transaction=False)
    if notes:
        pipe.hset(NOTES, mapping={place: _dump(shown) for place, shown in notes.items()})
        pipe.expire(NOTES, int(MOST_S + STALE_S))
    if stale:
        pipe.hdel(NOTES, *stale)
    await pipe.execute()


def _dump(shown: Shown) -> bytes:
    kind = "window" if isinstance(shown.note, Window) else "cooldown"
    return orjson.dumps({"kind": kind, "is_over": shown.is_over, "note": asdict(shown.note)})


def read_cooldowns(held: dict[bytes, bytes]) -> list[Cooldown]:
    """Those that still run, of what the hash of notes holds."""
    notes = [shown.note for _, shown in _read(held) if not shown.is_over]
    return [note for note in notes if isinstance(note, Cooldown) and note.until > time.time()]


def _read(held: dict[bytes, bytes]) -> Iterator[tuple[str, Shown]]:
    """The notes that can be read; another version of the hub may have written others."""
    for place, raw in held.items():
        try:
            shown = _load(orjson.loads(raw))
            if shown.age[0] <= time.time() + CLOCKS_DIFFER_S:  # else of a clock that is wrong, and newest for ever
                yield place.decode(), shown
        except (ValueError, KeyError, TypeError) as error:
            logger.debug("a provider note can't be read: %s", error)


def _load(found: dict[str, Any]) -> Shown:
    kind = {"window": Window, "cooldown": Cooldown}[found["kind"]]
    shown = Shown(kind(**found["note"]), bool(found["is_over"]))
    shown.is_stale  # noqa: B018 (raises TypeError where a time is none)
    float(shown.age[0])
    return shown
