"""The prompts: texts a person picks in a client's menu and fills in."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from pydantic import Field

from chat import conversations, service
from chat.blocks import as_text
from chat.errors import BadRequest
from mcpbridge.failures import as_protocol_errors
from mcpbridge.who import current_caller

# Each prompt's arguments that have to be there.
REQUIRED: dict[str, tuple[str, ...]] = {"summarize": (), "translate": ("text", "language"), "code_review": ("code",)}


def add_prompts(server: MCPServer[Any]) -> None:
    server.prompt(name="summarize", title="Summarize a text or a conversation")(summarize)
    server.prompt(name="translate", title="Translate a text")(translate)
    server.prompt(name="code_review", title="Review code")(code_review)


async def check_prompt(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware: what is wrong with a request for a prompt is the client's to know. The SDK calls it internal."""
    match ctx.method, ctx.params:
        case "prompts/get", {"name": str(name)} if name not in REQUIRED:
            raise MCPError(INVALID_PARAMS, f"there is no prompt {name[:80]!r}; known: {', '.join(REQUIRED)}")
        case "prompts/get", {"name": str(name), "arguments": dict(arguments)}:
            _require_all(name, arguments)
        case "prompts/get", {"name": str(name)}:
            _require_all(name, {})
    return await call_next(ctx)


def _require_all(name: str, arguments: dict[str, Any]) -> None:
    if missing := [it for it in REQUIRED[name] if it not in arguments]:
        raise MCPError(INVALID_PARAMS, f"{name} wants {' and '.join(missing)}")


async def summarize(
    text: Annotated[str, Field(description="What to summarize.")] = "",
    session_id: Annotated[str, Field(description="Or a conversation of this hub, by its session_id.")] = "",
) -> str:
    """Summarize a text, or a conversation held through this hub."""
    if bool(text.strip()) == bool(session_id.strip()):
        raise MCPError(INVALID_PARAMS, "summarize wants either text or session_id")
    what = "text" if text.strip() else "conversation"
    content = text if text.strip() else await _transcript(session_id.strip())
    return (
        f"Summarize the following {what} in a few short paragraphs: what it is about, what was found or decided, "
        f"and what is still open.\n\n{content}"
    )


async def translate(
    text: Annotated[str, Field(description="What to translate.")],
    language: Annotated[str, Field(description="The language to translate into, such as German.")],
) -> str:
    """Translate a text and keep its tone and formatting."""
    _require(text=text, language=language)
    return (
        f"Translate the following text into {language.strip()}. Keep its meaning, tone and formatting, and answer with "
        f"the translation alone.\n\n{text}"
    )


async def code_review(
    code: Annotated[str, Field(description="The code to review.")],
    language: Annotated[str, Field(description="Its programming language.")] = "",
    focus: Annotated[str, Field(description="What to look at most, such as security or speed.")] = "",
) -> str:
    """Review code for mistakes, risks and clarity."""
    _require(code=code)
    named = f" {language.strip()}" if language.strip() else ""
    look = f" Look at {focus.strip()} above all." if focus.strip() else ""
    fence = "`" * max(3, _longest_fence(code) + 1)
    return (
        f"Review the following{named} code. Name mistakes, risks and what is hard to read, the gravest first, each "
        f"with its place and a better version.{look}\n\n{fence}{language.strip().lower()}\n{code}\n{fence}"
    )


def _require(**arguments: str) -> None:
    for name, value in arguments.items():
        if not value.strip():
            raise MCPError(INVALID_PARAMS, f"{name} is empty")


def _longest_fence(code: str) -> int:
    """How many backticks stand together in it at most, so that the block around it is not ended by them."""
    longest = run = 0
    for char in code:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    return longest


async def _transcript(session_id: str) -> str:
    caller = current_caller()
    with as_protocol_errors():
        await service.count_request(caller)
        caller.require("sessions")
        found = await conversations.get_session(caller, session_id)
        if not found.messages:
            raise BadRequest("this conversation holds no message yet", param="session_id")
    return "\n\n".join(f"{it.role}: {as_text(it.blocks)}" for it in found.messages)
