from __future__ import annotations

import pytest

from providers.events import Message, Sampling, Turn
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
