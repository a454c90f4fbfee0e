"""The MCP server: what every transport serves."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from django.conf import settings
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import MCPServer
from mcp.types import Icon

from mcpbridge.changes import Changes
from mcpbridge.completion import add_completion
from mcpbridge.failures import tell_plainly
from mcpbridge.prompts import add_prompts, check_prompt
from mcpbridge.resources import add_resources
from mcpbridge.tools import add_tools
from mcpbridge.who import Identify, Whose

NAME = "llm-mcp-hub"
TITLE = "LLM MCP Hub"
DESCRIPTION = "Multi-LLM Hub - Access Claude, Gemini via unified interface"
INSTRUCTIONS = (
    "Ask other AI models with `chat`. Leave provider empty (or auto) to let the hub choose, or name one of "
    "list_providers. Each answer has a session_id: pass it to chat to continue that conversation, with the same or "
    "another provider; leave it out to begin a new one. If an answer says it is still running, call get_session with "
    "its session_id and wait_seconds."
)
# Small, because the protocol of 2026 sends it with every answer.
ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><path d='M1 2 4 4 7 2M1 6 4 4 7 6' fill='none' "
    "stroke='#2563eb'/><circle cx='4' cy='4' r='1.5' fill='#2563eb'/></svg>"
)
# What is the same for everybody, and changes with the hub's version alone.
FIXED = CacheHint(ttl_ms=300_000, scope="public")


def build_server(changes: Changes, whose: Whose | None = None) -> MCPServer[Any]:
    """A server with all of the hub's tools, resources and prompts; `whose` tells the caller where no request does."""
    server: MCPServer[Any] = MCPServer(
        NAME,
        title=TITLE,
        description=DESCRIPTION,
        instructions=INSTRUCTIONS,
        version=settings.VERSION,
        icons=[_icon()],
        log_level="WARNING",
        cache_hints={"tools/list": FIXED, "prompts/list": FIXED, "resources/templates/list": FIXED},
        subscriptions=changes,
        middleware=[Identify(whose), tell_plainly, check_prompt],
    )
    add_tools(server)
    add_resources(server)
    add_prompts(server)
    add_completion(server)
    changes.serve_older(server)
    return server


def _icon() -> Icon:
    # In base64: what an SVG is written with is not allowed in a URI.
    encoded = b64encode(ICON.encode()).decode()
    return Icon(src=f"data:image/svg+xml;base64,{encoded}", mime_type="image/svg+xml", sizes=["any"])
