"""The real MCP clients as tests: pinned in package.json, installed by `npm ci --prefix tests/mcp_clients`.

Beside them a server with everything the official conformance suites call, served by the hub's own mount class.
"""
