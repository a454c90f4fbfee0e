"""What one turn collects while it runs, and what it leaves in its session and on its key's bill."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import pytest
from django.db import OperationalError

from chat import choice, ending, prices, service
from chat.blocks import chars_of
from chat.conversation import Conversation, Outcome, StoredMessage, dump_outcome, load_outcome, new_conversation
from chat.errors import DatabaseUnavailable
from chat.history import Mode
from chat.keys import Caller
from chat.leases import Leases
from chat.limits import KeyLimits
from chat.models import Price
from chat.prices import PriceList
from chat.running import RunningTurn
from chat.runtime import Chat
from chat.sessions import Held, Keys
from providers.events import Message, ReasoningDelta, TextDelta, Turn, TurnFinished, TurnStarted, Usage
from providers.provider import Provider
from providers.route import Attempt, Choice, Decision

OLD = (
    StoredMessage("user", ("one",), "t1", 1),
    StoredMessage("assistant", ("first answer",), "t1", 2, provider="echo", model="echo"),
)


def conversation(*messages: StoredMessage, system: str = "") -> Conversation:
    head = new_conversation("alice", "s1", ttl_s=60).head
    size = sum(chars_of(it.blocks) for it in messages)
    return Conversation(replace(head, system=system, chars=size), messages)


def running(*texts: str, before: Conversation | None = None, mode: Mode = "auto", system: str = "") -> RunningTurn:
    """A turn of a session in which user and assistant alternate."""
    messages = tuple(Message(("user", "assistant")[index % 2], (text,)) for index, text in enumerate(texts))
    made = RunningTurn(1, "alice", "req_1", Turn(messages, system=system))
    before = before or conversation()
    made.held = Held(Keys.of("alice", "s1"), "token", before)
    made.remember(before, mode, ttl_s=60)
    return made


def started(turn: RunningTurn, *texts: str) -> RunningTurn:
    turn.note(TurnStarted("echo-1", "echo"))
    for text in texts:
        turn.note(TextDelta(text))
    return turn


def finished(turn: RunningTurn, usage: Usage | None = None) -> RunningTurn:
    turn.note(TurnFinished("stop", usage or Usage(10, 20)))
    return turn


def left(outcome: Outcome) -> list[tuple[str, str, bool]]:
    return [(it.role, it.as_message().text, it.is_partial) for it in outcome.messages]


def sent(turn: RunningTurn) -> list[str]:
    return [it.text for it in turn.turn.messages]


def partial(text: str) -> StoredMessage:
    return StoredMessage("user", (text,), "t0", 1, is_partial=True)


def test_question_goes_out_behind_what_the_session_remembers() -> None:
    turn = running("two", before=conversation(*OLD, system="Be brief."))
    assert sent(turn) == ["one", "first answer", "two"]
    assert turn.turn.system == "Be brief."


def test_own_system_prompt_is_kept() -> None:
    assert running("two", before=conversation(*OLD, system="Be brief."), system="Be long.").turn.system == "Be long."


def test_partial_messages_are_not_replayed_and_stay_where_they_are() -> None:
    turn = running("two", before=conversation(partial("zero"), *OLD, partial("between")))
    assert sent(turn) == ["one", "first answer", "two"]
    outcome = finished(started(turn, "second")).outcome("ok", cost_usd=None)
    assert outcome.keep == 4
    assert left(outcome) == [("user", "two", False), ("assistant", "second", False)]


def test_turn_that_ends_well_leaves_question_and_answer_with_its_figures() -> None:
    outcome = finished(started(running("two", before=conversation(*OLD)), "sec", "ond"), Usage(10, 20)).outcome(
        "ok", cost_usd=0.5
    )
    assert left(outcome) == [("user", "two", False), ("assistant", "second", False)]
    assert (outcome.messages[1].provider, outcome.messages[1].model) == ("echo", "echo-1")
    assert outcome.messages[1].tokens == (10, 20)
    figures = outcome.figures
    assert (figures.input_tokens, figures.output_tokens, figures.cost_usd, figures.is_estimated) == (10, 20, 0.5, False)
    assert outcome.head is not None
    assert outcome.head.revision == 1
    assert figures.session_uid == outcome.head.uid


@pytest.mark.parametrize("ended", ["worker_crashed", "cancelled"])
def test_turn_without_an_answer_leaves_its_figures_alone(ended: str) -> None:
    outcome = running("two", before=conversation(*OLD)).outcome(ended, cost_usd=None)
    assert outcome.head is None
    assert outcome.messages == ()
    assert outcome.figures.outcome == ended
    assert (outcome.figures.input_tokens, outcome.figures.is_estimated) == (0, False)


def test_turn_that_failed_in_mid_answer_leaves_no_text() -> None:
    outcome = started(running("two"), "half an ans").outcome("worker_crashed", cost_usd=None)
    assert outcome.messages == ()
    assert outcome.figures.is_estimated


def test_cancelled_answer_is_left_marked_with_estimated_figures() -> None:
    turn = started(running("x" * 400, before=conversation(*OLD)), "y" * 40)
    outcome = turn.outcome("cancelled", cost_usd=None)
    assert left(outcome) == [("user", "x" * 400, True), ("assistant", "y" * 40, True)]
    figures = outcome.figures
    # Four characters are taken for a token, of all that was sent: the session's past too.
    assert (figures.input_tokens, figures.output_tokens) == ((400 + len("onefirst answer") + 3) // 4, 10)
    assert figures.is_estimated


def test_real_figures_of_a_cancelled_turn_go_before_estimated_ones() -> None:
    turn = started(running("x" * 400), "y" * 40)
    turn.note(Usage(input_tokens=7, output_tokens=1, cached_tokens=3))
    figures = turn.outcome("cancelled", cost_usd=None).figures
    assert (figures.input_tokens, figures.output_tokens, figures.cached_tokens) == (7, 10, 3)


def test_reasoning_counts_but_is_no_answer() -> None:
    turn = started(running("two"))
    turn.note(ReasoningDelta("z" * 40))
    outcome = turn.outcome("cancelled", cost_usd=None)
    assert outcome.messages == ()
    assert outcome.figures.output_tokens == 10
    assert outcome.figures.first_token_ms is not None


def test_cancelled_question_replaces_nothing() -> None:
    """Of a history that contradicts the stored one, only the question is shown, behind what is stored."""
    before = conversation(*OLD)
    turn = started(running("other", "past", "question", before=before, mode="replace"), "half")
    outcome = turn.outcome("cancelled", cost_usd=None)
    assert outcome.keep == len(OLD)
    assert left(outcome) == [("user", "question", True), ("assistant", "half", True)]


def test_size_of_a_session_is_that_of_the_messages_it_holds() -> None:
    before = conversation(*OLD, partial("zero"))
    appended = finished(started(running("two", before=before), "yes")).outcome("ok", cost_usd=None)
    assert appended.head is not None
    assert appended.head.chars == before.head.chars + len("twoyes")
    replaced = finished(started(running("two", before=before, mode="replace"), "yes")).outcome("ok", cost_usd=None)
    assert replaced.head is not None
    assert replaced.head.chars == len("twoyes")


def test_title_stays_that_of_the_first_question() -> None:
    first = finished(started(running("What is it?"), "It")).outcome("ok", cost_usd=None)
    assert first.head is not None
    assert first.head.title == "What is it?"
    second = running("More", before=Conversation(first.head, first.messages))
    head = finished(started(second, "Yes")).outcome("ok", cost_usd=None).head
    assert head is not None
    assert (head.title, head.revision) == ("What is it?", 2)


def test_turn_without_a_session_leaves_its_figures_alone() -> None:
    turn = RunningTurn(1, "alice", "req_1", Turn((Message("user", ("hello",)),)))
    outcome = finished(started(turn, "hello")).outcome("ok", cost_usd=0.25)
    assert turn.session_id == ""
    assert outcome.head is None
    assert (outcome.figures.outcome, outcome.figures.cost_usd) == ("ok", 0.25)


# --- turns with more than one attempt --------------------------------------------------------------------------------


def attempt(provider: str, *, code: str = "", usage: Usage | None = None, is_accepted: bool = False) -> Attempt:
    return Attempt(provider, f"{provider}-1", code, 5, is_accepted, usage)


async def priced(turn: RunningTurn, **costs: float) -> float | None:
    """The turn's cost where a token of each of these providers costs so many dollars."""

    async def find(provider: str, model: str, *, wait_s: float) -> Price | None:
        assert model == f"{provider}-1"
        usd = Decimal(costs.get(provider, 0)) * 1_000_000
        return Price(input_usd=usd, output_usd=usd) if usd else None

    here = cast(Chat, SimpleNamespace(prices=SimpleNamespace(find=find)))
    return ending._total(await ending._costs_of(here, turn))


async def test_what_a_failed_attempt_has_used_is_booked_beside_the_answer() -> None:
    turn = running("two")
    turn.attempts += [attempt("claude", code="vendor_stream_cut", usage=Usage(7, 1, cached_tokens=2)), attempt("echo")]
    outcome = finished(started(turn, "yes"), Usage(10, 20, reasoning_tokens=3)).outcome("ok", cost_usd=None)
    figures = outcome.figures
    assert (figures.input_tokens, figures.output_tokens) == (17, 21)
    assert (figures.cached_tokens, figures.reasoning_tokens, figures.is_estimated) == (2, 3, False)
    assert outcome.messages[-1].tokens == (10, 20)
    assert await priced(turn, claude=0.5, echo=0.25) == 0.5 * (5 + 1) + 0.25 * 30
    assert await priced(turn, echo=0.25) == 0.25 * 30
    assert await priced(turn) is None


async def test_cost_a_cli_tells_goes_before_the_price_list() -> None:
    turn = running("two")
    turn.attempts += [attempt("claude", code="timed_out", usage=Usage(7, 1, cost_usd=0.125)), attempt("echo")]
    finished(started(turn, "yes"), Usage(10, 20))
    assert await priced(turn, claude=9.0, echo=0.25) == 0.125 + 0.25 * 30


def test_attempt_the_vendor_did_not_take_costs_nothing() -> None:
    turn = running("two")
    turn.attempts += [attempt("claude", code="vendor_rate_limited"), attempt("echo")]
    figures = finished(started(turn, "yes")).outcome("ok", cost_usd=None).figures
    assert (figures.input_tokens, figures.output_tokens, figures.is_estimated) == (10, 20, False)


@pytest.mark.parametrize("ended", ["cancelled", "timed_out"])
def test_prompt_a_vendor_took_without_a_word_is_booked_by_a_guess(ended: str) -> None:
    turn = running("x" * 400)
    turn.attempts.append(attempt("claude", code=ended, is_accepted=True))
    figures = turn.outcome(ended, cost_usd=None).figures
    assert (figures.input_tokens, figures.output_tokens, figures.is_estimated) == (100, 0, True)


def test_record_names_first_who_answered_and_keeps_the_order_that_was_decided() -> None:
    names = [SimpleNamespace(name=name, default_model=f"{name}-1") for name in ("claude", "echo")]
    turn = running("two")
    turn.decision = Decision(
        tuple(Choice(cast(Provider, it)) for it in names), "rule=code", (("gemini", "it is away"),)
    )
    turn.provider = "claude"
    assert turn.outcome("timed_out", cost_usd=None).figures.route == "claude; rule=code"
    turn.attempts += [attempt("claude", code="timed_out"), attempt("echo")]
    figures = finished(started(turn, "yes")).outcome("ok", cost_usd=None).figures
    assert figures.route == "echo; rule=code"
    told = json.loads(figures.decision)
    assert [it["provider"] for it in told["choices"]] == ["claude", "echo"]
    assert told["rejected"] == [{"name": "gemini", "why": "it is away"}]
    assert [(it["provider"], it["code"]) for it in told["attempts"]] == [("claude", "timed_out"), ("echo", "ok")]


def test_record_of_before_there_were_decisions_is_read() -> None:
    outcome = finished(started(running("two"), "yes")).outcome("ok", cost_usd=None)
    old = json.loads(dump_outcome(outcome))
    del old["figures"]["decision"]
    assert load_outcome(json.dumps(old)) == outcome


@pytest.fixture
def broken_prices(monkeypatch: pytest.MonkeyPatch) -> PriceList:
    def fail() -> None:
        raise OperationalError("the database is gone")

    monkeypatch.setattr(prices, "Price", SimpleNamespace(objects=SimpleNamespace(all=fail)))
    return PriceList()


async def test_cost_that_can_not_be_found_out_does_not_cost_the_turn(broken_prices: PriceList) -> None:
    here = cast(Chat, SimpleNamespace(prices=broken_prices))
    assert await ending._costs_of(here, finished(started(running("two"), "yes"))) == [None]


async def test_budget_whose_prices_can_not_be_read_waits_for_them(
    broken_prices: PriceList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "chat", lambda: SimpleNamespace(prices=broken_prices))
    with pytest.raises(DatabaseUnavailable) as caught:
        await choice._require_price("echo", "echo")
    assert caught.value.retry_after_s


async def test_last_price_list_holds_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [[Price(provider="echo", model="ec*", input_usd=1, output_usd=2)]]

    def read() -> list[Price]:
        if not answers:
            raise OperationalError("the database is gone")
        return answers.pop()

    monkeypatch.setattr(prices, "Price", SimpleNamespace(objects=SimpleNamespace(all=read)))
    monkeypatch.setattr(prices, "CACHE_S", -1.0)
    listed = PriceList()
    for _ in range(2):
        found = await listed.find("echo", "echo", wait_s=1)
        assert found is not None
        assert prices.cost_by(found, Usage(1_000_000, 1_000_000)) == 3


class Renewals:
    """Stands for the sessions: notes whose lock is renewed, and holds the renewals up until they may go on."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.may_go_on = asyncio.Event()
        self.changed = asyncio.Condition()

    async def renew(self, keys: Keys, token: str) -> bool:
        async with self.changed:
            self.tokens.append(token)
            self.changed.notify_all()
        await self.may_go_on.wait()
        return True

    async def seen(self, token: str, times: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.tokens.count(token) >= times)


async def test_lock_of_a_turn_that_is_over_is_not_renewed() -> None:
    """It would be taken again, and hold up the session's next turn until it runs out."""
    sessions, leases = Renewals(), Leases(lease_s=0.03)
    here = cast(Chat, SimpleNamespace(sessions=sessions, leases=leases))
    caller = Caller(1, "n8n", "alice", frozenset(), (), (), KeyLimits(), 60)
    turns = {token: running("two") for token in ("over", "running")}
    for token, turn in turns.items():
        turn.held = Held(Keys.of("alice", token), token, None)
        service._hold(here, caller, turn)
    leases.start()
    async with asyncio.timeout(5):
        await sessions.seen("over", 1)
        drop = asyncio.create_task(leases.drop(turns["over"].turn_id))
        await asyncio.sleep(0)
        assert not drop.done()  # a renewal is under way, and would come after what follows
        sessions.may_go_on.set()
        await drop
        renewed = sessions.tokens.count("over")
        await sessions.seen("running", sessions.tokens.count("running") + 2)
        await leases.stop()
    assert sessions.tokens.count("over") == renewed
