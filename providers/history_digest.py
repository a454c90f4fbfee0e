"""The fingerprint of a conversation, by which a process that still holds it is recognised."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import orjson

from providers.events import Media, Message, ToolCall, ToolResult, Turn


def history_digest(turn: Turn) -> bytes:
    """What a process has to hold for this turn to be the next: all up to the last answer, said with its model.

    The model counts because a CLI told of another one in the middle may put words of its own about that between the
    messages.
    """
    return extended(sha256(b"model " + (turn.model or "").encode()).digest(), *turn.messages[: -len(turn.question)])


def extended(digest: bytes, *messages: Message) -> bytes:
    """The digest of a conversation with these messages added."""
    for message in messages:
        chained = sha256(digest)
        chained.update(message.role.ljust(10).encode())
        chained.update(message.text.encode(errors="surrogatepass"))
        for block in message.blocks if not message.is_plain else ():
            if not isinstance(block, str):
                chained.update(_fingerprint(block))
        digest = chained.digest()
    return digest


def _fingerprint(block: Media | ToolCall | ToolResult) -> bytes:
    """Arguments count by their meaning: clients write them down anew."""
    if isinstance(block, ToolCall):
        block = replace(block, arguments=orjson.dumps(block.input, option=orjson.OPT_SORT_KEYS).decode())
    return repr(block).encode(errors="surrogatepass")
