"""The fixtures that only answer: content of every kind from tools, resources and prompts."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    AudioContent,
    Completion,
    CompletionArgument,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
# The header of a sound without a single sample.
WAV = base64.b64encode(
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"
).decode()
# The suites ask for a pause between the messages of one call, to see them arrive one by one.
PAUSE_S = 0.05


def image() -> ImageContent:
    return ImageContent(data=PNG, mime_type="image/png")


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


# --- tools -----------------------------------------------------------------------------------------------------------


async def test_simple_text() -> str:
    """Answers with text."""
    return "This is a simple text response for testing."


async def test_image_content() -> ImageContent:
    """Answers with an image."""
    return image()


async def test_audio_content() -> AudioContent:
    """Answers with a sound."""
    return AudioContent(data=WAV, mime_type="audio/wav")


async def test_embedded_resource() -> EmbeddedResource:
    """Answers with a resource."""
    return embedded("test://embedded-resource", "This is an embedded resource content.")


async def test_multiple_content_types() -> list[ContentBlock]:
    """Answers with text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    return [
        TextContent(text="Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", data, "application/json"),
    ]


async def test_error_handling() -> str:
    """Fails always."""
    raise ToolError("This tool intentionally returns an error for testing")


async def test_tool_with_logging(ctx: Context) -> str:
    """Sends three log messages."""
    await ctx.log("info", "Tool execution started")
    await anyio.sleep(PAUSE_S)
    await ctx.log("info", "Tool processing data")
    await anyio.sleep(PAUSE_S)
    await ctx.log("info", "Tool execution completed")
    return "Logged three times."


async def test_logging_tool(ctx: Context) -> str:
    """Sends a log message to who asked for one."""
    await ctx.log("info", "one message")
    return "Logged once."


async def test_tool_with_progress(ctx: Context) -> str:
    """Reports its progress in three steps."""
    await ctx.report_progress(0, 100)
    for progress in (50, 100):
        await anyio.sleep(PAUSE_S)
        await ctx.report_progress(progress, 100)
    return "Done."


async def test_reconnection(ctx: Context) -> str:
    """Closes the stream it answers on where it could be taken up again."""
    await ctx.close_sse_stream()
    await anyio.sleep(2 * PAUSE_S)
    return "Reconnected."


async def test_header_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that HTTP clients repeat in a header."""
    return f"Region: {region}"


async def test_trigger_tool_change(ctx: Context) -> str:
    """Says that the list of tools has changed."""
    await ctx.notify_tools_changed()
    return "Told."


async def test_trigger_prompt_change(ctx: Context) -> str:
    """Says that the list of prompts has changed."""
    await ctx.notify_prompts_changed()
    return "Told."


TOOLS = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_logging,
    test_logging_tool,
    test_tool_with_progress,
    test_reconnection,
    test_header_region,
    test_trigger_tool_change,
    test_trigger_prompt_change,
)


# --- resources -------------------------------------------------------------------------------------------------------


async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


async def static_binary() -> bytes:
    """An image."""
    return base64.b64decode(PNG)


async def watched_resource() -> str:
    """One to subscribe to."""
    return "Watched resource content."


async def template_data(id: str) -> str:
    """One for each id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def add_resources(server: MCPServer[Any]) -> None:
    server.resource("test://static-text", mime_type="text/plain")(static_text)
    server.resource("test://static-binary", mime_type="image/png")(static_binary)
    server.resource("test://watched-resource", mime_type="text/plain")(watched_resource)
    server.resource("test://template/{id}/data", mime_type="application/json")(template_data)


# --- prompts ---------------------------------------------------------------------------------------------------------


async def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A prompt with a resource."""
    resource = embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


async def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with an image."""
    return [UserMessage(image()), UserMessage("Please analyze the image above.")]


async def complete(ref: object, argument: CompletionArgument, context: object) -> Completion:
    known = [word for word in ("paris", "park", "party", "test") if word.startswith(argument.value)]
    return Completion(values=known, total=len(known), has_more=False)


def add_prompts(server: MCPServer[Any]) -> None:
    server.prompt()(test_simple_prompt)
    server.prompt()(test_prompt_with_arguments)
    server.prompt()(test_prompt_with_embedded_resource)
    server.prompt()(test_prompt_with_image)
    server.completion()(complete)  # type: ignore[no-untyped-call]
