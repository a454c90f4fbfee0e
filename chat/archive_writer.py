"""The archive's side of the database: turns written in groups, conversations read and erased.

Writing may be repeated, and its order does not matter: several hubs may write the same turns, late or again. A message
carries the revision its turn has made of the session, so that of two turns the later one decides what is replaced.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import get_args

import orjson
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from chat import rollups
from chat.blocks import dump_blocks, load_blocks
from chat.conversation import Conversation, Figures, Head, Outcome, StoredMessage
from chat.models import ApiKey, Message, Session, TurnRecord
from chat.rows import insert
from providers.events import FinishReason, Role

logger = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_COUNT = 2**31 - 1
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "tool": "tool"}
REASONS: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
MAX_COST_USD = 999_999
MAX_DECISION_CHARS = 20_000
# A deleted session's mark stays longer than any turn that was under way when it was deleted.
TOMBSTONE = timedelta(days=2)
# What a record raises that no database takes, now or later; anything else of Django's is the database's own trouble.
NO_GOOD = (DataError, IntegrityError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
HEAD_FIELDS = ("title", "system", "provider", "model", "message_count", "revision", "chars", "ttl_s")
UPDATED_FIELDS = (*HEAD_FIELDS, "updated_at", "expires_at")


# --- writing ---------------------------------------------------------------------------------------------------------


def write_outcomes(outcomes: Sequence[Outcome]) -> set[str]:
    """Write turns, in one transaction where nothing is wrong with them. Returns the ids of those that can't be written.

    Raises what Django raises for a database that is away, locked or full.
    """
    try:
        _write(outcomes)
        return set()
    except NO_GOOD:
        return {it.figures.turn_id for it in outcomes if not _is_written_alone(it)}


def _is_written_alone(outcome: Outcome) -> bool:
    try:
        _write([outcome], checks_keys=True)
    except NO_GOOD:
        logger.exception("turn %s can't be written to the database", outcome.figures.turn_id)
        return False
    return True


def _write(outcomes: Sequence[Outcome], *, checks_keys: bool = False) -> None:
    with transaction.atomic():
        rollups.lock()
        new = _unwritten(outcomes)
        # What another hub writes meanwhile is found to be there when the locks come free: nothing is inserted twice.
        rows = _locked_sessions([it.head for it in new if it.head])
        _write_figures([it.figures for it in new], checks_keys=checks_keys)
        _write_sessions(new, rows)


def _unwritten(outcomes: Sequence[Outcome]) -> list[Outcome]:
    ids = [it.figures.turn_id for it in outcomes]
    known = set(TurnRecord.objects.filter(pk__in=ids).order_by().values_list("pk", flat=True))
    return [it for it in outcomes if it.figures.turn_id not in known]


def _write_figures(figures: Sequence[Figures], *, checks_keys: bool) -> None:
    """A key may have been deleted while its turn ran; the turn counts nevertheless. As that is rare, the database
    has to refuse the group first."""
    keys = {it.key_id for it in figures}
    if checks_keys:
        keys = set(ApiKey.objects.filter(pk__in=keys).values_list("pk", flat=True))
    records = [_record(it, it.key_id if it.key_id in keys else None) for it in figures]
    records.sort(key=lambda it: it.id)
    insert(TurnRecord, records)
    rollups.count({it.id: it for it in records}.values())


def _locked_sessions(heads: Sequence[Head]) -> dict[str, Session | _NewSession]:
    """The rows of sessions by uid, those that are not there yet as well.

    Every hub locks in the order of the uids, new rows before old ones, so that no two wait for each other.
    """
    by_uid = {it.uid: it for it in heads}
    uids = sorted(by_uid)
    if uids and connection.features.has_select_for_update:
        insert(Session, [_new_session(by_uid[uid]) for uid in uids])
    found = Session.objects.select_for_update().filter(pk__in=uids).order_by("uid") if uids else ()
    rows = {row.uid: row for row in found}
    return {uid: rows.get(uid) or _new_session(by_uid[uid]) for uid in uids}


def _write_sessions(outcomes: Sequence[Outcome], rows: Mapping[str, Session | _NewSession]) -> None:
    edits = {uid: _Edit(row) for uid, row in rows.items() if row.deleted_at is None}
    with_head = [(it.head, it) for it in outcomes if it.head and it.head.uid in edits]
    for head, outcome in sorted(with_head, key=lambda it: (it[0].uid, it[0].revision)):
        edits[head.uid].apply(head, outcome)
    insert(Session, [it.row for it in edits.values()], update=UPDATED_FIELDS)
    insert(Message, [it for edit in edits.values() for it in edit.messages])


# Columns alone: to make a model's instance takes several times as long, and each turn makes four rows.


@dataclass(slots=True)
class _NewSession:
    """The columns of a Session; see there."""

    uid: str
    owner: str
    session_id: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    title: str = ""
    system: str = ""
    provider: str = ""
    model: str = ""
    message_count: int = 0
    revision: int = 0
    chars: int = 0
    ttl_s: int = 0
    deleted_at: datetime | None = None


@dataclass(slots=True)
class _NewMessage:
    """The columns of a Message; see there."""

    session_id: str
    turn_id: str
    index: int
    position: int
    revision: int
    role: str
    content: str
    provider: str
    model: str
    is_partial: bool
    reason: str
    created_at: datetime
    replaced_at: datetime | None = None


@dataclass(slots=True)
class _Edit:
    """What becomes of one session: its row, and the messages that are to be inserted."""

    row: Session | _NewSession
    messages: list[_NewMessage] = field(default_factory=list)

    def apply(self, head: Head, outcome: Outcome) -> None:
        """Add a turn. One that comes late gives way to those that were built on it."""
        is_late = head.revision <= self.row.revision
        ends_at = self._replaced_from(head.revision) if is_late else None
        if outcome.keep < self.row.message_count and ends_at != 0:
            self._replace(head.revision, outcome.keep)
        for message in _messages(head, outcome):
            if ends_at is not None and message.position >= ends_at:
                message.replaced_at = timezone.now()
            self.messages.append(message)
        if not is_late:
            _set_head(self.row, head, message_count=outcome.keep + len(outcome.messages))

    def _replaced_from(self, revision: int) -> int:
        """The first place that turns after this one have taken; 0 if another turn has taken its revision."""
        stored = Message.objects.filter(session_id=self.row.uid, revision__gte=revision).values_list(
            "revision", "position"
        )
        later = [*stored, *((it.revision, it.position) for it in self.messages if it.revision >= revision)]
        if any(it == revision for it, _ in later):
            return 0
        return min((position for _, position in later), default=0)

    def _replace(self, revision: int, keep: int) -> None:
        """Mark what a branch replaces; it stays in the archive."""
        now = timezone.now()
        stored = Message.objects.filter(session_id=self.row.uid, replaced_at=None)
        stored.filter(revision__lt=revision, position__gte=keep).update(replaced_at=now)
        for message in self.messages:
            if message.revision < revision and message.position >= keep and message.replaced_at is None:
                message.replaced_at = now


# --- reading ---------------------------------------------------------------------------------------------------------


def find_conversation(owner: str, session_id: str) -> Conversation | None:
    row = _live(owner).filter(session_id=session_id).order_by("-updated_at").first()
    messages = list(_standing(row.uid)) if row else []
    if row is None or _is_whole(row, messages):
        return _conversation(row, messages)
    return _mended(row.uid)


def find_heads(owner: str, before_ms: int | None, limit: int) -> list[Head]:
    """Live sessions, newest first, those last used at or before a time."""
    # A session may have been begun anew while the database was away; then its id names the newer one.
    newer = _live(owner).filter(session_id=OuterRef("session_id"), updated_at__gt=OuterRef("updated_at"))
    found = _live(owner).exclude(Exists(newer)).order_by("-updated_at")
    if before_ms is not None:
        found = found.filter(updated_at__lte=_time(before_ms))
    return [_head(row) for row in found[:limit]]


def _live(owner: str) -> QuerySet[Session]:
    return Session.objects.filter(owner=owner, deleted_at=None, expires_at__gt=timezone.now(), revision__gt=0)


def _standing(uid: str) -> QuerySet[Message]:
    return Message.objects.filter(session_id=uid, replaced_at=None).order_by("position", "revision", "index")


def _is_whole(row: Session, messages: Sequence[Message]) -> bool:
    """Whether the messages are all there, and of the same revision as the row, which was read before them."""
    places = [it.position for it in messages]
    return places == list(range(row.message_count)) and (not messages or messages[-1].revision == row.revision)


def _mended(uid: str) -> Conversation | None:
    """Close the gaps a lost turn has left: from now on, a message's place in the conversation is that in the list."""
    with transaction.atomic():
        row = Session.objects.select_for_update().filter(pk=uid, deleted_at=None).first()
        messages = list(_standing(uid)) if row else []
        if row is None or _is_whole(row, messages):
            return _conversation(row, messages)
        logger.warning("session %s has lost a turn in the archive", uid)
        for place, message in enumerate(messages):
            message.position = place
        Message.objects.bulk_update(messages, ["position"], batch_size=200)
        row.message_count = len(messages)
        row.save(update_fields=["message_count"])
        return _conversation(row, messages)


# --- erasing ---------------------------------------------------------------------------------------------------------


def erase_session(owner: str, session_id: str, known_uids: Collection[str]) -> list[str]:
    """Erase all texts of a session and mark it as deleted, also where a hub has still to write it.

    Returns the uids of those that were not deleted before.
    """
    now = timezone.now()
    with transaction.atomic():
        times = {"created_at": now, "updated_at": now, "expires_at": now}
        insert(Session, [Session(uid=uid, owner=owner, session_id=session_id, **times) for uid in sorted(known_uids)])
        named = Q(session_id=session_id) | Q(pk__in=known_uids)
        rows = Session.objects.select_for_update().filter(named, owner=owner, deleted_at=None).order_by("uid")
        uids = [row.uid for row in rows]
        Message.objects.filter(session_id__in=uids).delete()
        Session.objects.filter(pk__in=uids).update(
            title="", system="", message_count=0, chars=0, deleted_at=now, expires_at=now + TOMBSTONE
        )
    return uids


def purge_expired(before: datetime, limit: int) -> int:
    """Delete some of the sessions that expired before a time, with their messages; how many."""
    with transaction.atomic():
        expired = Session.objects.filter(expires_at__lt=before).order_by("expires_at").values("pk")[:limit]
        uids = sorted(row["pk"] for row in expired)
        rows = Session.objects.select_for_update().filter(pk__in=uids, expires_at__lt=before).order_by("uid")
        locked = [row.uid for row in rows.only("uid")]
        Message.objects.filter(session_id__in=locked).delete()
        Session.objects.filter(pk__in=locked).delete()
    return len(locked)


# --- rows ------------------------------------------------------------------------------------------------------------


def _record(figures: Figures, key_id: int | None) -> SimpleNamespace:
    """The columns of a TurnRecord, all of them."""
    return SimpleNamespace(
        id=figures.turn_id,
        key_id=key_id,
        owner=_text(figures.owner, 100),
        session_uid=figures.session_uid,
        request_id=_text(figures.request_id, 100),
        provider=_text(figures.provider, 50),
        model=_text(figures.model, 200),
        route=_text(figures.route, 200),
        decision=_text(figures.decision, MAX_DECISION_CHARS),
        start=_text(figures.start, 10),
        outcome=_text(figures.outcome, 40),
        input_tokens=_count(figures.input_tokens),
        output_tokens=_count(figures.output_tokens),
        cached_tokens=_count(figures.cached_tokens),
        reasoning_tokens=_count(figures.reasoning_tokens),
        is_estimated=figures.is_estimated,
        cost_usd=_cost(figures.cost_usd),
        first_token_ms=None if figures.first_token_ms is None else _count(figures.first_token_ms),
        total_ms=_count(figures.total_ms),
        started_at=_time(figures.started_ms),
    )


def _new_session(head: Head) -> _NewSession:
    """The row of a session of which no turn is written yet."""
    created_at = _time(head.created_ms)
    return _NewSession(
        uid=head.uid,
        owner=head.owner,
        session_id=head.session_id,
        created_at=created_at,
        updated_at=created_at,
        expires_at=_time(head.expires_ms),
    )


def _set_head(row: Session | _NewSession, head: Head, *, message_count: int) -> None:
    row.title = _text(head.title, 120)
    row.system = orjson.dumps(head.system).decode() if head.system else ""
    row.provider = _text(head.provider, 50)
    row.model = _text(head.model, 200)
    row.message_count = message_count
    row.revision = head.revision
    row.chars = head.chars
    row.ttl_s = head.ttl_s
    row.updated_at = _time(head.updated_ms)
    row.expires_at = _time(head.expires_ms)


def _head(row: Session) -> Head:
    return Head(
        uid=row.uid,
        owner=row.owner,
        session_id=row.session_id,
        created_ms=_ms(row.created_at),
        updated_ms=_ms(row.updated_at),
        ttl_s=row.ttl_s,
        revision=row.revision,
        title=row.title,
        system=orjson.loads(row.system) if row.system else "",
        provider=row.provider,
        model=row.model,
        chars=row.chars,
    )


def _messages(head: Head, outcome: Outcome) -> Iterable[_NewMessage]:
    for index, message in enumerate(outcome.messages):
        yield _NewMessage(
            session_id=head.uid,
            turn_id=outcome.figures.turn_id,
            index=index,
            position=outcome.keep + index,
            revision=head.revision,
            role=message.role,
            content=orjson.dumps(dump_blocks(message.blocks)).decode(),
            provider=_text(message.provider, 50),
            model=_text(message.model, 200),
            is_partial=message.is_partial,
            reason=message.reason,
            created_at=_time(message.at_ms),
        )


def _conversation(row: Session | None, messages: Sequence[Message]) -> Conversation | None:
    if row is None:
        return None
    answers = {it.turn_id for it in messages if _is_answer(it)}
    figures = TurnRecord.objects.filter(pk__in=answers).values_list("pk", "input_tokens", "output_tokens")
    tokens = {turn_id: (used_in, used_out) for turn_id, used_in, used_out in figures if used_in or used_out}
    return Conversation(_head(row), tuple(_stored(it, tokens.get(it.turn_id)) for it in messages))


def _stored(message: Message, tokens: tuple[int, int] | None) -> StoredMessage:
    return StoredMessage(
        role=ROLES.get(message.role, "user"),
        blocks=load_blocks(orjson.loads(message.content)),
        turn_id=message.turn_id,
        at_ms=_ms(message.created_at),
        provider=message.provider,
        model=message.model,
        is_partial=message.is_partial,
        reason=REASONS.get(message.reason, "stop"),
        tokens=tokens if _is_answer(message) else None,
    )


def _is_answer(message: Message) -> bool:
    """Whether a provider gave it; else it came with a caller's history."""
    return message.role == "assistant" and bool(message.provider)


def _text(text: str, most: int) -> str:
    """As a text column takes it: PostgreSQL knows no NUL, and a name that is too long must not cost the turn."""
    if text.isascii() and text.isprintable():
        return text[:most]
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()[:most]


def _count(number: int) -> int:
    return min(max(number, 0), MAX_COUNT)


def _cost(dollars: float | None) -> Decimal | None:
    if dollars is None or not math.isfinite(dollars):
        return None
    return Decimal(str(min(max(dollars, 0), MAX_COST_USD)))


def _time(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def _ms(time: datetime) -> int:
    return (time - EPOCH) // timedelta(milliseconds=1)
