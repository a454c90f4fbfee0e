"""Suggestions for the arguments of prompts and resources while somebody types them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from chat import choice, conversations
from mcpbridge.failures import as_protocol_errors
from mcpbridge.who import current_caller
from providers.route import AUTO

Reference = PromptReference | ResourceTemplateReference

MOST = 100  # by the protocol
# fmt: off
LANGUAGES = (
    "Arabic", "Bengali", "Bulgarian", "Catalan", "Chinese", "Croatian", "Czech", "Danish", "Dutch", "English",
    "Estonian", "Finnish", "French", "German", "Greek", "Hebrew", "Hindi", "Hungarian", "Indonesian", "Italian",
    "Japanese", "Korean", "Latvian", "Lithuanian", "Norwegian", "Persian", "Polish", "Portuguese", "Romanian",
    "Russian", "Serbian", "Slovak", "Slovenian", "Spanish", "Swedish", "Thai", "Turkish", "Ukrainian",
    "Vietnamese",
)
PROGRAMMING_LANGUAGES = (
    "Bash", "C", "C#", "C++", "CSS", "Clojure", "Dart", "Elixir", "Erlang", "Go", "Haskell", "HTML", "Java",
    "JavaScript", "Julia", "Kotlin", "Lua", "MATLAB", "Perl", "PHP", "PowerShell", "Python", "R", "Ruby",
    "Rust", "Scala", "SQL", "Swift", "TypeScript", "Zig",
)
# fmt: on


def add_completion(server: MCPServer[Any]) -> None:
    server.completion()(complete)  # type: ignore[no-untyped-call]


async def complete(ref: Reference, argument: CompletionArgument, context: CompletionContext | None) -> Completion:
    """What begins with what was typed, in any case of its letters; nothing for arguments without known values."""
    typed = argument.value.lower()
    known = await _known(ref, argument.name, context, typed)
    values = [value for value in known if value.lower().startswith(typed)]
    return Completion(values=values[:MOST], total=len(values), has_more=len(values) > MOST)


async def _known(ref: Reference, name: str, context: CompletionContext | None, typed: str) -> Iterable[str]:
    match name:
        case "name" | "provider":
            return [it.name for it in await choice.list_providers(current_caller())]
        case "model":
            return _models(context)
        case "session_id":
            return await _session_ids()
        case "language" if isinstance(ref, PromptReference) and ref.name == "code_review":
            return PROGRAMMING_LANGUAGES
        case "language":
            return LANGUAGES
        case "focus":
            return ("correctness", "security", "speed", "readability", "tests", "error handling")
    return ()


def _models(context: CompletionContext | None) -> list[str]:
    """The names of models, those of the provider that was filled in before if there is one."""
    provider = ((context.arguments if context is not None else None) or {}).get("provider", "")
    names = choice.list_models(current_caller())
    return [name for name, owner in names.items() if not provider or provider == AUTO or owner == provider]


async def _session_ids() -> list[str]:
    caller = current_caller()
    if "sessions" not in caller.scopes:
        return []
    with as_protocol_errors():
        page = await conversations.list_sessions(caller, after="", limit=MOST)
    return [head.session_id for head in page.heads]
