"""A small server of the SDK in place of a hub, to be killed and started again: python -m ... PORT NOTES."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

STEP_S = 0.02


def build(notes: Path) -> MCPServer[Any]:
    server = MCPServer("slow", version="1")

    def note(text: str) -> None:
        with notes.open("a") as file:
            file.write(f"{text}\n")

    @server.tool(structured_output=False)
    async def slow(ctx: Context[Any, Any], name: str, seconds: float = 30) -> str:
        """Take long, and tell of it all the time."""
        note(f"began {name}")
        try:
            for step in range(int(seconds / STEP_S)):
                await ctx.report_progress(step + 1, message=name)
                await asyncio.sleep(STEP_S)
        except asyncio.CancelledError:
            note(f"cancelled {name}")
            raise
        return f"done {name}"

    @server.tool(structured_output=False)
    async def echo(text: str) -> str:
        """Say it back."""
        return text

    @server.tool(structured_output=False)
    async def announce(ctx: Context[Any, Any]) -> str:
        """Tell the session that resources have changed, on its own stream."""
        await ctx.session.send_resource_list_changed()
        return "announced"

    return server


def main(port: str, notes: str) -> None:
    app = build(Path(notes)).streamable_http_app(max_request_body_size=64 * 1024 * 1024)
    uvicorn.run(app, port=int(port), log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
