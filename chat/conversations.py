"""Sessions outside their turns: read, listed, erased."""

from __future__ import annotations

from chat.conversation import Conversation, Head
from chat.errors import SessionNotFound
from chat.keys import Caller
from chat.runtime import chat
from chat.sessions import check_session_id


async def get_session(caller: Caller, session_id: str) -> Conversation:
    """Raises SessionNotFound, StoreUnavailable, DatabaseUnavailable."""
    here = chat()
    found = await here.sessions.get(caller.owner, check_session_id(session_id))
    if found is None and here.keeps_conversations:
        found = await here.archive.find(caller.owner, session_id)
    if found is None:
        raise SessionNotFound("there is no such session, or it has expired")
    return found


async def list_sessions(caller: Caller, *, before_ms: int | None, limit: int) -> list[Head]:
    """The owner's live sessions, newest first, those last used at or before a time in Unix milliseconds."""
    here = chat()
    # The archive knows of all of them, also after Redis was emptied.
    source = here.archive if here.keeps_conversations else here.sessions
    return await source.page(caller.owner, before_ms=before_ms, limit=limit)


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
