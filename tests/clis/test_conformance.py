"""What every adapter promises for a turn that goes well, by what the vendor received and what came back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import groupby

import pytest
import pytest_asyncio

from providers.adapters.base import Adapter
from providers.events import Message, Sampling, TextDelta, TurnFinished, TurnStarted, Usage
from tests.clis.rig import VENDORED, Rig, assistant, needs, needs_sampling, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

WARMED_UP = Script(text="one two three four five six", chunks=6)
# A vendor begins its response this long before its first word, at least.
BEFORE_FIRST_WORD_S = 0.05
# Without repeating itself: an agent may take that for a model gone astray, and end the answer.
LONG = " ".join(map(str, range(50_000)))
ALL_SAMPLING = ("max_tokens", "temperature", "top_p", "stop")


@pytest_asyncio.fixture(params=VENDORED, scope="module", loop_scope="module")
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Every adapter with a vendor, one that drives any program included."""
    async with open_rig(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


def joined(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    """Roles and texts, neighbours of one role together: a CLI may put those into one message, with a line break."""
    groups = groupby(messages, key=lambda message: message.role)
    return [(role, "".join(it.text for it in group).replace("\n", "")) for role, group in groups]


async def test_an_answer_comes_piece_by_piece_between_its_start_and_its_end(rig: Rig) -> None:
    answer = await rig.ask(user("hello"), script=WARMED_UP)
    kinds = [type(event) for event in answer.events if not isinstance(event, Usage)]
    assert kinds == [TurnStarted, *[TextDelta] * 6, TurnFinished]
    assert answer.text == WARMED_UP.text


async def test_a_piece_is_handed_on_before_the_next_one_exists(rig: Rig) -> None:
    """Buffering anywhere between vendor and caller would hang this turn until its deadline."""
    rig.vendor.clear()
    rig.vendor.script = Script(text="one two", chunks=2, hang_after=1)
    answer = rig.provider.run(rig.turn(user("hello")))
    try:
        assert await rig.first_word(answer) == TextDelta("one")
    finally:
        await answer.aclose()


async def test_the_start_names_the_model_that_really_answers(rig: Rig) -> None:
    answer = await rig.ask(user("hello"))
    assert answer.started.model == rig.upstream(answer).model
    assert answer.started.provider == rig.name


async def test_the_model_the_caller_names_is_the_one_the_vendor_is_asked_for(rig: Rig) -> None:
    needs(rig, "models")
    for model in rig.provider.info.models[:3]:
        answer = await rig.ask(user("hello"), model=model)
        asked_for = rig.upstream(answer).model
        assert model in asked_for
        assert answer.started.model == asked_for


async def test_usage_is_what_the_vendor_said_with_cached_tokens_within_the_prompt(rig: Rig) -> None:
    needs(rig, "figures")
    script = Script(text="one two three", chunks=3, cached=2)
    answer = await rig.ask(user("a question of some length"), script=script)
    usage = answer.finished.usage
    assert usage is not None
    assert usage.cached_tokens == 2
    assert usage.output_tokens == 3
    assert usage.input_tokens == (await rig.ask(user("a question of some length"))).finished.usage.input_tokens  # type: ignore[union-attr]
    assert usage.input_tokens > 5
    assert usage.reasoning_tokens == 0


async def test_what_a_prompt_costs_is_told_before_the_first_word(claude: Rig) -> None:
    """One who hangs up has used it all the same."""
    script = Script(text="one two three", chunks=3, cached=2)
    answer = await claude.ask(user("a question of some length"), script=script)
    assert answer.finished.usage is not None
    assert answer.events[1] == replace(answer.finished.usage, output_tokens=1, cost_usd=None)


async def test_reasoning_comes_apart_from_the_text_and_is_counted(rig: Rig) -> None:
    needs(rig, "figures")
    script = Script(text="so be it", thinking="Let me think about that.", chunks=2)
    answer = await rig.ask(user("hello"), script=script)
    assert "Let me think about that." in answer.reasoning
    assert answer.text == "so be it"
    usage = answer.finished.usage
    assert usage is not None
    assert usage.reasoning_tokens == 6
    assert usage.output_tokens == 2 + 6


async def test_a_conversation_arrives_in_its_true_roles(rig: Rig) -> None:
    messages = (user("one"), assistant("two"), user("three"), assistant("four"), user("five"))
    assert rig.upstream(await rig.ask(*messages)).messages == messages


async def test_all_blocks_of_a_message_arrive_in_their_order(rig: Rig) -> None:
    messages = (user("one ", "two ", "three"), assistant("four ", "five"), user("six ", "seven"))
    arrived = rig.upstream(await rig.ask(*messages)).messages
    assert [message.text for message in arrived] == ["one two three", "four five", "six seven"]
    if rig.dialect.has_blocks:
        assert arrived == messages


async def test_messages_of_one_role_in_a_row_all_arrive(rig: Rig) -> None:
    messages = (user("one"), user("two"), assistant("three"), assistant("four"), user("five"), user("six"))
    arrived = rig.upstream(await rig.ask(*messages)).messages
    assert joined(arrived) == joined(messages)


async def test_a_conversation_may_begin_with_the_assistant(rig: Rig) -> None:
    messages = (assistant("welcome"), user("thanks"))
    assert rig.upstream(await rig.ask(*messages)).messages == messages


@pytest.mark.parametrize(
    "text", ["é ß 漢字 🜚 \u202e", 'quotes " and \\ and \t tab', "x" * 300_000], ids=["unicode", "escapes", "long"]
)
async def test_a_text_arrives_as_it_was_written(rig: Rig, text: str) -> None:
    arrived = rig.upstream(await rig.ask(user(text), assistant(text), user(text))).messages
    assert [message.text for message in arrived] == [text] * 3


@pytest.mark.parametrize(
    "text", ["é ß 漢字 🜚 \u202e", 'quotes " and \\ and \t tab', LONG], ids=["unicode", "escapes", "long"]
)
async def test_an_answer_arrives_as_the_vendor_wrote_it(rig: Rig, text: str) -> None:
    answer = await rig.ask(user("hello"), script=Script(text=text, chunks=4))
    assert answer.text == text
    assert answer.finished.reason == "stop"


async def test_the_system_prompt_is_exactly_the_callers(rig: Rig) -> None:
    for system in ("You are a pirate.\nSay arr, 漢字.", ""):
        assert rig.upstream(await rig.ask(user("hello"), system=system)).system == system


async def test_no_tool_is_offered_to_the_model(rig: Rig) -> None:
    needs(rig, "toolless")
    assert rig.upstream(await rig.ask(user("hello"))).tools == ()


async def test_sampling_reaches_the_vendor(rig: Rig) -> None:
    needs_sampling(rig, *ALL_SAMPLING)
    wanted = Sampling(max_tokens=50, temperature=0.25, top_p=0.75, stop=("ZZ", "$HOME"))
    assert rig.upstream(await rig.ask(user("hello"), sampling=wanted)).sampling == wanted


async def test_sampling_does_not_stick_to_the_next_turn_of_the_process(rig: Rig) -> None:
    needs_sampling(rig, *ALL_SAMPLING)
    pid = await rig.pid()
    await rig.ask(user("hello"), sampling=Sampling(max_tokens=50, temperature=0.25, top_p=0.75, stop=("ZZ",)))
    answer = await rig.ask(user("hello"))
    assert rig.upstream(answer).sampling == rig.dialect.default_sampling
    assert answer.started.start == "reused"
    assert rig.pids() == {pid}


async def test_every_part_of_sampling_is_independent_of_the_others(rig: Rig) -> None:
    needs_sampling(rig, *ALL_SAMPLING)
    default = rig.dialect.default_sampling
    for wanted in (Sampling(temperature=0.0), Sampling(top_p=0.5), Sampling(stop=("END",)), Sampling(max_tokens=9)):
        arrived = rig.upstream(await rig.ask(user("hello"), sampling=wanted)).sampling
        assert arrived.temperature == (default.temperature if wanted.temperature is None else wanted.temperature)
        assert arrived.top_p == (wanted.top_p or default.top_p)
        assert arrived.stop == wanted.stop
        assert arrived.max_tokens == (wanted.max_tokens or default.max_tokens)


async def test_max_tokens_really_ends_the_answer_with_one_request(rig: Rig) -> None:
    """The CLI would go on by itself with a second request."""
    needs_sampling(rig, "max_tokens")
    script = replace(WARMED_UP, first_delay_s=BEFORE_FIRST_WORD_S)
    answer = await rig.ask(user("hello"), script=script, sampling=Sampling(max_tokens=2))
    assert rig.upstream(answer).sampling.max_tokens == 2
    assert answer.pieces == 2
    assert answer.finished.reason == "length"
    assert answer.finished.usage is not None
    assert answer.finished.usage.output_tokens == 2


async def test_a_stop_sequence_ends_the_answer(rig: Rig) -> None:
    needs_sampling(rig, "stop")
    answer = await rig.ask(
        user("hello"), script=Script(text="one two END three", chunks=8), sampling=Sampling(stop=("END",))
    )
    assert answer.text == "one two "
    assert answer.finished.reason == "stop"


async def test_an_answer_without_a_word_ends_with_one_request(rig: Rig) -> None:
    """A stop sequence hit at once makes one; the CLI would ask the vendor again by itself."""
    needs_sampling(rig, "stop")
    script = Script(text="END of it", thinking="Let me see.", first_delay_s=BEFORE_FIRST_WORD_S)
    answer = await rig.ask(user("hello"), script=script, sampling=Sampling(stop=("END",)))
    rig.upstream(answer)
    assert answer.text == ""
    assert answer.finished.reason == "stop"


async def test_a_refusal_is_an_answer_with_its_reason_not_a_failure(rig: Rig) -> None:
    answer = await rig.ask(user("hello"), script=Script(text="I would", stop="refusal"))
    rig.upstream(answer)
    assert answer.text == "I would"
    assert answer.finished.reason == rig.dialect.refusal_reason


async def test_ended_and_refused_answers_leave_a_clean_process(rig: Rig) -> None:
    needs(rig, "wordless")
    pid = await rig.pid()
    for script in (Script(stop="refusal"), Script(stop="max_tokens"), Script(chunks=0, text="")):
        await rig.ask(user("the former secret"), script=script)
        arrived = rig.upstream(await rig.ask(user("hello"))).messages
        assert arrived == (user("hello"),)
    assert rig.pids() == {pid}


async def test_an_unknown_model_is_refused_with_its_own_error(rig: Rig) -> None:
    answer = await rig.ask(user("hello"), model="no-such-model", script=Script(status=404))
    assert answer.error is not None
    assert answer.error.code == "model_not_found"


async def test_the_program_is_found_logged_in_and_of_the_tested_version(rig: Rig) -> None:
    adapter: type[Adapter] = rig.provider.config.adapter
    assert rig.provider.state == "ready"
    assert rig.provider.version == adapter.info.tested_version
