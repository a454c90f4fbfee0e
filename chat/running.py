"""One turn while it runs: what has come of it so far, and what it leaves behind when it is over."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import reduce

from chat.blocks import chars_of
from chat.conversation import Conversation, Figures, Outcome, StoredMessage, now_ms, title_of
from chat.decisions import as_record, route_text
from chat.errors import ChatError
from chat.history import Merge, Mode, merge
from chat.ids import new_id
from chat.pairing import paired
from chat.sessions import Held, after_turn
from chat.under_way import Stop
from providers.events import (
    Block,
    Event,
    Media,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)
from providers.route import Attempt, Decision

CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Spent:
    """What one provider was used for. `cost_usd` in the usage is the CLI's own figure."""

    provider: str
    model: str
    usage: Usage


@dataclass(slots=True)
class RunningTurn:
    """Collects the events of one turn. `held`, `before` and `merge` are None for a turn without a session.

    `attempts` are of all providers tried, the answering one last.
    """

    key_id: int
    owner: str
    request_id: str
    turn: Turn
    turn_id: str = field(default_factory=new_id)
    door: str = "rest"
    held: Held | None = None
    before: Conversation | None = None
    merge: Merge | None = None
    ttl_s: int = 0
    is_over: bool = False
    stop: Stop = field(default_factory=Stop)
    failure: ChatError | None = None
    provider: str = ""
    model: str = ""
    decision: Decision | None = None
    attempts: list[Attempt] = field(default_factory=list)
    started: TurnStarted | None = None
    finished: TurnFinished | None = None
    _usage: Usage | None = None
    _texts: list[str] = field(default_factory=list)
    _calls: list[ToolCall] = field(default_factory=list)
    _output_chars: int = 0
    _began_ms: int = field(default_factory=now_ms)
    _began_at: float = field(default_factory=time.monotonic)
    _first_token_ms: int | None = None

    def remember(self, before: Conversation, mode: Mode, *, has_answers: bool = False, ttl_s: int) -> None:
        """Put what the session remembers before what was asked."""
        stored = [before.messages[place].as_message() for place in before.places]
        self.before, self.ttl_s = before, ttl_s
        self.merge = merge(stored, self.turn.messages, mode, has_answers=has_answers)
        messages = (*stored[: self.merge.keep], *self.merge.new)
        self.turn = replace(self.turn, messages=messages, system=self.turn.system or before.head.system)

    def pair(self) -> None:
        """Have every call of the conversation answered. Raises BadRequest for a result that belongs to none."""
        messages = paired(self.turn.messages)
        if messages is not self.turn.messages:
            self.turn = replace(self.turn, messages=messages)

    @property
    def began_ms(self) -> int:
        """Unix time in ms."""
        return self._began_ms

    @property
    def output_chars(self) -> int:
        """How much has come of the answer."""
        return self._output_chars

    @property
    def session_id(self) -> str:
        return self.before.head.session_id if self.before else ""

    def note(self, event: Event) -> None:
        match event:
            case TurnStarted(model, provider):
                self.started = event
                self.model, self.provider = model, provider
            case TextDelta(text):
                self._texts.append(text)
                self._note_output(text)
            case ReasoningDelta(text):
                self._note_output(text)
            case Working():
                self._note_output("")
            case ToolCall(arguments=text):
                self._calls.append(event)
                self._note_output(text)
            case Usage():
                self._usage = event
            case TurnFinished(_, usage):
                self.finished = event
                self._usage = usage or self._usage

    def _note_output(self, text: str) -> None:
        self._output_chars += len(text)
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began_at) * 1_000)

    @property
    def has_answer(self) -> bool:
        return any(self._texts) or bool(self._calls)

    # --- what it used ----------------------------------------------------------------------------------------------

    @property
    def spent(self) -> list[Spent]:
        """What each provider was used for that took the prompt: the one that answered, and those that failed before."""
        used = [
            Spent(it.provider, it.model, it.usage or self._guessed())
            for it in self._failed
            if it.usage or it.is_accepted
        ]
        answered = self._answered()
        return [*used, Spent(self.provider, self.model, answered)] if answered else used

    @property
    def _failed(self) -> list[Attempt]:
        return self.attempts[:-1] if self.started else self.attempts

    def _answered(self) -> Usage | None:
        """The real figures of a turn that came to its end; of any other what is known, and a guess at the rest."""
        if self.finished is not None or self.started is None:
            return self._usage
        known = self._usage or self._guessed()
        return replace(known, output_tokens=max(known.output_tokens, self._guess(self._output_chars)))

    @property
    def usage(self) -> Usage | None:
        """All that was spent, together; None if that is nothing."""
        spent = [it.usage for it in self.spent]
        return _sum(spent) if spent else None

    @property
    def is_estimated(self) -> bool:
        is_cut = self.started is not None and self.finished is None
        return is_cut or any(it.is_accepted and it.usage is None for it in self._failed)

    def _guessed(self) -> Usage:
        return Usage(input_tokens=self._guess(self._prompt_chars()), output_tokens=0)

    def _prompt_chars(self) -> int:
        spoken = [block for message in self.turn.messages for block in message.blocks if not isinstance(block, Media)]
        offered = sum(len(tool.schema) + len(tool.description) for tool in self.turn.toolbox.tools)
        return len(self.turn.system) + chars_of(spoken) + offered

    @staticmethod
    def _guess(chars: int) -> int:
        return math.ceil(chars / CHARS_PER_TOKEN)

    # --- what it leaves --------------------------------------------------------------------------------------------

    def outcome(self, ended: str, *, cost_usd: float | None) -> Outcome:
        """The turn as it ended: `ok`, `cancelled` or an error's code.

        A turn that came to its end leaves question and answer, one cancelled in mid-answer the same but marked, any
        other nothing.
        """
        is_partial = ended == "cancelled" and self.has_answer
        if self.held is None or not (ended == "ok" or is_partial):
            return Outcome(self._figures(ended, cost_usd))
        assert self.before is not None and self.merge is not None
        figures = self._figures(ended, cost_usd, session_uid=self.before.head.uid)
        # A question that was cancelled replaces nothing.
        keep = len(self.before.messages) if is_partial else self.before.cut(self.merge.keep)
        new = self.merge.new[-1:] if is_partial else self.merge.new
        return self._with_messages(figures, keep, self._stored(new, is_partial))

    def _with_messages(self, figures: Figures, keep: int, messages: tuple[StoredMessage, ...]) -> Outcome:
        assert self.before is not None
        before = self.before.head
        whole = (*self.before.messages[:keep], *messages)
        head = after_turn(
            before,
            updated_ms=max(now_ms(), before.updated_ms),
            ttl_s=self.ttl_s,
            title=before.title or title_of(message.as_message() for message in messages),
            system=before.system if messages[-1].is_partial else self.turn.system,
            provider=self.provider,
            model=self.model,
            chars=sum(chars_of(message.blocks) for message in whole),
        )
        return Outcome(figures, head, keep, messages)

    def _stored(self, new: tuple[Message, ...], is_partial: bool) -> tuple[StoredMessage, ...]:
        now, usage = now_ms(), self._answered()
        tokens = (usage.input_tokens, usage.output_tokens) if usage else None
        asked = [StoredMessage(it.role, it.blocks, self.turn_id, self._began_ms, is_partial=is_partial) for it in new]
        answer = StoredMessage(
            role="assistant",
            blocks=self._answer_blocks(),
            turn_id=self.turn_id,
            at_ms=now,
            provider=self.provider,
            model=self.model,
            is_partial=is_partial,
            tokens=tokens,
            reason=self.finished.reason if self.finished else "stop",
        )
        return (*asked, answer)

    def _answer_blocks(self) -> tuple[Block, ...]:
        text = "".join(self._texts)
        return (*((text,) if text or not self._calls else ()), *self._calls)

    def _route(self) -> str:
        if self.decision is None:
            return ""
        return route_text(self.decision, answered=self.provider if self.started else "")

    def _figures(self, ended: str, cost_usd: float | None, *, session_uid: str = "") -> Figures:
        usage = self.usage or Usage(0, 0)
        return Figures(
            turn_id=self.turn_id,
            key_id=self.key_id,
            owner=self.owner,
            outcome=ended,
            started_ms=self._began_ms,
            total_ms=self._elapsed_ms(),
            session_uid=session_uid,
            request_id=self.request_id,
            provider=self.provider,
            model=self.model,
            route=self._route(),
            decision=as_record(self.decision, self.attempts) if self.decision else "",
            start=self.started.start if self.started else "",
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            is_estimated=self.is_estimated,
            cost_usd=cost_usd,
            first_token_ms=self._first_token_ms,
        )


def _sum(usages: list[Usage]) -> Usage:
    """All together; a cost would hold only for some of them."""
    total = reduce(Usage.plus, usages)
    return total if total.cost_usd is None else replace(total, cost_usd=None)
