"""What a vendor received, in the words of the engine; and how each CLI is told to talk to the stand-in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from providers.events import Message, Sampling
from tests.vendor_api import Received

DUMMY_KEY = "dummy-key-of-the-tests"

# What claude puts beside the caller's system prompt, and beside the conversation. None of it holds a text of others.
CLAUDE_SYSTEM = (r"x-anthropic-billing-header: [^\n]*", r"You are a Claude agent, built on Anthropic's [^\n]*")
CLAUDE_NOTE = r"(# Environment\n.*|Today's date is [0-9-]+\.)"

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
        texts = (content,) if isinstance(content, str) else tuple(block["text"] for block in content)
        if message["role"] == "system":
            assert all(re.fullmatch(CLAUDE_NOTE, text, re.DOTALL) for text in texts), texts
        else:
            conversation.append(Message(message["role"], texts))
    return conversation


def read_gemini(received: Received) -> Upstream:
    body = received.body
    config = body["generationConfig"]
    system = "".join(part["text"] for part in body.get("systemInstruction", {"parts": ()})["parts"])
    return Upstream(
        model=re.findall(r"models/([^:/]+):", received.path)[0],
        system="" if system == GEMINI_NOTHING else system,
        messages=tuple(
            Message("assistant" if it["role"] == "model" else "user", tuple(part["text"] for part in it["parts"]))
            for it in body["contents"]
        ),
        sampling=Sampling(
            max_tokens=config.get("maxOutputTokens"),
            temperature=config.get("temperature"),
            top_p=config.get("topP"),
            stop=tuple(config.get("stopSequences", ())),
        ),
        # One empty list of functions stands for none.
        tools=tuple(it["name"] for tool in body.get("tools", ()) for it in tool.get("functionDeclarations", ())),
    )


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one CLI and its vendor are to be spoken with.

    `default_sampling` is what goes upstream when the caller asks for nothing. `has_blocks` tells whether the blocks of
    a message stay apart upstream, `has_reset` whether an answered 429 names its reset to an API key's owner.
    """

    env: Callable[[str], Mapping[str, str]]
    read: Callable[[Received], Upstream]
    default_sampling: Sampling
    login_names: tuple[str, ...]
    has_blocks: bool
    has_reset: bool
    refusal_reason: str
    hides_tool_after_text: bool = False

    def bare_env(self, url: str) -> dict[str, str]:
        """The address of the vendor without any login."""
        return {name: value for name, value in self.env(url).items() if name not in self.login_names}


DIALECTS: Mapping[str, Dialect] = {
    "claude": Dialect(
        env=lambda url: {"ANTHROPIC_API_KEY": DUMMY_KEY, "ANTHROPIC_BASE_URL": url},
        read=read_anthropic,
        default_sampling=Sampling(max_tokens=128_000),
        login_names=("ANTHROPIC_API_KEY",),
        has_blocks=True,
        has_reset=False,
        refusal_reason="content_filter",
    ),
    "gemini": Dialect(
        env=lambda url: {"GEMINI_API_KEY": DUMMY_KEY, "GOOGLE_GEMINI_BASE_URL": url},
        read=read_gemini,
        default_sampling=Sampling(temperature=1, top_p=0.95),
        login_names=("GEMINI_API_KEY",),
        has_blocks=False,
        has_reset=True,
        refusal_reason="stop",  # the CLI reports every end of an answer alike
        hides_tool_after_text=True,
    ),
}
