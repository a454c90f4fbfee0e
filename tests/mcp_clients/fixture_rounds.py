"""The fixtures that need more than one round: they answer with questions, and are called again with the answers.

This is how the protocol of 2026 asks a client (`resultType: input_required`). The SDK seals the state they hand out,
and refuses one that was changed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

from tests.mcp_clients.fixture_asking import form

R = TypeVar("R")
Round = str | InputRequiredResult


# --- questions and answers -------------------------------------------------------------------------------------------


def question(message: str, field: str, kind: str = "string") -> ElicitRequest:
    schema = form({field: {"type": kind}}, field)
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(text: str, max_tokens: int = 100) -> CreateMessageRequest:
    said = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[said], max_tokens=max_tokens))


def ask(state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=dict(requests), request_state=state)


def answered(ctx: Context, key: str, kind: type[R]) -> R | None:
    """The client's answer to one question; None for none, and for one of another kind."""
    response = (ctx.input_responses or {}).get(key)
    return response if isinstance(response, kind) else None


def field_of(ctx: Context, key: str, name: str) -> object:
    """What the user filled in; None if nothing was."""
    response = answered(ctx, key, ElicitResult)
    return None if response is None or response.content is None else response.content.get(name)


# --- tools -----------------------------------------------------------------------------------------------------------


async def test_input_required_result_elicitation(ctx: Context) -> Round:
    """Asks the user for a name."""
    name = field_of(ctx, "user_name", "name")
    return ask(user_name=question("What is your name?", "name")) if name is None else f"Hello, {name}!"


async def test_streaming_elicitation(ctx: Context) -> Round:
    """Asks the user for a name after a first sign of life."""
    await ctx.report_progress(1)
    return await test_input_required_result_elicitation(ctx)


async def test_input_required_result_sampling(ctx: Context) -> Round:
    """Asks the client's model."""
    answer = answered(ctx, "capital_question", CreateMessageResult)
    if answer is None:
        return ask(capital_question=sampling("What is the capital of France?"))
    return answer.content.text if isinstance(answer.content, TextContent) else ""


async def test_input_required_result_list_roots(ctx: Context) -> Round:
    """Asks for the client's folders."""
    answer = answered(ctx, "client_roots", ListRootsResult)
    if answer is None:
        return ask(client_roots=ListRootsRequest())
    return "Roots: " + ", ".join(f"{root.name} {root.uri}" for root in answer.roots)


async def test_input_required_result_request_state(ctx: Context) -> Round:
    """Hands out a state and wants it back."""
    if ctx.request_state != "asked" or field_of(ctx, "confirm", "ok") is None:
        return ask("asked", confirm=question("Please confirm", "ok", "boolean"))
    return "state-ok"


async def test_input_required_result_tampered_state(ctx: Context) -> Round:
    """Hands out a state that nobody may change."""
    return await test_input_required_result_request_state(ctx)


async def test_input_required_result_multiple_inputs(ctx: Context) -> Round:
    """Asks three questions at once."""
    name, roots = field_of(ctx, "user_name", "name"), answered(ctx, "client_roots", ListRootsResult)
    greeting = answered(ctx, "greeting", CreateMessageResult)
    if ctx.request_state is None or name is None or roots is None or greeting is None:
        return ask(
            "asked",
            user_name=question("What is your name?", "name"),
            greeting=sampling("Generate a greeting", 50),
            client_roots=ListRootsRequest(),
        )
    return f"{name} has {len(roots.roots)} roots."


async def test_input_required_result_multi_round(ctx: Context) -> Round:
    """Asks two questions, one after the other."""
    name, color = field_of(ctx, "step1", "name"), field_of(ctx, "step2", "color")
    match ctx.request_state:
        case "round-1" if name is not None:
            return ask(f"round-2 {name}", step2=question("Step 2: What is your favorite color?", "color"))
        case str(state) if state.startswith("round-2 ") and color is not None:
            return f"{state.removeprefix('round-2 ')} likes {color}."
    return ask("round-1", step1=question("Step 1: What is your name?", "name"))


async def test_input_required_result_capabilities(ctx: Context) -> Round:
    """Asks only what the client said it can answer."""
    declared = ctx.client_capabilities
    requests: dict[str, InputRequest] = {}
    if declared is not None and declared.sampling is not None:
        requests["greeting"] = sampling("Generate a greeting")
    if declared is not None and declared.elicitation is not None:
        requests["user_name"] = question("What is your name?", "name")
    return ask(**requests) if requests else "There is nobody to ask."


ROUND_TOOLS = (
    test_input_required_result_elicitation,
    test_streaming_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
)


# --- a prompt --------------------------------------------------------------------------------------------------------


async def test_input_required_result_prompt(ctx: Context) -> Round:
    """A prompt that asks the user for its context."""
    context = field_of(ctx, "user_context", "context")
    if context is None:
        return ask(user_context=question("What context should the prompt use?", "context"))
    return f"Use this context: {context}"


def add_round_prompt(server: MCPServer[Any]) -> None:
    server.prompt()(test_input_required_result_prompt)
