"""Every adapter the tests know: its program, how it is told to talk to the stand-in, and what its vendor received.

A new adapter gets an entry in DIALECTS; without one test_contract.py fails. See docs/adding-a-provider.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from providers.adapters.acp_prompt import INTRO, MARK
from providers.events import Block, Media, Message, Sampling, ToolCall, ToolResult
from tests.vendor_api import Received
from tests.vendor_api.openai import offered_tools

DUMMY_KEY = "dummy-key-of-the-tests"

# What claude puts beside the caller's system prompt, and beside the conversation. None of it holds a text of others.
CLAUDE_SYSTEM = (r"x-anthropic-billing-header: [^\n]*", r"You are a Claude agent, built on Anthropic's [^\n]*")
CLAUDE_NOTE = r"(# Environment\n.*|Today's date is [0-9-]+\.)"

# gemini as an agent like any other: as its owner would start it.
AGENT_MODEL = "gemini-3.8-flash"
AGENT_ENV = {
    "GEMINI_API_KEY": DUMMY_KEY,
    "GEMINI_CLI_NO_RELAUNCH": "true",
    "GEMINI_CLI_TRUST_WORKSPACE": "true",
}

# What gemini's adapter sends where there is no system prompt: the vendor refuses an empty one.
GEMINI_NOTHING = "\u200b"


@dataclass(frozen=True, slots=True)
class Upstream:
    """One chat request as the vendor read it: the caller's system prompt, conversation and sampling."""

    model: str
    system: str
    messages: tuple[Message, ...]
    sampling: Sampling
    tools: tuple[str, ...]


def read_anthropic(received: Received) -> Upstream:
    body = received.body
    own = [block["text"] for block in body["system"]]
    assert all(re.fullmatch(known, text) for known, text in zip(CLAUDE_SYSTEM, own, strict=False)), own
    assert len(own) <= len(CLAUDE_SYSTEM) + 1
    return Upstream(
        model=body["model"],
        system="".join(own[len(CLAUDE_SYSTEM) :]),
        messages=tuple(_anthropic_messages(body["messages"])),
        sampling=Sampling(
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            stop=tuple(body.get("stop_sequences", ())),
        ),
        tools=tuple(tool["name"] for tool in body.get("tools", ())),
    )


def _anthropic_messages(messages: list[dict[str, Any]]) -> list[Message]:
    conversation = []
    for message in messages:
        content = message["content"]
        blocks = (content,) if isinstance(content, str) else tuple(map(_anthropic_block, content))
        if message["role"] == "system":
            assert all(re.fullmatch(CLAUDE_NOTE, str(text), re.DOTALL) for text in blocks), blocks
            continue
        conversation += [Message("tool", (block,)) for block in blocks if isinstance(block, ToolResult)]
        if said := tuple(block for block in blocks if not isinstance(block, ToolResult)):
            conversation.append(Message(message["role"], said))
    return conversation


def _anthropic_block(block: dict[str, Any]) -> Block:
    match block:
        case {"type": "tool_use", "id": call_id, "name": name, "input": arguments}:
            return ToolCall(call_id, re.sub(r"^mcp__[0-9a-f]{8}__", "", name), json.dumps(arguments))
        case {"type": "tool_result", "tool_use_id": call_id, "content": content}:
            inner = [_anthropic_block(it) for it in ([{"text": content}] if isinstance(content, str) else content)]
            return ToolResult(call_id, tuple(inner), is_error=block.get("is_error", False))  # type: ignore[arg-type]
        case {"type": "image" | "document", "source": {"media_type": mime_type, "data": data}}:
            return Media(mime_type, data, block.get("title", ""))
    return str(block["text"])


def read_gemini(received: Received) -> Upstream:
    body = received.body
    config = body["generationConfig"]
    system = "".join(part["text"] for part in body.get("systemInstruction", {"parts": ()})["parts"])
    return Upstream(
        model=re.findall(r"models/([^:/]+):", received.path)[0],
        system="" if system == GEMINI_NOTHING else system,
        messages=tuple(message for content in body["contents"] for message in _gemini_messages(content)),
        sampling=Sampling(
            max_tokens=config.get("maxOutputTokens"),
            temperature=config.get("temperature"),
            top_p=config.get("topP"),
            stop=tuple(config.get("stopSequences", ())),
        ),
        # One empty list of functions stands for none.
        tools=tuple(it["name"] for tool in body.get("tools", ()) for it in tool.get("functionDeclarations", ())),
    )


def _gemini_messages(content: dict[str, Any]) -> list[Message]:
    """One content; the results of several calls are one content there, and images may stand behind their result."""
    parts: list[dict[str, Any]] = content["parts"]
    assert parts, "the vendor takes no message without parts"
    if "functionResponse" not in parts[0]:
        role: Literal["user", "assistant"] = "assistant" if content["role"] == "model" else "user"
        return [Message(role, tuple(map(_gemini_block, parts)))]
    assert content["role"] == "user"
    results: list[ToolResult] = []
    for part in parts:
        block = _gemini_block(part)
        if isinstance(block, ToolResult):
            results.append(block)
        else:
            assert isinstance(block, Media), "the vendor wants results apart from words"
            results[-1] = replace(results[-1], blocks=(*results[-1].blocks, block))
    return [Message("tool", (result,)) for result in results]


def _gemini_block(part: dict[str, Any]) -> Block:
    match part:
        case {"functionCall": {"id": call_id, "name": name, "args": arguments}}:
            return ToolCall(call_id, name, json.dumps(arguments))
        case {"functionResponse": {"id": call_id, "response": response}}:
            (said,) = response.values()
            inner = map(_gemini_block, part["functionResponse"].get("parts", ()))
            media = tuple(block for block in inner if isinstance(block, Media))
            return ToolResult(call_id, (said, *media), is_error="error" in response)
        case {"inlineData": {"mimeType": mime_type, "data": data}}:
            return Media(mime_type, data)
    return str(part["text"])


def read_openai(received: Received) -> Upstream:
    body = received.body
    assert not body.get("instructions")
    ordered = [item for item in body["input"] if item["type"] == "message" and item["role"] == "developer"]
    # What newer models are offered comes first.
    offers = [number for number, item in enumerate(body["input"]) if item["type"] == "additional_tools"]
    assert offers in ([], [0]), body["input"]
    return Upstream(
        model=body["model"],
        system="".join(part["text"] for item in ordered for part in item["content"]),
        messages=tuple(_openai_messages(body["input"])),
        sampling=Sampling(body.get("max_output_tokens"), body.get("temperature"), body.get("top_p")),
        tools=tuple(tool.get("name") or tool["type"] for tool in offered_tools(body)),
    )


def _openai_messages(items: list[dict[str, Any]]) -> list[Message]:
    """The conversation; calls belong to what the assistant said or called right before them."""
    messages: list[Message] = []
    for item in items:
        blocks = tuple(_openai_blocks(item)) if item.get("role") != "developer" else ()
        if item["type"] == "function_call" and messages and messages[-1].role == "assistant":
            messages[-1] = Message("assistant", (*messages[-1].blocks, *blocks))
        elif item["type"] == "function_call" or item.get("role") == "assistant":
            messages.append(Message("assistant", blocks))
        elif blocks:
            messages.append(Message("tool" if isinstance(blocks[0], ToolResult) else "user", blocks))
    return messages


def _openai_blocks(item: dict[str, Any]) -> Iterator[Block]:
    match item:
        case {"type": "message", "role": "user" | "assistant", "content": content}:
            yield from map(_openai_part, content)
        case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
            yield ToolCall(call_id, name, arguments)
        case {"type": "function_call_output", "call_id": call_id, "output": str(text)}:
            yield ToolResult(call_id, (text,))
        case {"type": "function_call_output", "call_id": call_id, "output": parts}:
            yield ToolResult(call_id, tuple(map(_openai_part, parts)))
        case _:
            raise AssertionError(item)


def _openai_part(part: dict[str, Any]) -> str | Media:
    if part["type"] == "input_image":
        mime_type, _, data = part["image_url"].removeprefix("data:").partition(";base64,")
        return Media(mime_type, data)
    return str(part["text"])


def read_prompt(prompt: str) -> tuple[str, tuple[Message, ...]]:
    """The system prompt and the messages of a conversation that the acp adapter made into one text."""
    assert prompt.startswith(INTRO)
    parts = re.split(r"\n\n\[(system|user|assistant)\]\n", prompt.removeprefix(INTRO))
    assert parts[0] == ""
    spoken = [(speaker, _unmarked(text)) for speaker, text in zip(parts[1::2], parts[2::2], strict=True)]
    system = spoken.pop(0)[1] if spoken[0][0] == "system" else ""
    return system, tuple(Message(speaker, (text,)) for speaker, text in spoken)  # type: ignore[arg-type]


def _unmarked(text: str) -> str:
    lines = text.splitlines(keepends=True)
    assert all(line.startswith(MARK) for line in lines), text
    return "".join(line.removeprefix(MARK) for line in lines)


def read_acp(received: Received) -> Upstream:
    """gemini as an agent of the acp adapter: the last text is the conversation, what is before it is its own."""
    upstream = read_gemini(received)
    system, messages = read_prompt(received.body["contents"][-1]["parts"][-1]["text"])
    return replace(upstream, system=system, messages=messages)


def read_nothing(received: Received) -> Upstream:
    raise AssertionError(f"a provider without a vendor made a request: {received.path}")


# What some CLIs can't do, each with tests that do not count for them: tell the vendor's figures one by one, be asked
# for each of the listed models, chat without tools, end without a word.
Lack = Literal["figures", "models", "toolless", "wordless"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one CLI and its vendor are to be spoken with.

    `default_sampling` is what goes upstream when the caller asks for nothing. `has_blocks` tells whether the blocks of
    a message stay apart upstream, `has_reset` whether an answered 429 names its reset to an API key's owner.
    `requests_for_a_tool`: how often the vendor is asked at most where the model wants a tool. `cli` is the installed
    program it needs, empty for none; `command` makes a command line of it where the provider names one, and
    `extra_env` what that may see.
    """

    env: Callable[[str], Mapping[str, str]]
    read: Callable[[Received], Upstream] = read_nothing
    default_sampling: Sampling = Sampling()  # noqa: RUF009 (it is frozen)
    login_names: tuple[str, ...] = ()
    has_blocks: bool = False
    has_reset: bool = False
    refusal_reason: str = "stop"
    hides_tool_after_text: bool = False
    requests_for_a_tool: int = 1
    cli: str = ""
    command: Callable[[Path], tuple[str, ...]] | None = None
    extra_env: tuple[str, ...] = ()
    lacks: frozenset[Lack] = frozenset()

    def bare_env(self, url: str) -> dict[str, str]:
        """The address of the vendor without any login."""
        return {name: value for name, value in self.env(url).items() if name not in self.login_names}


DIALECTS: Mapping[str, Dialect] = {
    "claude": Dialect(
        env=lambda url: {"ANTHROPIC_API_KEY": DUMMY_KEY, "ANTHROPIC_BASE_URL": url},
        read=read_anthropic,
        default_sampling=Sampling(max_tokens=128_000),
        login_names=("ANTHROPIC_API_KEY",),
        cli="claude",
        has_blocks=True,
        has_reset=False,
        refusal_reason="content_filter",
    ),
    "gemini": Dialect(
        env=lambda url: {"GEMINI_API_KEY": DUMMY_KEY, "GOOGLE_GEMINI_BASE_URL": url},
        read=read_gemini,
        default_sampling=Sampling(temperature=1, top_p=0.95),
        login_names=("GEMINI_API_KEY",),
        cli="gemini",
        has_blocks=False,
        has_reset=True,
        refusal_reason="stop",  # the CLI reports every end of an answer alike
        hides_tool_after_text=True,
    ),
    "codex": Dialect(
        env=lambda url: {"OPENAI_API_KEY": DUMMY_KEY, "OPENAI_BASE_URL": f"{url}/v1"},
        read=read_openai,
        login_names=("OPENAI_API_KEY",),
        cli="codex",
        has_blocks=True,
        refusal_reason="content_filter",
        requests_for_a_tool=2,
    ),
    "acp": Dialect(
        env=lambda url: {**AGENT_ENV, "GOOGLE_GEMINI_BASE_URL": url},
        read=read_acp,
        default_sampling=Sampling(temperature=1, top_p=0.95),
        cli="gemini",
        command=lambda program: ("node", str(program), "--acp", "-e", "none", "-m", AGENT_MODEL),
        extra_env=(*AGENT_ENV, "GOOGLE_GEMINI_BASE_URL"),
        lacks=frozenset({"figures", "models", "toolless", "wordless"}),
    ),
    "echo": Dialect(env=lambda url: {}),
}
