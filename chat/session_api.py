"""The REST door to sessions: read, list, delete."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from chat import conversations, schemas
from chat.auth import KEY_AUTH
from chat.conversations import MAX_PAGE
from chat.requests import count, hub_request
from chat.schemas import ERRORS
from chat.session_bodies import listed, whole
from chat.sessions import SESSION_ID

PATTERN = f"^{SESSION_ID.pattern}$"
CURSOR = r"^([0-9]{1,15}(,[A-Za-z0-9._:-]{0,128})*)?$"
SessionId = Annotated[str, Field(pattern=PATTERN)]

router = Router(auth=KEY_AUTH, tags=["sessions"])


@router.get("/sessions", response={200: schemas.SessionList, **ERRORS})
async def list_sessions(
    request: HttpRequest,
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str, Field(max_length=13_000, pattern=CURSOR, description="`next` of the page before.")] = "",
) -> schemas.SessionList:
    """This owner's live sessions, the last used first."""
    await count(request, "sessions")
    page = await conversations.list_sessions(hub_request(request).auth, after=after, limit=limit)
    return schemas.SessionList(
        object="list",
        data=[listed(head) for head in page.heads],
        has_more=page.next is not None,
        next=page.next,
    )


@router.get("/sessions/{session_id}", response={200: schemas.SessionBody, **ERRORS})
async def get_session(request: HttpRequest, session_id: Path[SessionId]) -> schemas.SessionBody:
    """One conversation, with all its messages."""
    await count(request, "sessions")
    found = await conversations.get_session(hub_request(request).auth, session_id)
    return whole(found)


@router.delete("/sessions/{session_id}", response={200: schemas.SessionDeleted, **ERRORS})
async def delete_session(request: HttpRequest, session_id: Path[SessionId]) -> schemas.SessionDeleted:
    """Erase a conversation everywhere. Its turns' figures stay."""
    await count(request, "sessions")
    await conversations.delete_session(hub_request(request).auth, session_id)
    return schemas.SessionDeleted(success=True, message="Session deleted")
