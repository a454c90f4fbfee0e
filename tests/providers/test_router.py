"""Which provider a request gets, with providers whose state the test sets."""

from __future__ import annotations

from asyncio import Semaphore
from pathlib import Path

import pytest

from providers.adapters.base import AdapterInfo
from providers.adapters.echo import EchoAdapter
from providers.engine import Engine
from providers.errors import ModelUnknown, NeedsLogin, ProviderUnknown
from providers.planning import PoolLimits
from providers.pool import WorkerPool
from providers.provider import Provider, ProviderConfig
from providers.router import NoProviderReady, choose, listed_models
from tests.providers.fakes import Starter


def info(name: str, *, by_name_only: bool = False, prefixes: tuple[str, ...] = (), models: str = "") -> AdapterInfo:
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
    )


KINDS = (
    info("claude", models="opus sonnet", prefixes=("claude-",)),
    info("gemini", models="flash", prefixes=("gemini-", "models/")),
    info("echo", models="echo", by_name_only=True),
)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    configs = [ProviderConfig(type(kind.name, (EchoAdapter,), {"info": kind})) for kind in KINDS]
    return Engine(configs, data_folder=tmp_path, environ={}, max_starts=1)


@pytest.fixture(autouse=True)
def every_program_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that was never opened stands for a program that was found."""
    make = Provider.__init__

    def with_pool(self: Provider, *args: object) -> None:
        make(self, *args)  # type: ignore[arg-type]
        self.pool = WorkerPool(self.name, Starter(), PoolLimits(floor=0), Semaphore(1))

    monkeypatch.setattr(Provider, "__init__", with_pool)


def route(engine: Engine, provider: str = "", model: str = "") -> tuple[str, str | None]:
    chosen = choose(engine, provider=provider, model=model)
    return chosen.provider.name, chosen.model


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
        choose(engine, provider=provider, model=model)


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
        choose(engine)
    monkeypatch.setattr("providers.provider.TRY_AGAIN_S", 0.0)
    assert route(engine) == ("claude", None)
    engine.provider("gemini").note(None)
    assert route(engine) == ("gemini", None)


def test_nothing_usable_is_told_with_the_way_to_mend_each(engine: Engine) -> None:
    """The demo is not offered in place of a real provider."""
    engine.provider("claude").note(NeedsLogin("who?", mend="log in to claude"))
    engine.provider("gemini").pool = None
    with pytest.raises(NoProviderReady) as caught:
        choose(engine)
    assert "claude: needs login (log in to claude)" in caught.value.message
    assert "gemini: not installed (install gemini)" in caught.value.message
    assert "echo" not in caught.value.message


def test_an_engine_without_providers_says_so(tmp_path: Path) -> None:
    engine = Engine([], data_folder=tmp_path, environ={}, max_starts=1)
    with pytest.raises(NoProviderReady, match="none is enabled"):
        choose(engine)


def test_every_listed_name_leads_where_the_list_says(engine: Engine) -> None:
    names = listed_models(engine)
    assert {"auto", "claude", "claude/opus", "opus", "flash", "echo"} <= names.keys()
    for model, provider in names.items():
        assert model == "auto" or route(engine, "", model)[0] == provider
