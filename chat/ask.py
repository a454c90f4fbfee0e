"""What a door asks of the service, and what it learns before the first event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chat.history import Mode
from chat.standing import Standing
from providers.events import Turn
from providers.route import Attempt, Decision

# Which way in a question has come.
Door = Literal["rest", "mcp", "websocket"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question as the caller sent it: `turn` holds its messages, not yet what the session remembers.

    `has_answers`: there were answers among the messages, if only such without a text, so they are a history. Empty
    `provider`, `model` or `session_id` leave the choice to the hub. `fallback` says who else may answer: None leaves it
    to the key, True to the hub's chain, names are the chain. Unless `is_stored`, nothing of it is kept, nor is anything
    remembered before it: no session is opened. `follows` names the turn that has to be the session's last one.
    """

    turn: Turn
    provider: str = ""
    model: str = ""
    session_id: str = ""
    mode: Mode = "auto"
    has_answers: bool = False
    request_id: str = ""
    fallback: bool | tuple[str, ...] | None = None
    is_stored: bool = True
    follows: str = ""
    door: Door = "rest"


@dataclass(frozen=True, slots=True)
class Admitted:
    """First of all events: the request is counted. `session_id` is empty where no session is open: none is wanted, none
    can be kept while Redis is away, or an error comes next. `turn_id` names what the turn leaves in the session."""

    session_id: str
    standing: Standing
    turn_id: str = ""


@dataclass(frozen=True, slots=True)
class Answering:
    """Comes with TurnStarted: `provider` answers, after the attempts before it. `unsupported_sampling` names what it
    can't pass on."""

    provider: str
    decision: Decision
    attempts: tuple[Attempt, ...]
    unsupported_sampling: tuple[str, ...] = ()


# What the service tells beside the events of the turn.
Note = Admitted | Answering
