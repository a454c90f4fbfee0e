"""Ids of calls as vendors take them. A history may be of another one, with ids of any text, and one may come twice."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from hashlib import sha256

from providers.events import Block, Message, ToolCall, ToolResult

CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class CallIds:
    """The ids upstream of a conversation's calls, given as the calls come and taken as their results do."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._waiting: defaultdict[str, list[str]] = defaultdict(list)

    def called(self, call_id: str) -> str:
        given = call_id
        if not CALL_ID.fullmatch(given) or given in self._used:
            given = "call_" + sha256(f"{len(self._used)} {call_id}".encode(errors="surrogatepass")).hexdigest()[:32]
        self._used.add(given)
        self._waiting[call_id].append(given)
        return given

    def answered(self, call_id: str) -> str:
        waiting = self._waiting[call_id]
        return waiting.pop(0) if waiting else call_id

    def renamed(self, message: Message) -> Message:
        """The message with its calls' and results' ids as they are upstream."""
        return replace(message, blocks=tuple(map(self._block, message.blocks)))

    def _block(self, block: Block) -> Block:
        match block:
            case ToolCall():
                return replace(block, id=self.called(block.id))
            case ToolResult():
                return replace(block, call_id=self.answered(block.call_id))
        return block
