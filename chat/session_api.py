"""The REST door to sessions: read, list, delete."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from chat import conversations, schemas
from chat.auth import KEY_AUTH
from chat.conversation import Conversation, Head, StoredMessage
from chat.errors import BadRequest
from chat.requests import count, hub_request
from chat.schemas import ERRORS
from chat.sessions import SESSION_ID

PATTERN = f"^{SESSION_ID.pattern}$"
SessionId = Annotated[str, Field(pattern=PATTERN)]
MAX_PAGE = 100
LAST_MS = 253_402_300_799_999  # of the year 9999, the last that a database's column takes

router = Router(auth=KEY_AUTH, tags=["sessions"])


@router.get("/sessions", response={200: schemas.SessionList, **ERRORS})
async def list_sessions(
    request: HttpRequest,
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str, Field(max_length=20_000, description="`next` of the page before.")] = "",
) -> schemas.SessionList:
    """This owner's live sessions, the last used first."""
    await count(request, "sessions")
    before_ms, seen = _read_cursor(after)
    # The cursor's millisecond may hold several sessions, of which some were on the page before.
    heads = await conversations.list_sessions(
        hub_request(request).auth, before_ms=before_ms, limit=limit + 1 + len(seen)
    )
    fresh = [head for head in heads if head.updated_ms != before_ms or head.session_id not in seen]
    page = fresh[:limit]
    has_more = len(fresh) > limit
    return schemas.SessionList(
        object="list",
        data=[_listed(head) for head in page],
        has_more=has_more,
        next=_cursor(page, before_ms, seen) if has_more else None,
    )


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


@router.get("/sessions/{session_id}", response={200: schemas.SessionBody, **ERRORS})
async def get_session(request: HttpRequest, session_id: Path[SessionId]) -> schemas.SessionBody:
    """One conversation, with all its messages."""
    await count(request, "sessions")
    found = await conversations.get_session(hub_request(request).auth, session_id)
    return schemas.SessionBody(**_listed(found.head).model_dump(), messages=_messages(found))


@router.delete("/sessions/{session_id}", response={200: schemas.SessionDeleted, **ERRORS})
async def delete_session(request: HttpRequest, session_id: Path[SessionId]) -> schemas.SessionDeleted:
    """Erase a conversation everywhere. Its turns' figures stay."""
    await count(request, "sessions")
    await conversations.delete_session(hub_request(request).auth, session_id)
    return schemas.SessionDeleted(success=True, message="Session deleted")


def _listed(head: Head) -> schemas.SessionListed:
    return schemas.SessionListed(
        session_id=head.session_id,
        title=head.title,
        provider=head.provider or None,
        model=head.model or None,
        created_at=_iso(head.created_ms),
        updated_at=_iso(head.updated_ms),
        expires_at=_iso(head.expires_ms),
    )


def _messages(conversation: Conversation) -> list[schemas.SessionMessage]:
    system = conversation.head.system
    first = [schemas.SessionMessage(role="system", content=system)] if system else []
    return first + [_message(message) for message in conversation.messages]


def _message(message: StoredMessage) -> schemas.SessionMessage:
    usage = None
    if message.tokens:
        usage = schemas.SessionUsage(prompt_tokens=message.tokens[0], completion_tokens=message.tokens[1])
    return schemas.SessionMessage(
        role=message.role,
        content="".join(message.blocks),
        created_at=_iso(message.at_ms),
        provider=message.provider or None,
        model=message.model or None,
        usage=usage,
        status="incomplete" if message.is_partial else "complete",
    )


def _iso(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
