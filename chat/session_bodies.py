"""Conversations as the doors show them."""

from __future__ import annotations

from datetime import UTC, datetime

from chat.conversation import Conversation, Head, StoredMessage
from chat.schemas import AnswerToolCall, SessionBody, SessionFile, SessionListed, SessionMessage, SessionUsage
from chat.wire.openai_answer import tool_call_body
from providers.events import Media


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
    said = message.as_message()
    return SessionMessage(
        role=message.role,
        content=said.results[0].text if said.results else said.text,
        tool_calls=[AnswerToolCall.model_validate(tool_call_body(call)) for call in said.calls] or None,
        tool_call_id=said.results[0].call_id if said.results else None,
        files=[SessionFile(type=it.mime_type, name=it.name or None, bytes=_bytes(it)) for it in said.media] or None,
        created_at=_iso(message.at_ms),
        provider=message.provider or None,
        model=message.model or None,
        usage=usage,
        finish_reason=message.reason if message.provider and not message.is_partial else None,
        status="incomplete" if message.is_partial else "complete",
    )


def _bytes(media: Media) -> int:
    return len(media.data) * 3 // 4 - media.data[-2:].count("=")


def _iso(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
