"""What a message holds survives being written down."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from chat.blocks import as_text, chars_of, dump_blocks, load_blocks
from chat.conversation import StoredMessage, dump_message, load_message
from providers.events import Block, Media, ToolCall, ToolResult

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
media = st.builds(Media, st.sampled_from(["image/png", "application/pdf"]), texts, texts)
results = st.builds(ToolResult, texts, st.lists(st.one_of(texts, media), max_size=3).map(tuple), st.booleans())
blocks = st.one_of(texts, media, st.builds(ToolCall, texts, texts, texts), results)


@given(st.lists(blocks, max_size=5).map(tuple))
def test_blocks_come_back_as_they_were(held: tuple[Block, ...]) -> None:
    assert load_blocks(orjson.loads(orjson.dumps(dump_blocks(held)))) == held
    message = StoredMessage("tool", held, "t", 1)
    assert load_message(dump_message(message)) == message
    assert chars_of(held) >= 0


def test_people_see_what_is_no_text_in_brackets() -> None:
    held = ("Look:", Media("image/png", "A" * 4_000, "a.png"), "and", ToolCall("c", "f", '{"x": 1}'))
    assert as_text(held) == 'Look:\n[a.png, 3,000 bytes]\nand\n[calls f with {"x": 1}]'
    assert as_text((ToolResult("c", ("no",), is_error=True),)) == "[failure: no]"
    assert as_text(("a", "b\n")) == "ab\n"
