"""The tools: ask a model, see who can be asked, fetch a conversation."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

from django.conf import settings
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from chat import choice, service
from chat.ask import Ask
from chat.errors import BadRequest, ChatError
from chat.live import LiveTurn
from chat.log_ids import log_ids
from chat.provider_bodies import describe
from chat.runtime import chat as running_chat
from mcpbridge.failures import as_tool_result
from mcpbridge.progress import Progress, follow
from mcpbridge.results import as_result, cut
from mcpbridge.schemas import ChatResult, ProviderInfo, ProvidersResult, Text, without_refs
from mcpbridge.session_tool import MOST_WAIT_S, get_session
from mcpbridge.who import current_caller
from providers.errors import ProviderError
from providers.events import Message, Turn
from providers.provider import Provider

LEAST_DEADLINE_S = 1.0
DEADLINE_HEADER = "x-hub-soft-deadline"

ASKS = ToolAnnotations(
    title="Ask a model",
    read_only_hint=False,
    destructive_hint=False,
    idempotent_hint=False,
    open_world_hint=True,
)


def _reads(title: str) -> ToolAnnotations:
    return ToolAnnotations(
        title=title, read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )


def add_tools(server: MCPServer[Any]) -> None:
    for function, hints in (
        (chat, ASKS),
        (list_providers, _reads("List providers")),
        (get_session, _reads("Fetch a conversation")),
    ):
        described = inspect.getdoc(function)
        server.add_tool(function, title=hints.title, description=described, annotations=hints)
    for tool in server._tool_manager.list_tools():
        tool.parameters = without_refs(tool.parameters)
        if tool.fn_metadata.output_schema is not None:
            tool.fn_metadata.output_schema = without_refs(tool.fn_metadata.output_schema)


# --- chat -----------------------------------------------------------------------------------------------------------


async def chat(
    ctx: Context[Any, Any],
    message: Annotated[str, Field(description="What to ask.", min_length=1)],
    provider: Annotated[
        Text, Field(description="Who answers: claude, gemini or another of list_providers, or auto.")
    ] = "auto",
    session_id: Annotated[Text, Field(description="The conversation to continue; empty begins a new one.")] = "",
    model: Annotated[Text, Field(description="A model or alias of the provider; empty for its default.")] = "",
    system: Annotated[Text, Field(description="Instructions for the model, such as a role or a style.")] = "",
) -> Annotated[CallToolResult, ChatResult]:
    """Ask Claude, Gemini or another model of this hub and get its answer.

    The answer names its session_id: pass that to continue the conversation, also with another provider. Should the
    status be "running", the answer takes long: get_session with that session_id and wait_seconds fetches the rest.
    """
    if not message.strip():
        return as_tool_result(BadRequest("message is empty", param="message"))
    caller = current_caller()
    turn = Turn(messages=(Message("user", (message,)),), system=system)
    request_id = str(log_ids().get("request_id", ""))
    ask = Ask(turn, provider.strip(), model.strip(), session_id.strip(), request_id=request_id, door="mcp")
    live = running_chat().live.start(caller.owner, ask.session_id, service.answer(caller, ask))
    try:
        await follow(live, Progress(ctx), until_s=soft_deadline_s(ctx))
    except BaseException:  # the client has cancelled the call, or is gone
        live.cancel()
        raise
    return _answered(live)


def soft_deadline_s(ctx: Context[Any, Any]) -> float:
    """How long this client may be kept waiting: its own header, else the setting; in seconds."""
    given = (ctx.headers or {}).get(DEADLINE_HEADER, "")
    try:
        return max(LEAST_DEADLINE_S, float(given))
    except ValueError:
        return float(settings.HUB_MCP_SOFT_DEADLINE_S)


def _answered(live: LiveTurn) -> CallToolResult:
    if live.error is not None:
        running_chat().live.forget(live)
        return as_tool_result(live.error)
    answer, is_cut = cut(live.text)
    note = _note(live, is_cut=is_cut)
    result = ChatResult(
        session_id=live.session_id,
        status=live.status,
        answer=answer,
        provider=live.provider,
        model=live.model,
        finish_reason=live.reason or "",
        is_cut=is_cut,
        note=note,
    )
    # Some clients show their model the words alone, others the structured content alone: each has to be enough.
    known = f"session_id: {live.session_id}" if live.session_id else ""
    hint = "\n".join(it for it in (known, note) if it)
    return as_result(answer, result, session_id=live.session_id, hint=hint)


def _note(live: LiveTurn, *, is_cut: bool) -> str:
    if not live.is_over:
        return (
            f"Still running after {live.age_s:.0f} s; this is what has come so far. "
            f"Call get_session with this session_id and wait_seconds {MOST_WAIT_S} for the rest."
        )
    if not live.session_id:
        return "This answer belongs to no session: it can't be continued."
    return "The answer is longer than shown; the session's resource holds all of it." if is_cut else ""


# --- list_providers -------------------------------------------------------------------------------------------------


async def list_providers() -> Annotated[CallToolResult, ProvidersResult]:
    """List the providers that can be asked with chat: whether each can answer now, its models, and what is wrong."""
    caller = current_caller()
    try:
        await service.count_request(caller)
        infos = [_info(provider) for provider in await choice.list_providers(caller)]
    except (ChatError, ProviderError) as error:
        return as_tool_result(error)
    text = "\n".join(_line(info) for info in infos) or "There are no providers this key may use."
    return as_result(text, ProvidersResult(providers=infos))


def _info(provider: Provider) -> ProviderInfo:
    known = describe(provider)
    return ProviderInfo(
        name=known.name,
        status=known.status,
        state=known.state,
        models=known.models,
        why=known.why,
        mend=known.mend,
    )


def _line(info: ProviderInfo) -> str:
    why = f" ({info.why})" if info.why else ""
    return f"{info.name}: {info.status}, {info.state.replace('_', ' ')}{why}; models: {', '.join(info.models)}"
