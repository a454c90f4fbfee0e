from __future__ import annotations

import pytest

from providers.events import Message, Sampling, ToolCall, ToolResult, Turn
from providers.history_digest import extended, history_digest

QUESTION, ANSWER, FURTHER = (
    Message("user", ("one ", "two")),
    Message("assistant", ("three",)),
    Message("user", ("four",)),
)


def digest_of(*messages: Message, model: str | None = None) -> bytes:
    return history_digest(Turn((*messages, FURTHER), model=model))


def test_a_turn_and_its_answer_make_the_history_of_the_next_turn() -> None:
    asked = extended(history_digest(Turn((QUESTION,))), QUESTION)
    assert extended(asked, ANSWER) == digest_of(QUESTION, ANSWER)


def test_neither_the_last_message_nor_its_sampling_nor_the_edges_of_blocks_count() -> None:
    turn = Turn((Message("user", ("one two",)), ANSWER, QUESTION), sampling=Sampling(max_tokens=1))
    assert history_digest(turn) == digest_of(QUESTION, ANSWER)


@pytest.mark.parametrize(
    "other",
    [
        (),
        (QUESTION,),
        (ANSWER, QUESTION),
        (QUESTION, QUESTION),
        (QUESTION, Message("user", ("three",))),
        (QUESTION, Message("assistant", ("three ",))),
        (QUESTION, Message("assistant", ("thr",)), Message("assistant", ("ee",))),
        (QUESTION, ANSWER, QUESTION, ANSWER),
        (Message("user", ("one two", "assistant three")),),
    ],
)
def test_every_other_conversation_has_another_digest(other: tuple[Message, ...]) -> None:
    assert digest_of(*other) != digest_of(QUESTION, ANSWER)


def test_the_model_counts() -> None:
    digests = {digest_of(QUESTION, ANSWER, model=model) for model in (None, "sonnet", "opus")}
    assert len(digests) == 3


def test_all_that_follows_the_last_answer_is_the_question() -> None:
    call, more = ToolCall("1", "look", '{"a": 1, "b": 2}'), ToolCall("2", "look", "{}")
    said = Message("assistant", ("Hm. ", call, more))
    results = tuple(Message("tool", (ToolResult(it.id, ("seen",)),)) for it in (call, more))
    turn = Turn((QUESTION, said, *results, FURTHER))
    assert turn.question == (*results, FURTHER)
    assert history_digest(turn) == digest_of(QUESTION, said)
    assert Turn((QUESTION, FURTHER)).question == (QUESTION, FURTHER)


@pytest.mark.parametrize(
    ("arguments", "is_same"),
    [('{"b":2,"a":1}', True), ('{"a": 1, "b": 2.5}', False), ('{"a": 1}', False), ("", False), ('{"a": 1, "b"', False)],
)
def test_a_calls_arguments_count_by_their_meaning(arguments: str, *, is_same: bool) -> None:
    made, returned = ToolCall("1", "look", '{"a": 1, "b": 2}'), ToolCall("1", "look", arguments)
    digests = [digest_of(QUESTION, Message("assistant", (it,))) for it in (made, returned)]
    assert (digests[0] == digests[1]) == is_same
