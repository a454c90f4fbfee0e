"""How a request's messages and the stored conversation become one, so that nothing is seen twice.

A client that sends only its new question and an agent that sends its whole history (or a window of it) each time both
work with the same session. The rule is decision 10 of the design; docs/sessions.md tells it to users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from providers.events import Message

Mode = Literal["auto", "append", "replace"]

# A question and its answer: less than that in common may be chance ("ok") where the rest contradicts.
LEAST_COMMON = 2
# So much of the end of a file, with its length, tells it from others.
MEDIA_MARK = 64


@dataclass(frozen=True, slots=True)
class Merge:
    """The first `keep` stored messages stay, the rest is replaced; `new` follows, and ends with what is asked."""

    keep: int
    new: tuple[Message, ...]


def merge(
    stored: Sequence[Message], sent: Sequence[Message], mode: Mode = "auto", *, has_answers: bool = False
) -> Merge:
    """Decide what of a request is new. `sent` is never empty and ends with a user message, or with results of calls.

    `has_answers`: there were answers without a text among them, which are left out.
    """
    if mode == "replace":
        return Merge(0, tuple(sent))
    is_history = has_answers or any(message.role == "assistant" for message in sent)
    if mode == "append" or not is_history:
        return Merge(len(stored), tuple(sent))
    return _recognise([_key(it) for it in stored], [_key(it) for it in sent], sent)


def _recognise(stored: list[_Key], keys: list[_Key], sent: Sequence[Message]) -> Merge:
    past = keys[:-1]  # the last one is the question, and new even where it repeats an old one
    start, place, length = _common_end(stored, past)
    keep, used = _common_start(stored, past)
    if used > length and used >= place + length:
        # The past goes on as the conversation once did: what looks like its end is an earlier message of the same text.
        return Merge(keep, tuple(sent[used:]))
    if length and place == 0:
        return Merge(len(stored), tuple(sent[length:]))
    if length and start and length >= LEAST_COMMON:
        return Merge(len(stored), tuple(sent[place + length :]))
    # Either the caller knows more of the past than is stored, or something else: what it says holds from there on.
    if length and not start:
        return Merge(0, tuple(sent))
    return Merge(keep, tuple(sent[used:]))


def _common_end(stored: list[_Key], past: list[_Key]) -> tuple[int, int, int]:
    """The longest end of the stored conversation that is found in the past: where it starts, its place, its length.

    At the front of the past it is a window of the conversation; elsewhere the latest place counts.
    """
    lengths = _common_starts(stored[::-1], past[::-1])
    ends = [(length, len(past) - index) for index, length in enumerate(lengths)]
    length, end = max(ends, key=lambda it: (it[0], it[0] == it[1], it[1]), default=(0, 0))
    return len(stored) - length, end - length, length


def _common_start(stored: list[_Key], past: list[_Key]) -> tuple[int, int]:
    """Where a past that contradicts the stored conversation leaves it: (stored messages kept, messages used)."""
    found = [
        (length, start)
        for start, length in enumerate(_common_starts(past, stored))
        if start == 0 or length >= LEAST_COMMON
    ]
    length, start = max(found, key=lambda it: it[0], default=(0, 0))
    return (start + length, length) if length else (0, 0)


def _common_starts(pattern: list[_Key], text: list[_Key]) -> list[int]:
    """For each place in the text, how many messages from there on agree with the pattern's start.

    The Z algorithm: linear also for conversations made to be slow to compare.
    """
    line: list[_Key | None] = [*pattern, None, *text]
    agree = [0] * len(line)
    left = right = 0
    for place in range(1, len(line)):
        if place < right:
            agree[place] = min(right - place, agree[place - left])
        while place + agree[place] < len(line) and line[agree[place]] == line[place + agree[place]]:
            agree[place] += 1
        if place + agree[place] > right:
            left, right = place, place + agree[place]
    return agree[len(pattern) + 1 :]


_Key = tuple[str, ...]


def _key(message: Message) -> _Key:
    """What makes two messages the same: agents trim texts and join their parts.

    A call or a result is known by its id alone: agents add to the arguments, and leave out the words before a call.
    """
    ids = [call.id for call in message.calls] or [result.call_id for result in message.results]
    if ids:
        return (message.role, *ids)
    shown = [f"{media.mime_type} {len(media.data)} {media.data[-MEDIA_MARK:]}" for media in message.media]
    return (message.role, message.text.replace("\r\n", "\n").strip(), *shown)
