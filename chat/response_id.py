"""Ids of answers: they tell the turn and its session, so that an answer is found again without being kept twice."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chat.sessions import SESSION_ID

FORM = re.compile(rf"resp_(b?)([0-9a-f]{{32}})(?:_({SESSION_ID.pattern}))?")
# How many of a turn id's digits are its time, in milliseconds.
TIME_DIGITS = 12


@dataclass(frozen=True, slots=True)
class ResponseId:
    """`session_id` is empty for an answer that is kept nowhere."""

    turn_id: str
    session_id: str = ""
    is_background: bool = False

    def __str__(self) -> str:
        session = f"_{self.session_id}" if self.session_id else ""
        return f"resp_{'b' if self.is_background else ''}{self.turn_id}{session}"

    @property
    def created_s(self) -> int:
        """When its turn began, in Unix time."""
        return int(self.turn_id[:TIME_DIGITS], 16) // 1_000

    @classmethod
    def read(cls, text: str) -> ResponseId | None:
        """None for what no answer of this hub is called."""
        found = FORM.fullmatch(text)
        return cls(found[2], found[3] or "", bool(found[1])) if found else None
