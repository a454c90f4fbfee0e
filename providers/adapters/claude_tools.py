"""The caller's tools as an MCP server on the CLI's own pipe: listed to the model, never run.

The CLI asks for the list by control messages, and for a run likewise; a run is not answered, because the caller does it
and comes back with a new turn. The CLI keeps a tool as it was first offered under its name, and a server's tools when
it comes back with others; so a server is named by what it offers. That also leaves the vendor's cache of prompts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import orjson

from providers.adapters.json_lines import Json
from providers.errors import ProtocolBroken
from providers.events import Tool, Toolbox, Turn

NAME_CHARS = 8


def toolbox_of(turn: Turn) -> Toolbox:
    """What is offered in a turn. The vendor takes a history with calls only beside tools, if only by their names."""
    if turn.toolbox or not turn.calls_by_id:
        return turn.toolbox
    names = dict.fromkeys(call.name for call in turn.calls_by_id.values())
    return Toolbox(tuple(map(Tool, names)), mode="none")


class ToolServer:
    """What this process offers now. `is_listed`: the CLI has it; until then a turn that was given up may have been in
    the middle of a change."""

    def __init__(self) -> None:
        self.is_listed = True
        self._tools: Sequence[Tool] = ()
        self._name = _name_of(())

    @property
    def names(self) -> set[str]:
        """The tools as the model sees them."""
        return {self.full_name(tool.name) for tool in self._tools}

    @property
    def permission(self) -> str:
        """The CLI's word for all of them. A call that it would not let through it would answer itself."""
        return f"mcp__{self._name}"

    def full_name(self, name: str) -> str:
        return f"mcp__{self._name}__{name}"

    def own_name(self, full: str) -> str:
        """The caller's name of a tool the model calls."""
        return full.removeprefix(self.full_name(""))

    def change(self, tools: Sequence[Tool]) -> Json | None:
        """The request by which the CLI offers these tools and no others; None if it does already."""
        if tools == self._tools and self.is_listed:
            return None
        self._tools, self._name = tools, _name_of(tools)
        self.is_listed = False
        servers = {self._name: {"type": "sdk", "name": self._name}} if tools else {}
        return {"subtype": "mcp_set_servers", "servers": servers}

    def check_shown(self, shown: object, *, beside: set[str]) -> None:
        """Compare what the CLI says it offers at a turn's start. Raises ProtocolBroken."""
        if not isinstance(shown, list) or set(map(str, shown)) - beside != self.names:
            raise ProtocolBroken("claude does not offer the tools of the turn")

    def reply(self, request: Json) -> Json | None:
        """The answer to a message of the CLI's MCP client, None for the call of a tool."""
        server, message = str(request.get("server_name")), request.get("message") or {}
        result: Json = {}
        match message.get("method"):
            case "tools/call":
                return None
            case "initialize":
                result = {
                    "protocolVersion": (message.get("params") or {}).get("protocolVersion"),
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": server, "version": "1"},
                }
            case "tools/list":
                result = {"tools": self._listed(server)}
        return {"jsonrpc": "2.0", "id": message.get("id", 0), "result": result}

    def _listed(self, server: str) -> list[Json]:
        if server != self._name:  # of a turn that was given up before it began
            return []
        self.is_listed = True
        return [
            {"name": tool.name, "description": tool.description, "inputSchema": _input_schema(tool)}
            for tool in self._tools
        ]


def _name_of(tools: Sequence[Tool]) -> str:
    return sha256(repr(tools).encode(errors="surrogatepass")).hexdigest()[:NAME_CHARS]


def _input_schema(tool: Tool) -> Json:
    """The CLI lists no tool at all where one's arguments are not an object in so many words."""
    schema: Json = orjson.loads(tool.schema)
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}


def choice_body(toolbox: Toolbox, server: ToolServer) -> Json:
    """The vendor's own fields for what the model may do with the tools; empty where it may do as it likes."""
    if not toolbox or (toolbox.mode == "auto" and toolbox.is_parallel):
        return {}
    kinds = {"auto": "auto", "none": "none", "required": "any"}
    choice: Json = {"type": kinds[toolbox.mode]}
    if toolbox.mode == "required" and toolbox.only:
        choice = {"type": "tool", "name": server.full_name(toolbox.only)}
    if not toolbox.is_parallel and toolbox.mode != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tool_choice": choice}
