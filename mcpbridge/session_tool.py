"""The tool get_session: a conversation, and how its last turn fares."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from chat import conversations, service
from chat.conversation import Conversation
from chat.errors import ChatError, SessionNotFound
from chat.live import LiveTurn
from chat.runtime import chat
from chat.schemas import SessionMessage
from chat.session_bodies import whole
from mcpbridge.failures import as_tool_result, told
from mcpbridge.progress import Progress, follow
from mcpbridge.results import MOST_CHARS, as_result, cut
from mcpbridge.schemas import MessageInfo, SessionResult, TurnStatus
from mcpbridge.who import current_caller
from providers.errors import ProviderError

MOST_MESSAGES = 40
# Below the minute after which many clients give up.
MOST_WAIT_S = 50
POLL_S = 0.25


async def get_session(
    ctx: Context[Any, Any],
    session_id: Annotated[str, Field(description="Which conversation.", min_length=1)],
    wait_seconds: Annotated[
        float, Field(description="Wait so long for an answer that is still running.", ge=0, le=MOST_WAIT_S)
    ] = 0,
) -> Annotated[CallToolResult, SessionResult]:
    """Fetch a conversation: its last messages, and whether an answer is still running, failed or is complete."""
    caller = current_caller()
    session_id = session_id.strip()
    try:
        await service.count_request(caller)
        caller.require("sessions")
        live = chat().live.find(caller.owner, session_id)
        is_running = await _waited(ctx, session_id, live, wait_seconds)
        result = await _described(session_id, live, is_running=is_running)
    except (ChatError, ProviderError) as error:
        return as_tool_result(error)
    return as_result(_summary(result), result, session_id=session_id)


async def _waited(ctx: Context[Any, Any], session_id: str, live: LiveTurn | None, wait_s: float) -> bool:
    """Whether a turn of the session still runs, here or in another hub, after so many seconds at most."""
    if live is not None:
        await follow(live, Progress(ctx), until_s=live.age_s + wait_s)
        return not live.is_over
    caller, ends_at = current_caller(), time.monotonic() + wait_s
    while is_running := await conversations.is_running(caller, session_id):
        if time.monotonic() >= ends_at:
            break
        await asyncio.sleep(POLL_S)
    return is_running


async def _described(session_id: str, live: LiveTurn | None, *, is_running: bool) -> SessionResult:
    try:
        stored: Conversation | None = await conversations.get_session(current_caller(), session_id)
    except SessionNotFound:
        if live is None and not is_running:
            raise
        stored = None
    error = _last_failure(live, stored)
    status: TurnStatus = "running" if is_running else "failed" if error is not None else "complete"
    result = _stored(session_id, status, stored)
    if error is not None:
        result.error = told(error)
    if live is not None and is_running:
        result.answer, is_cut = cut(live.text)
        result.is_cut = result.is_cut or is_cut
    return result


def _last_failure(live: LiveTurn | None, stored: Conversation | None) -> Exception | None:
    """Why the last turn failed, unless the conversation has gone on since."""
    has_gone_on = live is not None and stored is not None and stored.head.updated_ms > live.ended_ms
    return None if live is None or has_gone_on else live.error


def _stored(session_id: str, status: TurnStatus, conversation: Conversation | None) -> SessionResult:
    if conversation is None:  # its first turn is not over
        return SessionResult(session_id=session_id, status=status)
    body = whole(conversation)
    infos, is_cut = _last(body.messages)
    is_answered = status != "running" and bool(infos) and infos[-1].role == "assistant"
    return SessionResult(
        session_id=session_id,
        status=status,
        answer=infos[-1].content if is_answered else "",
        title=body.title,
        provider=body.provider or "",
        model=body.model or "",
        created_at=body.created_at,
        updated_at=body.updated_at,
        expires_at=body.expires_at,
        message_count=len(body.messages),
        messages=infos,
        is_cut=is_cut,
    )


def _last(messages: list[SessionMessage]) -> tuple[list[MessageInfo], bool]:
    """As many of the last messages as a client takes, and whether that leaves something out."""
    infos: list[MessageInfo] = []
    left = MOST_CHARS
    for message in reversed(messages[-MOST_MESSAGES:]):
        if infos and len(message.content) > left:
            break
        content, is_cut = cut(message.content)
        infos.insert(0, _info(message, content))
        left -= len(content)
        if is_cut:
            return infos, True
    return infos, len(infos) < len(messages)


def _info(message: SessionMessage, content: str) -> MessageInfo:
    return MessageInfo(
        role=message.role,
        content=content,
        provider=message.provider or "",
        model=message.model or "",
        status=message.status,
    )


def _summary(result: SessionResult) -> str:
    if result.status == "running":
        return f"The answer is still running. So far:\n\n{result.answer}"
    if result.status == "failed":
        return f"The last turn failed: {result.error}"
    return "\n\n".join(f"{it.role}: {it.content}" for it in result.messages)
