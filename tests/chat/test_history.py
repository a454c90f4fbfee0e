"""Agents of all habits against one session: nothing they said is stored twice, and nothing of it is lost.

A simulated agent keeps its own transcript, as real ones do. After every turn the session has to hold the same. Where
messages repeat each other the rule can't always know; what it still has to get right is drawn from a tiny alphabet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chat.history import Merge, Mode, merge
from chat.schemas import ChatCompletionRequest
from chat.wire.openai_request import to_turn
from providers.events import Media, Message, Role, ToolCall, ToolResult

FIXED = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
THOROUGH = settings(FIXED, max_examples=150)


def user(text: str) -> Message:
    return Message("user", (text,))


def assistant(text: str) -> Message:
    return Message("assistant", (text,))


def conversation(words: str) -> list[Message]:
    """User and assistant in turns, one word each."""
    return [(assistant if place % 2 else user)(word) for place, word in enumerate(words.split())]


def plain(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """What was said, whatever became of its spaces on the way."""
    return [(message.role, " ".join(message.text.split())) for message in messages]


def checked(stored: Sequence[Message], sent: Sequence[Message], mode: Mode = "auto") -> Merge:
    """Whatever is sent: the question is asked, and what is new is an end of what was sent."""
    found = merge(stored, sent, mode)
    assert 0 <= found.keep <= len(stored)
    assert found.new
    assert found.new == tuple(sent[-len(found.new) :])
    return found


# --- agents with a transcript ----------------------------------------------------------------------------------------

# What becomes of a message between two requests.
COSTUMES: tuple[Callable[[str], tuple[str, ...]], ...] = (
    lambda text: (text,),
    lambda text: (f" {text}\n\n",),
    lambda text: (text.replace("\n", "\r\n"),),
    lambda text: (text[:5], text[5:]),
)
PLAIN_MOVES = ("ask", "retry")
MOVES = (*PLAIN_MOVES, "edit", "regenerate", "unheard", "unanswered", "textless")
EVERYTHING = 1_000
Move = tuple[str, int, Callable[[str], tuple[str, ...]]]
FIRST: Move = ("ask", EVERYTHING, COSTUMES[0])


def moves(kinds: Sequence[str], sizes: st.SearchStrategy[int]) -> st.SearchStrategy[list[Move]]:
    return st.lists(st.tuples(st.sampled_from(kinds), sizes, st.sampled_from(COSTUMES)), max_size=9)


@dataclass
class Session:
    """The hub's side. Only messages with text can be replayed, so only those are kept here."""

    stored: list[Message] = field(default_factory=list)

    def turn(self, sent: Sequence[Message], answer: str) -> Merge:
        found = checked(self.stored, sent)
        self.stored = [*self.stored[: found.keep], *found.new]
        self.stored += [assistant(answer)] if answer else []
        return found


@dataclass
class Agent:
    """A client: `said` is its transcript. Every text is new, so that none can be taken for another."""

    session: Session = field(default_factory=Session)
    said: list[Message] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def new(self, role: Role) -> Message:
        return Message(role, (f"{role}\nnumber {next(self._numbers)}",))

    def play(self, move: Move) -> Merge:
        kind, size, wear = move
        if kind == "unanswered":  # it failed, and the agent goes on as if it had been said
            self.said.append(self.new("user"))
        question = self._turn_back(kind) or self.new("user")
        sent = [Message(it.role, wear(it.text)) for it in (*self._view(kind, size), question)]
        if kind == "retry":  # it failed and left no trace; the client sends the same again
            checked(self.session.stored, sent)
        if kind == "unheard":  # it was answered, but the line was cut; the client sends the same again
            self.session.turn(sent, "never heard")
        answer = self.new("assistant")
        is_textless = kind == "textless" and self.said != []
        found = self.session.turn(sent, "" if is_textless else answer.text)
        self.said += [question] if is_textless else [question, answer]
        return found

    def _turn_back(self, kind: str) -> Message | None:
        """Drop what a user takes back. The first question is not among it: alone, it can't be told from a new one."""
        asked = [place for place, it in enumerate(self.said) if it.role == "user" and place]
        if kind not in ("edit", "regenerate") or not asked:
            return None
        place = asked[-1] if kind == "regenerate" else asked[len(asked) // 2]
        again = self.said[place] if kind == "regenerate" else None
        del self.said[place:]
        return again

    def _view(self, kind: str, size: int) -> list[Message]:
        """The last `size` messages. A branch or a repeat needs two to be known by, and questions alone are new ones."""
        least = {"ask": 0, "retry": 0, "textless": 0, "unanswered": 1}.get(kind, 2)
        first = max(0, len(self.said) - max(size, least))
        while first and {it.role for it in self.said[first:]} == {"user"}:
            first -= 1
        return self.said[first:]


@settings(THOROUGH, max_examples=250)
@given(moves(MOVES, st.sampled_from((EVERYTHING, EVERYTHING, *range(8)))))
def test_session_is_the_transcript_of_an_agent_that_sends_it_whole_or_a_window_of_it(played: list[Move]) -> None:
    """Windows of any size, odd ones too, and now and then the question alone. Nothing known is ever taken for new."""
    agent = Agent()
    for move in [FIRST, *played]:
        found = agent.play(move)
        assert len(found.new) == (2 if move[0] == "unanswered" else 1)
        assert plain(agent.session.stored) == plain(agent.said)


@FIXED
@given(moves(PLAIN_MOVES, st.just(EVERYTHING)), st.integers(2, 6), moves(PLAIN_MOVES, st.just(EVERYTHING)))
def test_session_outlives_its_agents_summaries(before: list[Move], tail: int, after: list[Move]) -> None:
    """An agent puts a summary in the place of what is older than its last messages; the session remembers it all."""
    agent = Agent()
    for move in [FIRST] * 4 + before:
        agent.play(move)
    whole = list(agent.said)
    agent.said = [agent.new("user"), agent.new("assistant"), *agent.said[-tail:]]
    length = len(agent.said)
    for move in after:
        agent.play(move)
        assert plain(agent.session.stored) == plain([*whole, *agent.said[length:]])


# --- conversations that repeat themselves ----------------------------------------------------------------------------

MESSAGES = st.builds(Message, st.sampled_from(("user", "assistant")), st.sampled_from((("a",), ("b",))))
CONVERSATIONS = st.lists(MESSAGES, max_size=12)
QUESTIONS = st.sampled_from((user("a"), user("b")))


def holds_answer(messages: Sequence[Message]) -> bool:
    return any(message.role == "assistant" for message in messages)


@THOROUGH
@given(CONVERSATIONS, CONVERSATIONS, QUESTIONS, st.sampled_from(("auto", "append", "replace")))
def test_whatever_is_sent_the_question_is_asked(
    stored: list[Message], past: list[Message], question: Message, mode: Mode
) -> None:
    sent = [*past, question]
    found = checked(stored, sent, mode)
    if mode == "append":
        assert found == Merge(len(stored), tuple(sent))
    if mode == "replace":
        assert found == Merge(0, tuple(sent))


@THOROUGH
@given(CONVERSATIONS, st.integers(1, 12), QUESTIONS)
def test_agent_in_step_is_never_misread_however_alike_its_messages(
    stored: list[Message], size: int, question: Message
) -> None:
    """Whole history or any window of it: only the question is new, and nothing is forgotten."""
    past = stored[-size:]
    assume(holds_answer(past))
    assert merge(stored, [*past, question]) == Merge(len(stored), (question,))


@THOROUGH
@given(CONVERSATIONS, st.data(), QUESTIONS)
def test_branch_begins_where_the_whole_history_ends_however_alike_its_messages(
    stored: list[Message], data: st.DataObject, question: Message
) -> None:
    """Unless the session also ends with just these messages: then they are a window of it."""
    past = stored[: data.draw(st.integers(0, len(stored)))]
    assume(holds_answer(past) and stored[-len(past) :] != past)
    assert merge(stored, [*past, question]) == Merge(len(past), (question,))


@FIXED
@given(CONVERSATIONS, st.data(), QUESTIONS)
def test_branch_of_a_window_goes_on_after_the_same_messages(
    stored: list[Message], data: st.DataObject, question: Message
) -> None:
    first = data.draw(st.integers(0, len(stored)))
    past = stored[first : data.draw(st.integers(first, len(stored)))]
    assume(len(past) >= 2 and holds_answer(past))
    found = merge(stored, [*past, question])
    assert found.new == (question,)
    assert stored[found.keep - len(past) : found.keep] == past


# --- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "sent", "after"),
    [
        pytest.param("", "q1", "q1", id="first question"),
        pytest.param("", "q1 a1 q2", "q1 a1 q2", id="history to a new session"),
        pytest.param("q1 a1", "q2", "q1 a1 q2", id="only the question"),
        pytest.param("q1 a1", "q1", "q1 a1 q1", id="the same question alone is asked again"),
        pytest.param("q1 a1", "q1 a1 q2", "q1 a1 q2", id="whole history"),
        pytest.param("q1 a1 q2 a2", "q2 a2 q3", "q1 a1 q2 a2 q3", id="window"),
        pytest.param("q1 a1 q2 a2", "q1 a1 q2", "q1 a1 q2", id="answer regenerated"),
        pytest.param("hi ok q2 a2 hi ok", "hi ok q2 a2 hi", "hi ok q2 a2 hi", id="repeated question regenerated"),
        pytest.param("q1 a1 q2 a2 q3 a3", "q1 a1 new", "q1 a1 new", id="question edited"),
        pytest.param("q1 a1 q2 a2", "q2 a2 q3 a3 q4", "q1 a1 q2 a2 q3 a3 q4", id="a turn had elsewhere"),
        pytest.param("q1 a1 hi ok", "hi ok q2 a2 hi ok q3", "q1 a1 hi ok q2 a2 hi ok q3", id="elsewhere and alike"),
        pytest.param("q2 a2", "q1 a1 q2 a2 q3", "q1 a1 q2 a2 q3", id="the client knows more"),
        pytest.param("q2 a2 hi ok", "hi ok q2 a2 hi ok q3", "hi ok q2 a2 hi ok q3", id="more and alike"),
        pytest.param("q1 a1 q2 a2", "s t q2 a2 q3", "q1 a1 q2 a2 q3", id="summary, then a window"),
        pytest.param("q1 a1 hi ok", "s t hi ok u v hi ok q2", "q1 a1 hi ok q2", id="summary that repeats itself"),
        pytest.param("q1 a1", "s t q2", "s t q2", id="summary and nothing else"),
        pytest.param("q1 a1 x y v w q2 a2", "q1 a1 x y q2 a2 q3", "q1 a1 x y v w q2 a2 q3", id="middle left out"),
        pytest.param("q1 ok", "x ok q2", "x ok q2", id="one common answer is chance"),
        pytest.param("a b", "b a q", "b a q", id="the same words of the other side"),
    ],
)
def test_session_after_a_request(stored: str, sent: str, after: str) -> None:
    held = conversation(stored)
    found = merge(held, conversation(sent))
    assert plain([*held[: found.keep], *found.new]) == plain(conversation(after))


# The hub's answer had a line break at its end.
HI, NEXT = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Go on"}
HELLO: dict[str, Any] = {"role": "assistant", "content": "Hello.\nWhat now?"}
SECOND_REQUESTS: dict[str, list[dict[str, Any]]] = {
    "n8n agent with memory": [{"role": "system", "content": "You are a helpful assistant"}, HI, HELLO, NEXT],
    "n8n agent, an empty turn between": [HI, HELLO, {"role": "assistant", "content": []}, NEXT],
    "n8n message node": [HI, {**HELLO, "refusal": None}, {"role": "assistant", "content": None}, NEXT],
    "openai SDK with parts": [HI, {**HELLO, "content": [{"type": "text", "text": "Hello.\nWhat now?"}]}, NEXT],
    "llm -c": [HI, HELLO, NEXT],
    "langchain, trimmed to begin with an answer": [HELLO, NEXT],
    "a Windows client": [HI, {**HELLO, "content": "Hello.\r\nWhat now? "}, NEXT],
    "HTTP Request node": [NEXT],
}


@pytest.mark.parametrize("name", SECOND_REQUESTS)
def test_second_request_of_published_clients_adds_its_question_only(name: str) -> None:
    stored = [user("Hi"), assistant("Hello.\nWhat now?\n")]
    turn = to_turn(ChatCompletionRequest.model_validate({"messages": SECOND_REQUESTS[name]}))
    assert merge(stored, turn.messages) == Merge(2, (user("Go on"),))


class CountedRole(str):
    """A role that counts how often one is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedRole.compared += 1
        return super().__eq__(other)


@pytest.mark.parametrize("stored_end", ["a", "b"])
@pytest.mark.parametrize("past_end", ["a", "b"])
def test_long_conversation_of_equal_messages_is_compared_in_linear_time(stored_end: str, past_end: str) -> None:
    def said(end: str) -> list[Message]:
        return [Message(cast(Role, CountedRole("assistant")), (text,)) for text in ["a"] * 9_999 + [end]]

    CountedRole.compared = 0
    merge(said(stored_end), [*said(past_end), user("q")])
    assert 20_000 <= CountedRole.compared <= 200_000


def test_history_whose_only_answer_had_no_text_is_a_history() -> None:
    """An agent's tool call is an answer without a text (OpenAI format): what is left looks like questions only."""
    sent = [user("q1"), user("q2")]
    merged = merge([user("q1"), user("q2"), assistant("a2")], sent, has_answers=True)
    assert merged == Merge(1, (user("q2"),))


# --- calls and their results -----------------------------------------------------------------------------------------


def made(*ids: str, text: str = "", arguments: str = "{}") -> Message:
    return Message("assistant", (*((text,) if text else ()), *(ToolCall(it, "f", arguments) for it in ids)))


def result(call_id: str, text: str = "r") -> Message:
    return Message("tool", (ToolResult(call_id, (text,)),))


ROUND = (Message("user", ("q",)), made("a", "b", text="Let me."))


def test_results_alone_go_on_with_the_session() -> None:
    found = merge(ROUND, (result("a"), result("b")))
    assert (found.keep, found.new) == (2, (result("a"), result("b")))


def test_an_agent_that_sends_everything_is_recognised_though_it_changed_the_call() -> None:
    """n8n leaves out the words before a call, and puts keys of its own into the arguments."""
    sent = (ROUND[0], made("a", "b", arguments='{"tool": "f"}'), result("a"), result("b"))
    found = merge(ROUND, sent, has_answers=True)
    assert (found.keep, found.new) == (2, (result("a"), result("b")))
    stored = (*ROUND, result("a"), result("b"), Message("assistant", ("done",)))
    found = merge(stored, (*sent, Message("assistant", ("done",)), Message("user", ("more",))), has_answers=True)
    assert (found.keep, found.new) == (5, (Message("user", ("more",)),))


def test_a_window_may_begin_with_a_result() -> None:
    stored = (*ROUND, result("a"), result("b"), Message("assistant", ("done",)))
    found = merge(stored, (result("b"), Message("assistant", ("done",)), Message("user", ("more",))))
    assert (found.keep, found.new) == (5, (Message("user", ("more",)),))


def test_the_same_words_about_another_picture_are_another_message() -> None:
    one, two = (Message("user", ("What is it?", Media("image/png", data))) for data in ("AAAA", "BBBB"))
    stored = (one, Message("assistant", ("a cat",)))
    sent = (two, Message("assistant", ("a cat",)), Message("user", ("sure?",)))
    assert merge(stored, sent).keep == 0
    assert merge(stored, (one, *sent[1:])).keep == 2
