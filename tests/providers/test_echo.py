"""The demo provider through a real worker: its protocol, its faults on demand, its reuse after a cancelled turn."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from providers.adapters.base import Program
from providers.adapters.echo import MAX_CHUNKS, MODEL, EchoAdapter, read_directive
from providers.adapters.echo_child import pieces
from providers.errors import ProtocolBroken, ProviderError, TimedOut, TurnRefused, WorkerCrashed
from providers.events import Event, Message, TextDelta, Turn, TurnFinished, TurnStarted, Usage
from providers.registry import adapters_by_name
from providers.worker import Worker
from tests.providers.fakes import BOUND_S, PATIENT, PROGRAM, SHORT, answer_of, ask, start_worker

pytestmark = pytest.mark.usefixtures("nothing_left", "short_ladder")


@pytest.fixture
async def worker(tmp_path: Path, nothing_left: None) -> AsyncIterator[Worker]:
    worker = await start_worker(tmp_path, deadlines=PATIENT)
    yield worker
    await worker.stop()


async def run(worker: Worker, text: str, *, max_tokens: int | None = None) -> list[Event]:
    async with asyncio.timeout(BOUND_S):
        return [event async for event in worker.run(ask(text, max_tokens=max_tokens))]


async def test_echo_repeats_the_question_in_eight_pieces_and_counts_them(worker: Worker) -> None:
    events = await run(worker, "What is the answer to everything?")
    assert events[0] == TurnStarted(MODEL)
    assert len([event for event in events if isinstance(event, TextDelta)]) == 8
    assert events[-1] == TurnFinished("stop", Usage(input_tokens=33, output_tokens=8))


@pytest.mark.parametrize("text", ["", "x", "ä€😀", "two\nlines\r\n", '{"ask": "x"}\n{"cancel": true}', "\0\u2028 end"])
async def test_any_text_comes_back_as_it_was(worker: Worker, text: str) -> None:
    """A question is data: nothing in it speaks the protocol."""
    assert await answer_of(worker, text) == text
    assert await worker.reset()


async def test_a_question_far_larger_than_a_pipe_comes_back_whole(worker: Worker) -> None:
    text = "0123456789" * 100_000
    assert await answer_of(worker, text) == text


async def test_only_the_last_message_is_repeated(worker: Worker) -> None:
    turn = Turn((Message("user", ("old",)), Message("assistant", ("older",)), Message("user", ("ne", "w"))))
    texts = [event.text async for event in worker.run(turn) if isinstance(event, TextDelta)]
    assert "".join(texts) == "new"


async def test_a_limit_on_tokens_ends_the_answer_early_and_the_process_can_be_kept(worker: Worker) -> None:
    events = await run(worker, "a long answer", max_tokens=3)
    assert events[-1] == TurnFinished("length", Usage(input_tokens=13, output_tokens=3))
    assert await worker.reset()
    assert (await run(worker, "ab [[chunks=2]]", max_tokens=2))[-1] == TurnFinished("stop", Usage(15, 2))


@pytest.mark.parametrize("events_seen", [0, 1, 2, 5])
@pytest.mark.parametrize("delay", ["0", "0.001", "60"])
async def test_the_next_turn_sees_nothing_of_one_that_was_given_up(
    worker: Worker, events_seen: int, delay: str
) -> None:
    if delay == "60":
        events_seen = min(events_seen, 2)
    async with aclosing(worker.run(ask(f"given up [[chunks=50 delay={delay}]]"))) as events:
        for _ in range(events_seen):
            await anext(events)
    assert await worker.reset()
    assert await answer_of(worker, "fresh") == "fresh"
    assert await worker.reset()


async def test_a_cancelled_turn_stops_the_child_at_once(worker: Worker) -> None:
    async with aclosing(worker.run(ask("x [[chunks=10000 delay=60]]"))) as events:
        await anext(events)
    async with asyncio.timeout(1):
        assert await worker.reset()


@pytest.mark.parametrize(
    ("mischief", "error"),
    [
        ("crash", WorkerCrashed),
        ("exit", WorkerCrashed),
        ("garbage", ProtocolBroken),
        ("hang", TimedOut),
        ("ignore_signals", TimedOut),
    ],
)
async def test_every_fault_on_demand_ends_the_turn_with_its_error(
    tmp_path: Path, mischief: str, error: type[ProviderError]
) -> None:
    worker = await start_worker(tmp_path, deadlines=SHORT)
    with pytest.raises(error):
        await run(worker, f"x [[do={mischief}]]")
    if mischief != "garbage":
        assert not await worker.reset()
    await worker.stop()


@pytest.mark.parametrize(
    "directive",
    ["chunks=0", f"chunks={MAX_CHUNKS + 1}", "chunks=many", "delay=61", "delay=1.2.3", "delay=nan", "do=magic"],
)
def test_a_directive_out_of_bounds_is_refused_before_a_worker_is_taken(directive: str) -> None:
    with pytest.raises(TurnRefused):
        EchoAdapter(PROGRAM).check(ask(f"x [[{directive}]]"))


def test_a_question_without_a_directive_is_answered_as_usual() -> None:
    expected = {"chunks": 8, "delay_s": 0.0, "do": "none"}
    for text in ("hello", "[[ ]]", "[chunks=2]", "[[chunks]]"):
        assert read_directive(text) == expected
    assert read_directive("[[ chunks=2 delay=0.5 do=exit ]] x") == {"chunks": 2, "delay_s": 0.5, "do": "exit"}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_pieces_are_the_text_cut_evenly(count: int) -> None:
    cut = pieces("0123456789", count)
    assert "".join(cut) == "0123456789"
    assert len(cut) == count
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


async def test_a_process_is_not_shared_by_two_owners() -> None:
    adapter = EchoAdapter(PROGRAM)
    assert adapter.binding(ask("x", owner="alice")) != adapter.binding(ask("x", owner="bob"))
    assert adapter.binding(ask("x", owner="alice", caller="one")) == adapter.binding(ask("y", owner="alice"))


async def test_the_demo_is_found_by_its_file_and_needs_no_login() -> None:
    program = Program(Path(), {})
    assert adapters_by_name()["echo"] is EchoAdapter
    assert await EchoAdapter.version(program) == ".".join(map(str, sys.version_info[:3]))
    assert await EchoAdapter.login_state(program) == "ready"
    assert EchoAdapter.info.by_name_only


async def test_the_child_sees_nothing_of_the_hubs_environment(worker: Worker) -> None:
    assert psutil.Process(worker.pid).environ().keys() == {"TMPDIR", "LANG"}
