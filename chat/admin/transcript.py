"""Conversations as pages and as JSON, from the archive or from Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import orjson
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.http import content_disposition_header

from chat.admin.live import LiveMessages
from chat.blocks import as_text, load_blocks
from chat.conversation import Head, StoredMessage
from chat.models import Message, Session, TurnRecord

PER_PAGE = 100
# A longer text is folded under its beginning; of one that is longer still the export has the rest.
FOLDED_CHARS, FOLDED_LINES = 2_000, 30
PREVIEW_CHARS = 300
MOST_SHOWN_CHARS = 50_000
EXPORTED_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A session without its messages."""

    uid: str
    owner: str
    session_id: str
    title: str
    system: str
    provider: str
    model: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    deleted_at: datetime | None = None

    @classmethod
    def of_row(cls, row: Session) -> About:
        system = orjson.loads(row.system) if row.system else ""
        names = ("uid", "owner", "session_id", "title", "provider", "model")
        times = ("created_at", "updated_at", "expires_at", "deleted_at")
        return cls(system=system, **{name: getattr(row, name) for name in (*names, *times)})

    @classmethod
    def of_head(cls, head: Head) -> About:
        names = ("uid", "owner", "session_id", "title", "system", "provider", "model")
        return cls(
            created_at=time_of(head.created_ms),
            updated_at=time_of(head.updated_ms),
            expires_at=time_of(head.expires_ms),
            **{name: getattr(head, name) for name in names},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One message as it is shown. `tokens` are those of the turn an answer belongs to: of its prompt, of the answer."""

    role: str
    text: str
    turn_id: str
    created_at: datetime
    provider: str
    model: str
    is_partial: bool
    tokens: tuple[int, int] | None = None
    replaced_at: datetime | None = None

    @property
    def is_long(self) -> bool:
        return len(self.text) > FOLDED_CHARS or self.text.count("\n") >= FOLDED_LINES

    @property
    def preview(self) -> str:
        return self.text[:PREVIEW_CHARS]

    @property
    def shown(self) -> str:
        return self.text[:MOST_SHOWN_CHARS]

    @property
    def chars(self) -> int:
        return len(self.text)

    @property
    def chars_left(self) -> int:
        return max(0, len(self.text) - MOST_SHOWN_CHARS)


class ArchivedLines(Sequence[Line]):
    """A session's messages in the order they were said, so that what a branch has replaced comes before the branch."""

    def __init__(self, row: Session) -> None:
        ordered = Message.objects.filter(session=row).order_by("revision", "position", "id")
        self._ids = list(ordered.values_list("pk", flat=True))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, place: int | slice) -> list[Line]:  # type: ignore[override]
        assert isinstance(place, slice)
        found = Message.objects.in_bulk(self._ids[place])
        # One that was erased meanwhile is missing.
        messages = [found[pk] for pk in self._ids[place] if pk in found]
        tokens = _tokens_of({it.turn_id for it in messages if _is_answer(it)})
        return [_archived(it, tokens.get(it.turn_id) if _is_answer(it) else None) for it in messages]


class LiveLines(Sequence[Line]):
    """A live session's messages. Raises StoreUnavailable."""

    def __init__(self, owner: str, session_id: str) -> None:
        self._messages = LiveMessages(owner, session_id)

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, place: int | slice) -> list[Line]:  # type: ignore[override]
        return [_live(it) for it in self._messages[place]]


def _is_answer(message: Message) -> bool:
    """Whether a provider gave it; else it came with a caller's history."""
    return message.role == "assistant" and bool(message.provider)


def _tokens_of(turn_ids: set[str]) -> dict[str, tuple[int, int]]:
    found = TurnRecord.objects.filter(pk__in=turn_ids).values_list("pk", "input_tokens", "output_tokens")
    return {turn_id: (used_in, used_out) for turn_id, used_in, used_out in found if used_in or used_out}


def _archived(message: Message, tokens: tuple[int, int] | None) -> Line:
    names = ("role", "turn_id", "created_at", "provider", "model", "is_partial", "replaced_at")
    text = as_text(load_blocks(orjson.loads(message.content)))
    return Line(text=text, tokens=tokens, **{name: getattr(message, name) for name in names})


def _live(message: StoredMessage) -> Line:
    names = ("role", "turn_id", "provider", "model", "is_partial", "tokens")
    text = as_text(message.blocks)
    return Line(text=text, created_at=time_of(message.at_ms), **{name: getattr(message, name) for name in names})


def time_of(moment_ms: int) -> datetime:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC)


# --- export ----------------------------------------------------------------------------------------------------------


def export(request: HttpRequest, about: About, lines: Sequence[Line]) -> StreamingHttpResponse:
    """The whole conversation as a JSON file, sent while it is read."""
    pieces = _pieces(about, lines)
    # Given a synchronous iterator, Django's ASGI handler reads all of it before it sends anything.
    body = _async_pieces(pieces) if isinstance(request, ASGIRequest) else pieces
    name = f"session-{about.session_id.replace(':', '-')}.json"
    headers = {"Content-Disposition": content_disposition_header(True, name) or "attachment"}
    return StreamingHttpResponse(body, content_type="application/json", headers=headers)


def _pieces(about: About, lines: Sequence[Line]) -> Iterator[bytes]:
    yield orjson.dumps(asdict(about))[:-1] + b',"messages":['
    for start in range(0, len(lines), EXPORTED_AT_ONCE):
        some = lines[start : start + EXPORTED_AT_ONCE]
        yield (b",\n" if start else b"\n") + b",\n".join(orjson.dumps(asdict(it)) for it in some)
    yield b"\n]}\n"


async def _async_pieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    read = sync_to_async(lambda: next(pieces, b""))
    while piece := await read():
        yield piece
