"""Callers, conversations and providers as the WebSocket shows them: the REST door's bodies, and a little more."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from chat.conversation import Conversation
from chat.keys import Caller
from chat.provider_bodies import describe
from chat.session_bodies import listed, messages_of
from providers.provider import Provider

PROTOCOL = 1
# Of a very long conversation its end is shown.
MOST_MESSAGES = 200
MOST_CHARS = 4_000_000


def ready_body(caller: Caller, *, how: str) -> dict[str, Any]:
    """What is told after hello; `how` names what the caller has shown."""
    return {
        "type": "ready",
        "protocol": PROTOCOL,
        "version": settings.VERSION,
        "name": caller.name,
        "owner": caller.owner,
        "by": how,
        "scopes": sorted(caller.scopes),
        "media_max_bytes": settings.HUB_MEDIA_MAX_BYTES,
        "media_max_count": settings.HUB_MEDIA_MAX_COUNT,
        "message_max_bytes": settings.HUB_MAX_BODY_BYTES,
        "keep_s": settings.HUB_STREAM_KEEP_S,
        "unwatched_s": settings.HUB_STREAM_UNWATCHED_S,
    }


def conversation_body(session_id: str, found: Conversation | None) -> dict[str, Any]:
    """None stands for a session whose first turn is not over."""
    if found is None:
        return {"session": session_id, "title": "", "provider": None, "model": None, "messages": [], "is_cut": False}
    head = listed(found.head)
    messages = messages_of(found)
    kept: list[dict[str, Any]] = []
    chars = 0
    for message in reversed(messages[-MOST_MESSAGES:]):
        chars += len(message.content)
        if kept and chars > MOST_CHARS:
            break
        kept.insert(0, message.model_dump(exclude_none=True))
    return {
        "session": session_id,
        "title": head.title,
        "provider": head.provider,
        "model": head.model,
        "messages": kept,
        "is_cut": len(kept) < len(messages),
    }


def provider_body(provider: Provider) -> dict[str, Any]:
    info = provider.info
    return {
        **describe(provider).model_dump(),
        "title": info.title,
        "default_model": provider.default_model,
        "media": list(info.media),
        "is_demo": info.by_name_only,
    }
