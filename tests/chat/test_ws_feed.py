"""What watchers of a turn are told, and from where: numbers, text put together, gaps, ends."""

from __future__ import annotations

import asyncio

import pytest

from chat.live_feed import ENTRY_CHARS, FRAME_S, MESSAGE_CHARS, Entry, Feed, as_messages
from chat.ws_watches import Watches

Json = dict[str, object]


@pytest.fixture
def feed() -> Feed:
    return Feed("alice", "turn_1", is_here=True)


def told(feed: Feed, after: int = 0) -> list[tuple[object, ...]]:
    return [(it["type"], it["first"], it["n"], it.get("text")) for it in as_messages("turn_1", feed.after(after))]


def say(feed: Feed, *texts: str) -> None:
    for text in texts:
        feed.add_text("delta", text)
        feed.flush()


async def test_neighbouring_text_is_told_as_one_piece(feed: Feed) -> None:
    feed.add({"type": "started"})
    say(feed, "a", "b", "c")
    assert told(feed) == [("started", 1, 1, None), ("delta", 2, 4, "abc")]
    assert told(feed, after=3) == [("delta", 4, 4, "c")]
    assert told(feed, after=4) == []


async def test_reasoning_and_answer_are_not_mixed(feed: Feed) -> None:
    feed.add_text("reasoning", "hm")
    feed.add_text("delta", "so")
    feed.add({"type": "finished"})
    assert told(feed) == [("reasoning", 1, 1, "hm"), ("delta", 2, 2, "so"), ("finished", 3, 3, None)]


async def test_text_comes_at_once_after_a_silence_and_is_gathered_then(feed: Feed) -> None:
    feed.add_text("delta", "first")
    assert told(feed) == [("delta", 1, 1, "first")]
    changed = asyncio.Event()
    feed.watch(changed.set)
    for text in "abc":
        feed.add_text("delta", text)
    assert told(feed, after=1) == []
    async with asyncio.timeout(100 * FRAME_S):
        await changed.wait()
    assert told(feed, after=1) == [("delta", 2, 2, "abc")]


async def test_nothing_follows_the_end(feed: Feed) -> None:
    feed.add({"type": "stopped"})
    say(feed, "late")
    assert told(feed) == [("stopped", 1, 1, None)]
    assert feed.is_over


async def test_whoever_had_all_is_told_the_end_again(feed: Feed) -> None:
    """Else a client that lost the last message would wait for ever."""
    say(feed, "a")
    feed.add({"type": "finished"})
    assert told(feed, after=2) == told(feed, after=99) == [("finished", 2, 2, None)]


async def test_missing_events_show_as_a_gap(feed: Feed) -> None:
    """Of an answer too long to be kept whole."""
    feed.take([Entry(1, {"type": "delta", "text": "a"}), Entry(5, {"type": "delta", "text": "b"})])
    feed.take([Entry(5, {"type": "delta", "text": "b"}), Entry(6, {"type": "finished"})])
    assert told(feed) == [("delta", 1, 1, "a"), ("delta", 5, 5, "b"), ("finished", 6, 6, None)]
    assert told(feed, after=3) == [("delta", 5, 5, "b"), ("finished", 6, 6, None)]


async def test_one_message_does_not_grow_without_bound(feed: Feed) -> None:
    say(feed, "x" * (3 * MESSAGE_CHARS))
    assert MESSAGE_CHARS == 2 * ENTRY_CHARS
    assert [(first, last) for _, first, last, _ in told(feed)] == [(1, 2), (3, 4), (5, 6)]


async def test_slow_connection_gets_what_has_gathered_in_one_piece(feed: Feed) -> None:
    sent: list[Json] = []
    may_go = asyncio.Event()

    async def send(message: Json) -> None:
        await may_go.wait()
        sent.append(message)

    watches = Watches(send)
    watches.add(feed, after=0)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watches.run())
        say(feed, "a")
        await asyncio.sleep(0)  # the first piece is on its way now
        say(feed, "b", "c", "d")
        may_go.set()
        async with asyncio.timeout(100 * FRAME_S):
            while not sent or sent[-1]["n"] != 4:  # noqa: ASYNC110 (nobody announces it)
                await asyncio.sleep(0.01)
        running.cancel()
    assert "".join(str(it["text"]) for it in sent) == "abcd"
    assert len(sent) <= 2


async def test_turn_asked_for_anew_is_told_anew(feed: Feed) -> None:
    sent: list[Json] = []

    async def send(message: Json) -> None:
        sent.append(message)

    watches = Watches(send)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watches.run())
        say(feed, "a", "b")
        for _ in range(2):
            watches.add(feed, after=0)
            async with asyncio.timeout(100 * FRAME_S):
                while not sent:  # noqa: ASYNC110 (nobody announces it)
                    await asyncio.sleep(0.01)
            assert [(it["first"], it["n"], it["text"]) for it in sent] == [(1, 2, "ab")]
            sent.clear()
        running.cancel()
    watches.close()
    assert not feed.is_watched
