"""Which provider a request gets, with providers whose state the test sets."""

from __future__ import annotations

import json
from asyncio import Semaphore
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers.adapters.base import AdapterInfo
from providers.adapters.echo import EchoAdapter
from providers.engine import Engine
from providers.errors import ModelUnknown, NeedsLogin, ProviderError, ProviderUnknown, RateLimited
from providers.pool import WorkerPool
from providers.pool_limits import PoolLimits
from providers.provider import Provider
from providers.provider_config import ProviderConfig
from providers.route import Decision, Nature, Wish
from providers.router import NoProviderReady, decide, listed_models, read_wish
from providers.rules import SMALL, Rule, Target
from providers.telling import describe, explain
from tests.providers.fakes import Starter


def info(
    name: str, *, by_name_only: bool = False, prefixes: tuple[str, ...] = (), models: str = "", small: str = ""
) -> AdapterInfo:
    return AdapterInfo(
        name=name,
        title=name.title(),
        program="",
        tested_version="",
        default_model="",
        models=tuple(models.split()),
        model_prefixes=prefixes,
        by_name_only=by_name_only,
        mend_install=f"install {name}",
        mend_login=f"log in to {name}",
        floor=0,
        small_model=small,
    )


KINDS = (
    info("claude", models="opus sonnet haiku", small="haiku", prefixes=("claude-",)),
    info("gemini", models="flash", prefixes=("gemini-", "models/")),
    info("echo", models="echo", by_name_only=True),
)


CONFIGS = tuple(ProviderConfig(type(kind.name, (EchoAdapter,), {"info": kind})) for kind in KINDS)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(CONFIGS, data_folder=tmp_path, environ={}, max_starts=1)


@pytest.fixture(autouse=True)
def every_program_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that was never opened stands for a program that was found."""
    make = Provider.__init__

    def with_pool(self: Provider, *args: object) -> None:
        make(self, *args)  # type: ignore[arg-type]
        self.pool = WorkerPool(self.name, Starter(), PoolLimits(floor=0), Semaphore(1))

    monkeypatch.setattr(Provider, "__init__", with_pool)


def routed(engine: Engine, nature: Nature | None = None, may_use: Any = None, label: str = "", **wish: Any) -> Decision:
    allowed = {} if may_use is None else {"may_use": may_use}
    return decide(engine, Wish(**wish), nature or Nature(), label=label, **allowed)


def route(engine: Engine, provider: str = "", model: str = "") -> tuple[str, str | None]:
    first = routed(engine, provider=provider, model=model).first
    return first.provider.name, first.model


def order(decision: Decision) -> list[str]:
    """The choices as `provider` or `provider/model`."""
    return [f"{it.provider.name}/{it.model}" if it.model else it.provider.name for it in decision.choices]


def in_trouble(engine: Engine, *names: str) -> None:
    for name in names:
        engine.provider(name).note(NeedsLogin(f"{name}: who?", mend="log in"))


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("", "", ("claude", None)),
        ("auto", "auto", ("claude", None)),
        ("gemini", "", ("gemini", None)),
        ("gemini", "auto", ("gemini", None)),
        ("gemini", "gemini", ("gemini", None)),
        ("gemini", "flash", ("gemini", "flash")),
        ("gemini", "anything-new", ("gemini", "anything-new")),
        ("echo", "", ("echo", None)),
        ("echo", "echo", ("echo", None)),
        ("", "gemini", ("gemini", None)),
        ("auto", "flash", ("gemini", "flash")),
        ("", "claude-next-9", ("claude", "claude-next-9")),
        ("", "models/gemini-x", ("gemini", "models/gemini-x")),
        ("", "gemini/flash", ("gemini", "flash")),
        ("gemini", "gemini/flash", ("gemini", "flash")),
        ("", "claude/auto", ("claude", None)),
        ("", "claude/a/b", ("claude", "a/b")),
        ("", "echo/echo", ("echo", None)),
    ],
)
def test_the_caller_gets_what_it_names(
    engine: Engine, provider: str, model: str, expected: tuple[str, str | None]
) -> None:
    assert route(engine, provider, model) == expected


@pytest.mark.parametrize(
    ("provider", "model", "error"),
    [
        ("nobody", "", ProviderUnknown),
        ("", "gpt-4", ModelUnknown),
        ("", "nobody/flash", ModelUnknown),
        ("claude", "gemini/flash", ModelUnknown),
        ("echo", "flash", ModelUnknown),
        ("", "echo/flash", ModelUnknown),
    ],
)
def test_what_does_not_exist_is_refused(
    engine: Engine, provider: str, model: str, error: type[ProviderUnknown | ModelUnknown]
) -> None:
    with pytest.raises(error):
        route(engine, provider, model)


def test_auto_passes_over_a_provider_in_trouble(engine: Engine) -> None:
    engine.provider("claude").note(NeedsLogin("who?", mend="log in"))
    assert route(engine) == ("gemini", None)
    engine.provider("claude").note(None)
    assert route(engine) == ("claude", None)


def test_a_named_provider_is_taken_even_in_trouble(engine: Engine) -> None:
    engine.provider("claude").note(NeedsLogin("who?", mend="log in"))
    assert route(engine, "claude") == ("claude", None)
    assert route(engine, "", "opus") == ("claude", "opus")


def test_auto_tries_a_provider_in_trouble_again_after_a_while_but_prefers_a_ready_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("claude", "gemini"):
        engine.provider(name).note(NeedsLogin("who?", mend="log in"))
    with pytest.raises(NoProviderReady):
        route(engine)
    monkeypatch.setattr("providers.provider.TRY_AGAIN_S", 0.0)
    assert route(engine) == ("claude", None)
    engine.provider("gemini").note(None)
    assert route(engine) == ("gemini", None)


def test_nothing_usable_is_told_with_the_way_to_mend_each(engine: Engine) -> None:
    """The demo is not offered in place of a real provider."""
    engine.provider("claude").note(NeedsLogin("who?", mend="log in to claude"))
    engine.provider("gemini").pool = None
    with pytest.raises(NoProviderReady) as caught:
        route(engine)
    assert "claude: needs login (log in to claude)" in caught.value.message
    assert "gemini: not installed (install gemini)" in caught.value.message
    assert "echo" not in caught.value.message


def test_an_engine_without_providers_says_so(tmp_path: Path) -> None:
    engine = Engine([], data_folder=tmp_path, environ={}, max_starts=1)
    with pytest.raises(NoProviderReady, match="none is enabled"):
        route(engine)


def test_every_listed_name_leads_where_the_list_says(engine: Engine) -> None:
    names = listed_models(engine)
    assert {"auto", "claude", "claude/opus", "opus", "flash", "echo"} <= names.keys()
    for model, provider in names.items():
        assert model == "auto" or route(engine, "", model)[0] == provider


def test_wish_names_what_it_means(engine: Engine) -> None:
    assert read_wish(engine, Wish("auto", "auto")) == Wish()
    assert read_wish(engine, Wish("", "gemini/auto")) == Wish("gemini")
    assert read_wish(engine, Wish("gemini", "gemini")) == Wish("gemini")
    assert read_wish(engine, Wish("", "nobody/flash")) == Wish("", "nobody/flash")


# --- more names for models -------------------------------------------------------------------------------------------


@pytest.fixture
def aliased(tmp_path: Path) -> Engine:
    claude, gemini, echo = CONFIGS
    configs = [
        replace(claude, aliases=(("best", "opus"), ("quick", "haiku"))),
        replace(gemini, aliases=(("quick", "flash"),), models=("flash", "pro")),
        echo,
    ]
    return Engine(configs, data_folder=tmp_path, environ={}, max_starts=1)


def test_alias_is_its_model(aliased: Engine) -> None:
    assert route(aliased, "", "best") == ("claude", "opus")
    assert route(aliased, "gemini", "quick") == ("gemini", "flash")
    assert route(aliased, "", "gemini/quick") == ("gemini", "flash")
    names = listed_models(aliased)
    assert (names["best"], names["quick"], names["gemini/quick"], names["pro"]) == (
        "claude",
        "claude",
        "gemini",
        "gemini",
    )


def test_model_that_two_have_goes_to_the_one_that_can_serve(aliased: Engine) -> None:
    assert route(aliased, "", "quick") == ("claude", "haiku")
    in_trouble(aliased, "claude")
    assert route(aliased, "", "quick") == ("gemini", "flash")
    in_trouble(aliased, "gemini")
    assert route(aliased, "", "quick") == ("claude", "haiku")


# --- who comes next --------------------------------------------------------------------------------------------------


def test_auto_falls_back_to_all_others_by_their_score(engine: Engine) -> None:
    decision = routed(engine)
    assert (order(decision), decision.reason) == (["claude", "gemini"], "score")
    engine.provider("claude").stats.note_failure()
    assert order(routed(engine)) == ["gemini", "claude"]


def test_auto_prefers_who_answers_sooner_and_has_more_left(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        engine.provider("claude").stats.note_answer(4.0)
        engine.provider("gemini").stats.note_answer(0.5)
    assert order(routed(engine)) == ["gemini", "claude"]
    monkeypatch.setattr(Provider, "used_quota", property(lambda self: 0.9 if self.name == "gemini" else 0.0))
    assert order(routed(engine)) == ["claude", "gemini"]


def test_auto_has_no_second_choice_where_the_caller_wants_none(engine: Engine) -> None:
    assert order(routed(engine, fallback=False)) == ["claude"]


def test_auto_falls_back_to_those_the_caller_names_even_the_demo(engine: Engine) -> None:
    assert order(routed(engine, fallback=("echo",))) == ["claude", "echo"]


def test_named_provider_falls_back_only_if_allowed(engine: Engine) -> None:
    assert order(routed(engine, provider="gemini")) == ["gemini"]
    assert order(routed(engine, provider="gemini", fallback=False)) == ["gemini"]
    decision = routed(engine, provider="gemini", fallback=True)
    assert (order(decision), decision.reason) == (["gemini", "claude"], "named")
    assert order(routed(engine, provider="claude", fallback=("echo", "gemini"))) == ["claude", "echo", "gemini"]
    assert order(routed(engine, provider="claude", fallback=("gemini/flash",))) == ["claude", "gemini/flash"]


def test_named_provider_in_trouble_is_still_first(engine: Engine) -> None:
    """Its refusal is for whoever names it; the next choice is for whoever allows one."""
    in_trouble(engine, "claude")
    assert order(routed(engine, provider="claude", fallback=True)) == ["claude", "gemini"]


def test_fallback_to_nobody_known_is_refused(engine: Engine) -> None:
    with pytest.raises(ProviderUnknown):
        routed(engine, fallback=("gemini", "nobody"))


def test_model_falls_back_only_to_who_has_it(aliased: Engine) -> None:
    decision = routed(aliased, model="quick", fallback=True)
    assert (order(decision), decision.reason) == (["claude/haiku", "gemini/flash"], "model")
    assert order(routed(aliased, model="quick")) == ["claude/haiku"]
    assert order(routed(aliased, model="opus", fallback=True)) == ["claude/opus"]
    assert order(routed(aliased, model="opus", fallback=("gemini",))) == ["claude/opus", "gemini"]


def test_model_is_kept_by_whoever_has_it_too(aliased: Engine) -> None:
    assert order(routed(aliased, provider="claude", model="quick", fallback=True)) == ["claude/haiku", "gemini/flash"]
    assert order(routed(aliased, provider="claude", model="opus", fallback=True)) == ["claude/opus", "gemini"]


def test_the_hubs_chain_is_followed(tmp_path: Path) -> None:
    chain = ("gemini/flash", "nobody", "echo", "claude")
    engine = Engine(CONFIGS, data_folder=tmp_path, environ={}, max_starts=1, fallback_chain=chain)
    decision = routed(engine)
    assert order(decision) == ["claude", "gemini/flash"]
    assert dict(decision.rejected) == {"nobody": "there is no such provider", "echo": "it answers only by name"}
    assert order(routed(engine, provider="gemini", fallback=True)) == ["gemini", "gemini/flash", "claude"]


def test_who_was_tried_is_not_asked_again(engine: Engine) -> None:
    decision = decide(engine, Wish(), Nature(), tried=("claude",))
    assert order(decision) == ["gemini"]
    assert dict(decision.rejected)["claude"] == "it was tried already"


# --- who is passed over ----------------------------------------------------------------------------------------------


def test_who_is_passed_over_is_told_with_the_reason(engine: Engine) -> None:
    in_trouble(engine, "claude")
    decision = routed(engine)
    assert order(decision) == ["gemini"]
    rejected = dict(decision.rejected)
    assert rejected.keys() == {"claude", "echo"}
    assert "who?" in rejected["claude"]
    assert rejected["echo"] == "it answers only by name"


def test_key_may_keep_a_provider_or_a_model_out(aliased: Engine) -> None:
    decision = routed(aliased, may_use=lambda provider, model: provider == "gemini")
    assert order(decision) == ["gemini"]
    assert dict(decision.rejected)["claude"] == "this key may not use it"
    decision = routed(aliased, model="quick", may_use=lambda provider, model: model != "haiku")
    assert order(decision) == ["gemini/flash"]


def test_prompt_too_long_for_one_goes_to_another(tmp_path: Path) -> None:
    claude, gemini, echo = CONFIGS
    configs = [replace(claude, context_tokens=1_000), replace(gemini, context_tokens=5_000), echo]
    engine = Engine(configs, data_folder=tmp_path, environ={}, max_starts=1)
    assert order(routed(engine, Nature(tokens=1_000))) == ["claude", "gemini"]
    decision = routed(engine, Nature(tokens=1_001))
    assert order(decision) == ["gemini"]
    assert dict(decision.rejected)["claude"] == "about 1001 tokens are more than the 1000 it takes"
    # The length is a guess: whoever takes most is asked all the same.
    assert order(routed(engine, Nature(tokens=9_999))) == ["gemini"]
    assert order(routed(engine, Nature(tokens=9_999), provider="claude")) == ["claude"]


def test_cooldown_of_all_says_when_to_ask_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def cooling(self: Provider, model: str | None = None) -> ProviderError:
        return RateLimited(f"{self.name} cools down", retry_after_s=30.0 if self.name == "gemini" else 90.0)

    monkeypatch.setattr(Provider, "obstacle", cooling)
    with pytest.raises(NoProviderReady) as caught:
        routed(engine)
    assert caught.value.retry_after_s == 30.0
    assert order(routed(engine, provider="claude", fallback=True)) == ["claude"]


def test_disabled_provider_is_passed_over(tmp_path: Path) -> None:
    configs = [replace(CONFIGS[0], is_enabled=False), *CONFIGS[1:]]
    engine = Engine(configs, data_folder=tmp_path, environ={}, max_starts=1)
    assert order(routed(engine)) == ["gemini"]
    assert order(routed(engine, provider="claude")) == ["claude"]


# --- sessions and rules ----------------------------------------------------------------------------------------------


def test_session_stays_where_it_is_while_that_serves(engine: Engine) -> None:
    decision = routed(engine, stays_with="gemini")
    assert (order(decision), decision.reason) == (["gemini", "claude"], "session")
    in_trouble(engine, "gemini")
    assert (order(routed(engine, stays_with="gemini")), routed(engine).reason) == (["claude"], "score")
    assert order(routed(engine, stays_with="gone")) == ["claude"]


def test_session_of_the_demo_does_not_stay_there_by_itself(engine: Engine) -> None:
    assert order(routed(engine, stays_with="echo")) == ["claude", "gemini"]


def ruled(engine: Engine, *rules: Rule) -> Engine:
    engine.rules = rules
    return engine


def test_first_rule_that_is_for_the_request_decides(engine: Engine) -> None:
    rules = Rule("code", (Target("gemini"),), is_code=True), Rule("rest", (Target("claude", "opus"),))
    decision = routed(ruled(engine, *rules), Nature(is_code=True))
    assert (order(decision), decision.reason) == (["gemini", "claude"], "rule=code")
    decision = routed(engine)
    assert (order(decision), decision.reason) == (["claude/opus", "gemini"], "rule=rest")


def test_rule_outdoes_the_session_unless_it_asks_for_it(engine: Engine) -> None:
    rule = Rule("code", (Target("gemini"),), is_code=True)
    assert order(routed(ruled(engine, rule), Nature(is_code=True), stays_with="claude"))[0] == "gemini"
    rule = replace(rule, session_providers=("new", "gemini"))
    assert order(routed(ruled(engine, rule), Nature(is_code=True), stays_with="claude"))[0] == "claude"


def test_rule_is_not_for_who_names_provider_or_model(engine: Engine) -> None:
    ruled(engine, Rule("all", (Target("gemini"),)))
    assert route(engine, "claude") == ("claude", None)
    assert route(engine, "", "opus") == ("claude", "opus")
    assert route(engine, "", "claude/opus") == ("claude", "opus")


def test_rule_may_give_a_meaning_to_models_nobody_has(engine: Engine) -> None:
    """Clients with a vendor's model written into them."""
    rules = (
        Rule("mini", (Target("claude", SMALL),), models=("gpt-4o-mini",)),
        Rule("gpt", (Target("gemini"),), models=("gpt-*",)),
    )
    ruled(engine, *rules)
    assert route(engine, "", "gpt-4o-mini") == ("claude", "haiku")
    assert route(engine, "", "gpt-4o") == ("gemini", None)
    assert route(engine, "auto", "gpt-4o") == ("gemini", None)
    assert route(engine, "claude", "gpt-4o") == ("claude", "gpt-4o")
    with pytest.raises(ModelUnknown):
        route(engine, "", "mistral")


def test_rule_that_can_not_be_followed_is_passed_over_and_told(engine: Engine) -> None:
    ruled(
        engine, Rule("first", (Target("claude"), Target("nobody"), Target("echo"))), Rule("then", (Target("gemini"),))
    )
    in_trouble(engine, "claude")
    decision = routed(engine)
    assert decision.reason == "rule=then"
    rejected = dict(decision.rejected)
    assert rejected["rule=first"] == "none of its targets is of use now"
    assert rejected["nobody"] == "there is no such provider"
    assert "who?" in rejected["claude"]


def test_rule_with_its_own_chain_has_no_other(engine: Engine) -> None:
    ruled(engine, Rule("it", (Target("claude", "opus"),), fallback=("claude/haiku",)))
    assert order(routed(engine)) == ["claude/opus", "claude/haiku"]


def test_targets_that_were_not_drawn_come_next(engine: Engine) -> None:
    ruled(engine, Rule("it", (Target("claude"), Target("gemini", "flash", weight=0))))
    assert order(routed(engine)) == ["claude", "gemini/flash"]
    in_trouble(engine, "claude")
    assert order(routed(engine)) == ["gemini/flash"]
    assert order(routed(engine, fallback=False)) == ["gemini/flash"]


def test_weights_share_out_sessions_and_keep_each_where_it_is(engine: Engine) -> None:
    ruled(engine, Rule("it", (Target("claude", weight=3), Target("gemini", weight=1))))
    drawn = {f"s{at}": order(routed(engine, label=f"s{at}"))[0] for at in range(400)}
    assert 240 < Counter(drawn.values())["claude"] < 360
    assert all(order(routed(engine, label=label))[0] == first for label, first in drawn.items())
    assert len({order(routed(engine))[0] for _ in range(100)}) == 2


# --- telling it ------------------------------------------------------------------------------------------------------


def test_decision_in_a_line(engine: Engine) -> None:
    assert describe(routed(engine)) == "claude; score"
    assert describe(routed(engine, provider="gemini")) == "gemini; named"
    assert describe(routed(engine, model="flash")) == "gemini; model"
    assert describe(routed(engine, stays_with="gemini")) == "gemini; session"
    assert describe(routed(ruled(engine, Rule("code", (Target("claude"),))))) == "claude; rule=code"


@pytest.mark.parametrize("name", ["long context", 'a"b', "a;b\r\nX-Evil: 1", "Größe 🙂", "back\\slash"])
def test_name_of_a_rule_can_not_break_out_of_its_line(engine: Engine, name: str) -> None:
    line = describe(routed(ruled(engine, Rule(name, (Target("claude"),)))))
    assert line.isascii() and line.isprintable()
    assert line.startswith('claude; rule="') and line.endswith('"') and line.count('"') == 2


def test_whole_decision_is_told_as_json(engine: Engine) -> None:
    in_trouble(engine, "gemini")
    told = json.loads(
        json.dumps(explain(routed(engine, Nature(tokens=7, languages=("de",)), model="opus", fallback=True)))
    )
    assert told["choices"] == [{"provider": "claude", "model": "opus"}]
    assert (told["provider"], told["model"], told["reason"]) == ("claude", "opus", "model")
    assert told["nature"]["tokens"] == 7 and told["nature"]["languages"] == ["de"]
    assert {it["name"] for it in explain(routed(engine))["rejected"]} == {"gemini", "echo"}
