"""What a client may say over the WebSocket, and how it is read: bounded, and with one kind of failure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chat.answering import media_limits
from chat.conversations import MAX_PAGE
from chat.errors import BadRequest
from chat.tool_schemas import Effort
from chat.wire.media import check_count, read_media
from providers.events import Block, Message, Sampling, Turn

# Whatever isn't a question is short.
SHORT_CHARS = 64 * 1024
MAX_ATTACHMENTS = 100
SHOWN_CHARS = 100_000

Id = Annotated[str, Field(max_length=100)] | int | None
SessionName = Annotated[str, Field(max_length=128)]
TurnName = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_-]*$")]


class Said(BaseModel):
    """Any message: `id` comes back as `re` with what is answered to it."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: Id = None


class Hello(Said):
    type: Literal["hello"]
    key: Annotated[str, Field(max_length=500)] = ""


class Attachment(BaseModel):
    """An image or a PDF as a data URL."""

    model_config = ConfigDict(extra="ignore", strict=True)
    url: str
    name: Annotated[str, Field(max_length=200)] = ""


class AskSaid(Said):
    type: Literal["ask"]
    text: str = ""
    attachments: Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS)] = []
    provider: Annotated[str, Field(max_length=50)] = ""
    model: Annotated[str, Field(max_length=200)] = ""
    session: SessionName = ""
    mode: Literal["auto", "append", "replace"] = "append"
    system: str = ""
    reasoning_effort: Effort | None = None
    turn: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")] | None = None


class Stop(Said):
    type: Literal["stop"]
    turn: TurnName


class Resume(Said):
    type: Literal["resume"]
    turn: TurnName = ""
    session: SessionName = ""
    after: Annotated[int, Field(ge=0, le=2**53)] = 0


class ListSessions(Said):
    type: Literal["sessions"]
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 30
    after: Annotated[str, Field(max_length=13_000)] = ""


class OpenSession(Said):
    type: Literal["session"]
    session: Annotated[str, Field(min_length=1, max_length=128)]


class DeleteSession(Said):
    type: Literal["delete"]
    session: Annotated[str, Field(min_length=1, max_length=128)]


class ListProviders(Said):
    type: Literal["providers"]


class Ping(Said):
    type: Literal["ping"]


Message_ = Annotated[
    Hello | AskSaid | Stop | Resume | ListSessions | OpenSession | DeleteSession | ListProviders | Ping,
    Field(discriminator="type"),
]
READER: TypeAdapter[Any] = TypeAdapter(Message_)


class Unreadable(BadRequest):
    """What came is no message of the protocol. `re` is its id, if it has one."""

    def __init__(self, message: str, *, param: str | None = None, re: Id = None) -> None:
        super().__init__(message, param=param)
        self.re = re


def read(text: str | None) -> Said:
    """Raises Unreadable."""
    if text is None:
        raise Unreadable("messages are JSON texts, no bytes")
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise Unreadable("this is no JSON") from exc
    if not isinstance(raw, dict):
        raise Unreadable("a message is a JSON object with a `type`")
    given = raw.get("id")
    re = given if isinstance(given, (str, int)) and len(str(given)) <= 100 else None
    if raw.get("type") != "ask" and len(text) > SHORT_CHARS:
        raise Unreadable(f"only a question may be longer than {SHORT_CHARS} characters", re=re)
    try:
        said: Said = READER.validate_python(raw)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(it) for it in first["loc"][1:]) or "type"
        raise Unreadable(f"{where}: {first['msg']}"[:300], param=where, re=re) from exc
    return said


def to_turn(said: AskSaid) -> Turn:
    """Raises BadRequest, Unsupported."""
    limits = media_limits()
    check_count(len(said.attachments), limits)
    files = [
        read_media(it.url, limits, f"attachments.{place}.url", name=it.name)
        for place, it in enumerate(said.attachments)
    ]
    text: tuple[Block, ...] = (said.text,) if said.text.strip() else ()
    if not text and not files:
        raise BadRequest("a question has a text or an attachment", param="text")
    return Turn(
        messages=(Message("user", (*text, *files)),),
        system=said.system,
        sampling=Sampling(reasoning_effort=said.reasoning_effort),
    )


def question_of(said: AskSaid, turn: Turn) -> dict[str, Any]:
    """What is shown of a question to those who watch its turn; of a long one the beginning."""
    files = [{"type": it.mime_type, "name": it.name or None} for it in turn.messages[-1].media]
    return {
        "text": said.text[:SHOWN_CHARS],
        "is_cut": len(said.text) > SHOWN_CHARS,
        "files": files,
        "provider": said.provider,
        "model": said.model,
    }
