"""Every call has its result right after it, whatever the caller sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import BadRequest
from chat.pairing import NO_RESULT, paired
from providers.events import Message, ToolCall, ToolResult


def said(*ids: str) -> Message:
    return Message("assistant", tuple(ToolCall(it, "f", "{}") for it in ids))


def result(call_id: str, text: str = "r") -> Message:
    return Message("tool", (ToolResult(call_id, (text,)),))


USER = Message("user", ("u",))
WORDS = Message("assistant", ("w",))


def test_a_whole_conversation_stays_as_it_is() -> None:
    whole = (USER, said("a", "b"), result("b"), result("a"), WORDS, USER)
    assert paired(whole) == whole
    assert paired((USER, WORDS, USER)) == (USER, WORDS, USER)


def test_a_missing_result_is_put_in_its_place() -> None:
    found = paired((USER, said("a", "b"), result("a"), USER))
    assert [message.role for message in found] == ["user", "assistant", "tool", "tool", "user"]
    assert found[3].results[0] == ToolResult("b", (NO_RESULT,), is_error=True)


@pytest.mark.parametrize(
    "messages",
    [
        (USER, result("a")),
        (USER, said("a"), result("b")),
        (USER, said("a"), result("a"), result("a")),
        (USER, said("a"), USER, result("a")),
    ],
    ids=["no-call", "other", "twice", "late"],
)
def test_a_result_of_no_call_is_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(BadRequest) as caught:
        paired(messages)
    assert caught.value.param == "messages"


@given(st.lists(st.sampled_from([USER, WORDS, said("a"), said("b", "c"), *map(result, "abc")]), min_size=1, max_size=9))
def test_what_comes_out_is_always_paired(messages: list[Message]) -> None:
    try:
        found = paired(messages)
    except BadRequest:
        return
    assert [message for message in found if message in messages] == [it for it in messages if it in found]
    waiting: set[str] = set()
    for message in found:
        if message.results:
            waiting.remove(message.results[0].call_id)
            continue
        assert not waiting
        waiting = {call.id for call in message.calls}
    assert not waiting
