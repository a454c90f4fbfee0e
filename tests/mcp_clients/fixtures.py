"""An MCP server with all that the official conformance suites call; the product has none of it.

The names and answers are those that the scenarios in the suites' own packages ask for.
"""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.types import EmptyResult, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams

from tests.mcp_clients.fixture_asking import ASKING_TOOLS
from tests.mcp_clients.fixture_contents import TOOLS, add_prompts, add_resources
from tests.mcp_clients.fixture_rounds import ROUND_TOOLS, add_round_prompt
from tests.mcp_clients.fixture_schema import schema_tool


def build_fixture_server() -> MCPServer[Any]:
    """A new server; one for each McpDoor."""
    server: MCPServer[Any] = MCPServer(
        "conformance-fixtures", version="1.0.0", tools=[schema_tool()], log_level="WARNING"
    )
    for tool in (*TOOLS, *ASKING_TOOLS, *ROUND_TOOLS):
        server.add_tool(tool, structured_output=False)
    add_resources(server)
    add_prompts(server)
    add_round_prompt(server)
    _accept_settings(server)
    return server


def _accept_settings(server: MCPServer[Any]) -> None:
    """What only the older eras ask: a log level, and to be told of a resource."""
    low = server._lowlevel_server
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, _accept)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, _accept)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _accept)


async def _accept(ctx: object, params: object) -> EmptyResult:
    return EmptyResult()
