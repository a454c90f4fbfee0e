"""What a tool gives back: words for people and models, the declared fields for programs, a link to the session."""

from __future__ import annotations

from typing import Any

from mcp.types import CallToolResult, ResourceLink, TextContent
from pydantic import BaseModel

# Clients cut a tool's result at some 25,000 tokens, or refuse it.
MOST_CHARS = 80_000


def cut(text: str) -> tuple[str, bool]:
    """As much of a text as a client takes, and whether that leaves something out."""
    return text[:MOST_CHARS], len(text) > MOST_CHARS


def as_result(text: str, structured: BaseModel, *, session_id: str = "", hint: str = "") -> CallToolResult:
    content: list[Any] = [TextContent(type="text", text=it) for it in (text, hint) if it or it is text]
    if session_id:
        content.append(session_link(session_id))
    return CallToolResult(content=content, structured_content=structured.model_dump())


def session_link(session_id: str) -> ResourceLink:
    return ResourceLink(
        type="resource_link",
        uri=f"session://{session_id}",
        name=session_id,
        title="The whole conversation",
        mime_type="application/json",
    )
