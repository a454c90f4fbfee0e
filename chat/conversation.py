"""What a session holds, and how it is written down. Redis and the archive keep the same."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from chat.blocks import dump_blocks, load_blocks
from chat.ids import new_id
from providers.events import Block, FinishReason, Message, Role

TITLE_CHARS = 80


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a conversation. A partial one belongs to a turn that was cancelled: shown, never replayed.

    `tokens` are those of the turn an answer belongs to: of its prompt, and of the answer. `reason` is why it ended.
    """

    role: Role
    blocks: tuple[Block, ...]
    turn_id: str
    at_ms: int
    provider: str = ""
    model: str = ""
    is_partial: bool = False
    tokens: tuple[int, int] | None = None
    reason: FinishReason = "stop"

    def as_message(self) -> Message:
        return Message(self.role, self.blocks)


@dataclass(frozen=True, slots=True)
class Head:
    """A session without its messages. `revision` counts its turns; times are Unix time in milliseconds."""

    uid: str
    owner: str
    session_id: str
    created_ms: int
    updated_ms: int
    ttl_s: int
    revision: int = 0
    title: str = ""
    system: str = ""
    provider: str = ""
    model: str = ""
    chars: int = 0

    @property
    def expires_ms(self) -> int:
        return self.updated_ms + self.ttl_s * 1_000


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session as it is stored."""

    head: Head
    messages: tuple[StoredMessage, ...] = ()

    @property
    def places(self) -> list[int]:
        """Where the messages are that may be replayed: those with any content, of turns that came to their end."""
        return [place for place, message in enumerate(self.messages) if not message.is_partial and any(message.blocks)]

    @property
    def last_turn(self) -> str:
        """The turn of the last message that may be replayed; empty if there is none."""
        places = self.places
        return self.messages[places[-1]].turn_id if places else ""

    def cut(self, keep: int) -> int:
        """How many stored messages stay if `keep` of those that may be replayed do."""
        places = self.places
        return len(self.messages) if keep >= len(places) else places[keep]


def new_conversation(owner: str, session_id: str, *, ttl_s: int) -> Conversation:
    now = now_ms()
    return Conversation(Head(new_id(), owner, session_id, created_ms=now, updated_ms=now, ttl_s=ttl_s))


def title_of(messages: Iterable[Message]) -> str:
    """The first words the user said, on one line."""
    text = next((message.text for message in messages if message.role == "user"), "")
    beginning = text[: TITLE_CHARS * 4]
    if not beginning.isprintable():
        beginning = "".join(it if it.isprintable() else " " for it in beginning)
    words = " ".join(beginning.split())
    return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1] + "…"


# --- as JSON ---------------------------------------------------------------------------------------------------------

_HEAD_FIELDS = tuple(Head.__dataclass_fields__)


def dump_head(head: Head) -> bytes:
    return orjson.dumps({name: getattr(head, name) for name in _HEAD_FIELDS})


def load_head(raw: bytes | str) -> Head:
    found: dict[str, Any] = orjson.loads(raw)
    return Head(**{name: found[name] for name in _HEAD_FIELDS if name in found})


def dump_message(message: StoredMessage) -> bytes:
    """Short names: a long conversation repeats them thousands of times."""
    body: dict[str, Any] = {
        "r": message.role,
        "b": dump_blocks(message.blocks),
        "t": message.turn_id,
        "at": message.at_ms,
    }
    if message.provider or message.model:
        body |= {"p": message.provider, "m": message.model}
    if message.is_partial:
        body["x"] = True
    if message.tokens:
        body["n"] = message.tokens
    if message.reason != "stop":
        body["f"] = message.reason
    return orjson.dumps(body)


def load_message(raw: bytes | str) -> StoredMessage:
    body: dict[str, Any] = orjson.loads(raw)
    return StoredMessage(
        role=body["r"],
        blocks=load_blocks(body["b"]),
        turn_id=body["t"],
        at_ms=body["at"],
        provider=body.get("p", ""),
        model=body.get("m", ""),
        is_partial=body.get("x", False),
        tokens=tuple(body["n"]) if "n" in body else None,
        reason=body.get("f", "stop"),
    )


# --- a turn's end ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """What a turn cost and how it ended; nothing of what was said. Durations in milliseconds.

    `outcome` is `ok`, `cancelled`, or the code of the error. `decision` is JSON: who was chosen, rejected and tried.
    Tokens are those of all that were tried. `is_estimated`: not all of them have told their real counts.
    """

    turn_id: str
    key_id: int
    owner: str
    outcome: str
    started_ms: int
    total_ms: int
    session_uid: str = ""
    request_id: str = ""
    provider: str = ""
    model: str = ""
    route: str = ""
    decision: str = ""
    start: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False
    cost_usd: float | None = None
    first_token_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A turn that is over: its figures, and what it leaves in the session, if anything.

    The first `keep` stored messages stay, `messages` follow; `head` is the session's as it is afterwards.
    """

    figures: Figures
    head: Head | None = None
    keep: int = 0
    messages: tuple[StoredMessage, ...] = ()

    def without_text(self) -> Outcome:
        """What may be kept where conversations may not."""
        return Outcome(replace(self.figures, session_uid=""))


def dump_outcome(outcome: Outcome) -> bytes:
    figures = {name: getattr(outcome.figures, name) for name in Figures.__dataclass_fields__}
    head = dump_head(outcome.head).decode() if outcome.head else None
    messages = [dump_message(message).decode() for message in outcome.messages]
    return orjson.dumps({"figures": figures, "head": head, "keep": outcome.keep, "messages": messages})


def load_outcome(raw: bytes | str) -> Outcome:
    body: dict[str, Any] = orjson.loads(raw)
    head = load_head(body["head"]) if body["head"] else None
    messages = tuple(load_message(it) for it in body["messages"])
    return Outcome(Figures(**body["figures"]), head, body["keep"], messages)
