"""Conversations as the doors show them."""

from __future__ import annotations

from datetime import UTC, datetime

from chat.conversation import Conversation, Head, StoredMessage
from chat.schemas import SessionBody, SessionListed, SessionMessage, SessionUsage


def whole(conversation: Conversation) -> SessionBody:
    return SessionBody(**listed(conversation.head).model_dump(), messages=messages_of(conversation))


def listed(head: Head) -> SessionListed:
    return SessionListed(
        session_id=head.session_id,
        title=head.title,
        provider=head.provider or None,
        model=head.model or None,
        created_at=_iso(head.created_ms),
        updated_at=_iso(head.updated_ms),
        expires_at=_iso(head.expires_ms),
    )


def messages_of(conversation: Conversation) -> list[SessionMessage]:
    system = conversation.head.system
    first = [SessionMessage(role="system", content=system)] if system else []
    return first + [_message(message) for message in conversation.messages]


def _message(message: StoredMessage) -> SessionMessage:
    usage = None
    if message.tokens:
        usage = SessionUsage(prompt_tokens=message.tokens[0], completion_tokens=message.tokens[1])
    return SessionMessage(
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
