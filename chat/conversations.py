"""Sessions outside their turns: read, listed, erased."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chat.conversation import Conversation, Head
from chat.errors import BadRequest, SessionNotFound
from chat.keys import Caller
from chat.runtime import chat
from chat.sessions import check_session_id

MAX_PAGE = 100
LAST_MS = 253_402_300_799_999  # of the year 9999, the last that a database's column takes


async def get_session(caller: Caller, session_id: str) -> Conversation:
    """Raises SessionNotFound, StoreUnavailable, DatabaseUnavailable."""
    here = chat()
    found = await here.sessions.get(caller.owner, check_session_id(session_id))
    if found is None and here.keeps_conversations:
        found = await here.archive.find(caller.owner, session_id)
    if found is None:
        raise SessionNotFound("there is no such session, or it has expired")
    return found


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, the last used first. `next` is the `after` of the following page, None on the last."""

    heads: list[Head]
    next: str | None


async def list_sessions(caller: Caller, *, after: str, limit: int) -> Page:
    """The owner's live sessions, `after` those of the page before. Raises BadRequest, and what reading raises."""
    before_ms, seen = _read_cursor(after)
    here = chat()
    # The archive knows of all of them, also after Redis was emptied.
    source = here.archive if here.keeps_conversations else here.sessions
    # The cursor's millisecond may hold several sessions, of which some were on the page before.
    heads = await source.page(caller.owner, before_ms=before_ms, limit=limit + 1 + len(seen))
    fresh = [head for head in heads if head.updated_ms != before_ms or head.session_id not in seen]
    page = fresh[:limit]
    return Page(page, _cursor(page, before_ms, seen) if len(fresh) > limit else None)


def _cursor(page: list[Head], before_ms: int | None, seen: list[str]) -> str:
    last_ms = page[-1].updated_ms
    shown = [head.session_id for head in page if head.updated_ms == last_ms]
    return ",".join([str(last_ms), *(seen if last_ms == before_ms else []), *shown])


def _read_cursor(cursor: str) -> tuple[int | None, list[str]]:
    if not cursor:
        return None, []
    moment, *seen = cursor.split(",")[: MAX_PAGE + 1]
    if not re.fullmatch(r"[0-9]{1,15}", moment) or int(moment) > LAST_MS:
        raise BadRequest("after is the `next` of the page before", param="after")
    return int(moment), seen


async def is_running(caller: Caller, session_id: str) -> bool:
    """Whether a turn of the owner's session is under way, in whichever hub. Raises StoreUnavailable."""
    return await chat().sessions.is_busy(caller.owner, check_session_id(session_id))


async def delete_session(caller: Caller, session_id: str) -> None:
    """Erase a session's text everywhere. Raises SessionNotFound, StoreUnavailable, DatabaseUnavailable."""
    here = chat()
    uid = await here.sessions.uid_of(caller.owner, check_session_id(session_id))
    # Without an archive too: it may have been switched off only after this conversation.
    erased = await here.archive.delete(caller.owner, session_id, uid=uid)
    # Last: if the archive can't be asked, all is as before. What Redis then hears of is never put back into it.
    was_there = await here.sessions.delete(caller.owner, session_id, uids=erased)
    here.shield.forget_session(session_id)
    if not was_there and not erased:
        raise SessionNotFound("there is no such session, or it has expired")
    here.hot.forget_on_disk()
