"""What every adapter promises, whatever its program: each promise is one function that takes a rig.

test_contract.py asks them of every adapter there is, and of the example in docs/adding-a-provider.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

from providers import errors
from providers.adapters.base import Adapter, Program
from providers.events import Sampling, TextDelta, TurnFinished, TurnStarted
from tests.clis.rig import HUB_SECRETS, Rig, assistant, user
from tests.vendor_api import Script

# An answer takes seconds: of the stand-in vendors and the demo by what the brackets say, else by the many words.
SLOW = "[[chunks=40 delay=0.2]] " + "one word after the other " * 20
ECHO = Script()
TOLD = ("earlier-words", "older-words", "asked-words", "ordered-words")


async def an_answer_is_text_between_its_start_and_its_end(rig: Rig) -> None:
    answer = await rig.ask(user("hello there"), script=ECHO)
    started, finished = answer.started, answer.finished
    between = [type(event) for event in answer.events[1:-1]]
    assert started.provider == rig.name
    assert started.model
    assert TextDelta in between
    assert not {TurnStarted, TurnFinished} & set(between)
    assert "hello there" in answer.text
    assert finished.reason == "stop"


async def usage_is_told_in_whole_numbers_or_not_at_all(rig: Rig) -> None:
    usage = (await rig.ask(user("hello there"), script=ECHO)).finished.usage
    if usage is not None:
        counted = {name: getattr(usage, name) for name in ("input_tokens", "output_tokens", "cached_tokens")}
        assert all(isinstance(count, int) and count >= 0 for count in counted.values()), counted
        assert usage.input_tokens > 0
        assert usage.cached_tokens <= usage.input_tokens


async def an_answer_can_be_closed_at_any_event(rig: Rig) -> None:
    """Hub rule: a client that hangs up stops the vendor's work, and costs the next caller nothing."""
    for count in (1, 2, 3):
        rig.vendor.clear()
        rig.vendor.script = ECHO
        answer = rig.provider.run(rig.turn(user(SLOW)))
        for _ in range(count):
            assert not isinstance(await rig.soon(anext(answer)), TurnFinished)
        await rig.soon(answer.aclose())
        await rig.soon(_no_open_request(rig))
        await rig.settled()
        assert "hello again" in (await rig.ask(user("hello again"), script=ECHO)).text


async def _no_open_request(rig: Rig) -> None:
    while any(received.closed_at is None for received in rig.vendor.chats()):  # noqa: ASYNC110 (no event for "none")
        await asyncio.sleep(0.01)


async def a_conversation_leaves_nothing_behind(rig: Rig) -> None:
    earlier, older, asked, ordered = TOLD
    await rig.ask(user(earlier), assistant(older), user(asked), system=ordered, script=Script(text="so be it"))
    await rig.settled()
    for path in rig.data.rglob("*"):
        if path.is_file():
            said = path.read_bytes()
            assert not any(words.encode() in said for words in TOLD), path
    answer = await rig.ask(user("hello again"), script=ECHO)
    seen = answer.text + "".join(str(received.body) for received in answer.received)
    assert not any(words in seen for words in TOLD)


async def a_process_that_dies_is_an_error_and_the_next_turn_works(rig: Rig) -> None:
    rig.vendor.script = ECHO
    async with aclosing(rig.provider.run(rig.turn(user(SLOW)))) as answer:
        await rig.first_word(answer)
        for pid in rig.pids():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(errors.WorkerFailed):
            while True:
                await rig.soon(anext(answer))
    await rig.settled()
    assert "hello again" in (await rig.ask(user("hello again"), script=ECHO)).text


async def a_process_is_never_shared_by_two_owners(rig: Rig) -> None:
    adapter = _adapter(rig)(Program(Path("/nonexistent"), {}))
    assert adapter.binding(rig.turn(user("hi"), owner="alice")) != adapter.binding(rig.turn(user("hi"), owner="bob"))
    hash(adapter.binding(rig.turn(user("hi"))))


async def a_process_sees_nothing_of_the_hubs_environment_and_lives_in_its_own_folders(rig: Rig) -> None:
    process = psutil.Process(await rig.pid())
    environ = process.environ()
    for name, secret in HUB_SECRETS.items():
        assert secret not in environ.values(), name
    assert Path(process.cwd()).is_relative_to(rig.workers_folder)
    assert Path(environ["TMPDIR"]).is_relative_to(rig.workers_folder)
    assert environ.get("HOME") != str(rig.home), "the tests' logins are no files: HOME is to be the worker's own"


async def sampling_is_passed_on_or_named_as_unsupported(rig: Rig) -> None:
    unsupported = rig.provider.info.unsupported_sampling
    assert set(unsupported) <= {field.name for field in fields(Sampling)}
    wanted = Sampling(max_tokens=9_000, temperature=0.25, top_p=0.75, stop=("ZZZ",))
    answer = await rig.ask(user("hello there"), sampling=wanted, script=ECHO)
    assert isinstance(answer.finished, TurnFinished)
    if rig.dialect.cli:
        arrived = rig.upstream(answer).sampling
        passed_on = [field.name for field in fields(Sampling) if field.name not in unsupported]
        assert all(getattr(arrived, name) == getattr(wanted, name) for name in passed_on), arrived


async def what_it_tells_of_itself_is_complete(rig: Rig) -> None:
    info = rig.provider.info
    assert info.name == rig.name
    assert info.title
    assert info.default_model in info.models
    assert not info.program or (info.mend_install and info.mend_login and info.tested_version)
    assert set(info.secret_env) <= set(info.pass_env)
    assert rig.provider.state in ("ready", "starting", "busy")
    assert rig.provider.version == info.tested_version or not info.tested_version


def _adapter(rig: Rig) -> type[Adapter]:
    return rig.provider.config.adapter


Promise = Callable[[Rig], Awaitable[None]]
CONTRACT: tuple[Promise, ...] = (
    an_answer_is_text_between_its_start_and_its_end,
    usage_is_told_in_whole_numbers_or_not_at_all,
    an_answer_can_be_closed_at_any_event,
    a_conversation_leaves_nothing_behind,
    a_process_that_dies_is_an_error_and_the_next_turn_works,
    a_process_is_never_shared_by_two_owners,
    a_process_sees_nothing_of_the_hubs_environment_and_lives_in_its_own_folders,
    sampling_is_passed_on_or_named_as_unsupported,
    what_it_tells_of_itself_is_complete,
)
