"""The fixtures that ask their client something in the middle of a call, which only the older eras can."""

from __future__ import annotations

import json
from typing import Any

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ClientCapabilities,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    TextContent,
)

MOST_TOKENS = 100

USER = {
    "username": {"type": "string", "description": "User's response"},
    "email": {"type": "string", "description": "User's email address"},
}
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
OPTIONS = ["option1", "option2", "option3"]
TITLED = [{"const": f"value{n}", "title": f"{title} Option"} for n, title in enumerate(("First", "Second", "Third"), 1)]
ENUMS = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {"type": "string", "oneOf": TITLED},
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": TITLED}},
}


def form(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Asks the client's model."""
    said = SamplingMessage(role="user", content=TextContent(text=prompt))
    answer = await ctx.session.create_message([said], max_tokens=MOST_TOKENS, related_request_id=ctx.request_id)
    return f"LLM response: {answer.content.text if isinstance(answer.content, TextContent) else ''}"


async def _elicit(ctx: Context, message: str, schema: dict[str, Any]) -> str:
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the user for a name and an address."""
    return "User response: " + await _elicit(ctx, message, form(USER, "username", "email"))


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks the user with a default for every kind of answer."""
    return "Elicitation completed: " + await _elicit(ctx, "Please check these.", form(DEFAULTS))


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks the user to choose, in all five ways."""
    return "Elicitation completed: " + await _elicit(ctx, "Please choose.", form(ENUMS))


async def test_missing_capability(ctx: Context) -> str:
    """Serves only clients that have a model to ask."""
    declared = ctx.client_capabilities
    if declared is None or declared.sampling is None:
        needed = MissingRequiredClientCapabilityErrorData(
            required_capabilities=ClientCapabilities(sampling=SamplingCapability())
        )
        data = needed.model_dump(by_alias=True, exclude_none=True)
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs the client's sampling", data)
    return "The client has what it takes."


ASKING_TOOLS = (
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_missing_capability,
)
