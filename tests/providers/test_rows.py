"""Rows over settings as what the engine goes by; a hostile or broken row costs itself, never the hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection
from pytest_django import Settings

from hubsite.env import Env
from hubsite.provider_settings import read_provider_settings
from providers.default_rules import DEFAULT_RULES
from providers.models import ProviderRow, RouteRule
from providers.pool_limits import PoolLimits
from providers.programs import is_never_passed
from providers.provider_config import ProviderConfig
from providers.rows import MB, ensure_rows, fingerprint, first_rows, read_rows, to_rule, without_rows
from providers.rules import Rule, Target

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def known(settings: Settings) -> None:
    """A hub with claude and echo, and one agent's command line and key allowed."""
    configs = dict(django_settings.HUB_PROVIDER_SETTINGS.configs)
    limits = PoolLimits(floor=1, ceiling=8, kept=2, rss_bytes=512 * MB, hard_rss_bytes=1024 * MB)
    configs["claude"] = replace(configs["claude"], pool=limits, default_model="opus", requests_per_minute=30)
    settings.HUB_PROVIDER_SETTINGS = replace(
        django_settings.HUB_PROVIDER_SETTINGS,
        configs=configs,
        names=("echo", "claude"),
        allowed_commands=(("/opt/agent", "--acp"), ("/opt/claude",)),
        allowed_env=("MISTRAL_API_KEY",),
    )


def made(**values: Any) -> ProviderRow:
    return ProviderRow.objects.create(**{"name": "second", "adapter": "claude", **values})


def config_of(name: str) -> ProviderConfig:
    (found,) = [it for it in read_rows().configs if (it.name or it.adapter.info.name) == name]
    return found


def names() -> list[str]:
    return [it.name or it.adapter.info.name for it in read_rows().configs]


# --- what rows come to -----------------------------------------------------------------------------------------------


def test_hub_without_rows_has_what_the_settings_say() -> None:
    assert names() == ["echo", "claude"]
    assert config_of("claude") == django_settings.HUB_PROVIDER_SETTINGS.configs["claude"]


def test_rows_that_say_nothing_change_nothing_but_the_name() -> None:
    ensure_rows()
    assert names() == ["echo", "claude"]
    for name in names():
        assert config_of(name) == replace(django_settings.HUB_PROVIDER_SETTINGS.configs[name], name=name)


def test_rows_come_after_the_settings_own_providers() -> None:
    made(name="another")
    ensure_rows()
    assert names() == ["echo", "claude", "another"]


def test_what_a_row_says_holds_and_the_rest_is_as_the_settings_of_its_adapter_say() -> None:
    made(
        binary="/opt/claude",
        extra_env=["MISTRAL_API_KEY"],
        model_names=["opus", "haiku"],
        aliases={"quick": "haiku"},
        context_tokens=1_000,
        floor=0,
        rss_mb=2_000,
        nice=5,
        cpu_weight=50,
        max_processes=9,
        memory_max_mb=3_000,
        turn_s=60,
        concurrent_turns=3,
    )
    config, base = config_of("second"), django_settings.HUB_PROVIDER_SETTINGS.configs["claude"]
    assert (config.name, config.binary, config.extra_env) == ("second", "/opt/claude", ("MISTRAL_API_KEY",))
    assert (config.models, config.aliases, config.context_tokens) == (("opus", "haiku"), (("quick", "haiku"),), 1_000)
    assert (config.default_model, config.requests_per_minute, config.concurrent_turns) == ("opus", 30, 3)
    expected = replace(base.pool, floor=0, rss_bytes=2_000 * MB, hard_rss_bytes=4_000 * MB)
    assert config.pool == expected
    assert config.deadlines == replace(base.deadlines, turn_s=60.0)
    assert config.process == replace(base.process, nice=5, cpu_weight=50, max_processes=9, memory_bytes=3_000 * MB)


def test_nought_takes_a_limit_of_the_settings_away() -> None:
    made(requests_per_minute=0, cpu_weight=0, max_processes=0)
    config = config_of("second")
    assert (config.requests_per_minute, config.process.cpu_weight, config.process.max_processes) == (None, None, 0)


def test_lower_ceiling_takes_the_floor_and_the_kept_ones_with_it() -> None:
    made(ceiling=1)
    assert config_of("second").pool == replace(config_of("claude").pool, ceiling=1, floor=1, kept=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (True, False)),
        ({"is_enabled": False}, (False, False)),
        ({"is_drained": True}, (False, True)),
        ({"is_enabled": False, "is_drained": True}, (False, False)),
    ],
)
def test_disabled_and_drained_providers_take_no_turns(values: dict[str, bool], expected: tuple[bool, bool]) -> None:
    made(**values)
    config = config_of("second")
    assert (config.is_enabled, config.is_drained) == expected


def test_rules_are_read_in_their_order_as_they_were_shipped() -> None:
    assert read_rows().rules == DEFAULT_RULES == without_rows().rules
    RouteRule.objects.create(name="first", position=0, targets=[{"provider": "claude", "model": "", "weight": 2}])
    assert read_rows().rules[0] == Rule("first", (Target("claude", weight=2),))


def test_every_field_of_a_rule_is_one_of_its_row() -> None:
    row = RouteRule(
        name="all",
        targets=[{"provider": "claude", "model": "opus", "weight": 3}],
        fallback=["gemini/flash"],
        is_enabled=False,
        least_tokens=1,
        most_tokens=2,
        is_code=True,
        languages=["de"],
        has_images=False,
        has_tools=True,
        wants_json=False,
        model_names=["gpt-4*"],
        keys=["n8n"],
        session_providers=["new"],
        hours="22:00-06:00",
        time_zone="Europe/Berlin",
        days=[0, 6],
    )
    row.full_clean()
    assert to_rule(row) == Rule(
        "all",
        (Target("claude", "opus", 3),),
        ("gemini/flash",),
        False,
        1,
        2,
        True,
        ("de",),
        False,
        True,
        False,
        ("gpt-4*",),
        ("n8n",),
        ("new",),
        "22:00-06:00",
        "Europe/Berlin",
        (0, 6),
    )


# --- broken rows -----------------------------------------------------------------------------------------------------

HOSTILE_ROWS: list[dict[str, Any]] = [
    {"name": "auto"},
    {"name": "new"},
    {"name": "../x"},
    {"name": "ünïcode"},
    {"name": "a b"},
    {"name": "a\n"},
    {"name": ""},
    {"adapter": "nothing"},
    {"adapter": "../../etc"},
    {"adapter": "acp", "command": ["/bin/sh", "-c", "true"]},
    {"adapter": "acp", "command": ["/opt/agent"]},
    {"adapter": "acp", "command": ["/opt/agent", "--acp", "--more"]},
    {"adapter": "acp", "command": ["/opt/agent", "--acp;true"]},
    {"adapter": "acp", "command": ["opt/agent", "--acp"]},
    {"adapter": "acp", "command": ["/opt/../opt/agent", "--acp"]},
    {"adapter": "acp", "command": ["/opt/agent", "--acp\n"]},
    {"adapter": "acp", "command": "/opt/agent --acp"},
    {"adapter": "acp", "command": {"0": "/opt/agent"}},
    {"adapter": "acp", "command": [["/opt/agent"]]},
    {"command": ["/opt/agent", "--acp"]},
    {"binary": "/bin/sh"},
    {"binary": "claude"},
    {"binary": "$(id)"},
    {"adapter": "echo", "binary": "/opt/claude"},
    {"extra_env": ["HUB_SECRET_KEY"]},
    {"extra_env": ["LD_PRELOAD"]},
    {"extra_env": ["MISTRAL_API_KEY", "DATABASE_URL"]},
    {"extra_env": ["MISTRAL_API_KEY\n"]},
    {"extra_env": "MISTRAL_API_KEY"},
    {"extra_env": {"MISTRAL_API_KEY": "mine"}},
    {"extra_env": [None]},
    {"extra_env": 7},
    {"model_names": ["-x"]},
    {"model_names": ["x" * 10_000]},
    {"model_names": [f"m{number}" for number in range(10_000)]},
    {"model_names": None},
    {"aliases": ["a"]},
    {"aliases": {"a": 1}},
    {"aliases": {"a\n": "b"}},
    {"default_model": "--x"},
    {"floor": 9, "ceiling": 2},
    {"ceiling": 0},
    {"nice": 20},
    {"cpu_weight": 10_001},
    {"max_processes": 10_001},
    {"memory_max_mb": 1_048_577},
    {"turn_s": 0},
    {"turn_s": 1e300},
]


@pytest.mark.parametrize("values", HOSTILE_ROWS, ids=str)
def test_hostile_row_is_left_out_with_its_reason_and_the_others_stand(
    values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As somebody would write it into the database, past every form."""
    made(name="good")
    try:
        row = made(**{"name": "bad", **values})
    except (ValueError, TypeError):  # the column itself takes no such thing
        return
    except Exception as error:
        assert "NOT NULL" in str(error)
        return
    rows = read_rows()
    assert [it.name or it.adapter.info.name for it in rows.configs] == ["echo", "claude", "good"]
    ((name, why),) = rows.broken
    assert name == f"provider {row}"
    assert why
    rows.report()
    assert "is left out" in caplog.text


HOSTILE_RULES: list[dict[str, Any]] = [
    {"name": "x\r\nX-Evil: 1"},
    {"name": ""},
    {"targets": []},
    {"targets": {"provider": "claude"}},
    {"targets": [{"provider": "claude"}]},
    {"targets": [{"provider": "claude", "model": "", "weight": -1}]},
    {"targets": [{"provider": "claude", "model": "", "weight": "1"}]},
    {"targets": [{"provider": "claude", "model": "", "weight": 1, "more": 1}]},
    {"targets": [{"provider": "auto", "model": "", "weight": 1}]},
    {"targets": ["claude"]},
    {"fallback": ["../x"]},
    {"fallback": "claude"},
    {"languages": ["english please"]},
    {"least_tokens": 5, "most_tokens": 4},
    {"hours": "99:00-99:30"},
    {"time_zone": "../../etc/passwd"},
    {"days": [7]},
    {"days": [True]},
    {"days": "Monday"},
    {"keys": ["a\nb"]},
    {"session_providers": [{}]},
]


@pytest.mark.parametrize("values", HOSTILE_RULES, ids=str)
def test_hostile_rule_is_left_out_with_its_reason(values: dict[str, Any]) -> None:
    target = {"provider": "claude", "model": "", "weight": 1}
    RouteRule.objects.create(**{"name": "bad", "targets": [target], **values})
    rows = read_rows()
    assert rows.rules == DEFAULT_RULES
    assert len(rows.broken) == 1


def test_column_that_holds_no_json_at_all_costs_its_row_alone() -> None:
    """SQLite lets a tool write anything into any column."""
    bad = made(name="bad")
    made(name="good")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE providers_providerrow SET floor = 'many', nice = x'00ff' WHERE id = %s", [bad.pk])
    assert "bad" not in names()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute("UPDATE providers_providerrow SET aliases = '{no' WHERE id = %s", [bad.pk])
        cursor.execute("UPDATE providers_providerrow SET updated_at = 'never' WHERE id = %s", [bad.pk])
        cursor.execute("PRAGMA ignore_check_constraints = OFF")
    assert names() == ["echo", "claude", "good"]
    assert len(read_rows().broken) == 1
    assert fingerprint()


def test_broken_row_of_the_settings_own_still_says_whether_it_is_wanted() -> None:
    made(name="claude", extra_env=["HUB_SECRET_KEY"], is_enabled=False)
    assert config_of("claude").is_enabled is False
    assert config_of("claude").extra_env == ()


def test_what_the_owner_no_longer_allows_is_left_out_at_the_next_look(settings: Settings) -> None:
    made(adapter="acp", command=["/opt/agent", "--acp"])
    assert "second" in names()
    settings.HUB_PROVIDER_SETTINGS = replace(settings.HUB_PROVIDER_SETTINGS, allowed_commands=())
    assert "second" not in names()


def test_hub_starts_with_the_settings_alone_where_the_database_can_not_be_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise OperationalError("it is away")

    monkeypatch.setattr("providers.rows.ensure_rows", refuse)
    monkeypatch.setattr("providers.rows.read_rows", refuse)
    assert first_rows() == without_rows()
    assert "it is away" in caplog.text


# --- noticing changes ------------------------------------------------------------------------------------------------


def test_every_change_of_a_row_changes_the_fingerprint() -> None:
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    row = made()
    seen.append(fingerprint())
    ProviderRow.objects.filter(pk=row.pk).update(is_enabled=False)  # leaves updated_at as it is
    seen.append(fingerprint())
    RouteRule.objects.filter(name="code").update(position=99)
    seen.append(fingerprint())
    row.delete()
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


def test_only_a_provider_without_a_row_gets_one_at_the_start() -> None:
    made(name="claude", ceiling=2)
    for _ in range(2):
        ensure_rows()
    assert list(ProviderRow.objects.values_list("name", "ceiling")) == [("claude", 2), ("echo", None)]


# --- the settings ----------------------------------------------------------------------------------------------------


def test_adapter_of_any_program_is_there_only_by_name() -> None:
    assert "acp" not in read_provider_settings(Env({})).names
    named = read_provider_settings(Env({"HUB_PROVIDERS": "acp", "HUB_ACP_COMMAND": "/opt/agent --acp 'a b'"}))
    assert named.names == ("acp",)
    assert named.configs["acp"].command == ("/opt/agent", "--acp", "a b")


def test_allow_list_is_read_word_for_word() -> None:
    env = Env({"HUB_ALLOWED_COMMANDS": "opencode acp, /opt/agent", "HUB_ALLOWED_ENV": "A_KEY,B_KEY"})
    known = read_provider_settings(env)
    assert known.allowed_commands == (("opencode", "acp"), ("/opt/agent",))
    assert known.allowed_env == ("A_KEY", "B_KEY")
    assert env.faults == []


def test_chain_may_name_models() -> None:
    env = Env({"HUB_FALLBACK_CHAIN": "claude/opus, gemini"})
    assert read_provider_settings(env).fallback_chain == ("claude/opus", "gemini")
    assert env.faults == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HUB_ALLOWED_COMMANDS", "../agent"),
        ("HUB_ALLOWED_COMMANDS", "bin/agent"),
        ("HUB_ALLOWED_COMMANDS", "agent 'open"),
        ("HUB_ALLOWED_ENV", "HUB_SECRET_KEY"),
        ("HUB_ALLOWED_ENV", "LD_PRELOAD"),
        ("HUB_ALLOWED_ENV", "A-B"),
        ("HUB_FALLBACK_CHAIN", "claude,../x"),
        ("HUB_FALLBACK_CHAIN", "claude,auto"),
        ("HUB_FALLBACK_CHAIN", "claude/--x"),
    ],
)
def test_allow_list_that_can_not_be_is_a_fault(name: str, value: str) -> None:
    env = Env({name: value})
    known = read_provider_settings(env)
    assert [fault.name for fault in env.faults] == [name]
    assert (known.allowed_commands, known.allowed_env) == ((), ())


@pytest.mark.parametrize(
    "name",
    [
        *("HUB_SECRET_KEY", "HUB_CLAUDE_BIN", "hub_x", "REDIS_URL", "DATABASE_URL", "SECRET_KEY", "DJANGO_SECRET_KEY"),
        *("DJANGO_SETTINGS_MODULE", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "PYTHONPATH"),
        *("NODE_OPTIONS", "BASH_ENV"),
    ],
)
def test_hubs_own_secrets_and_what_changes_programs_are_never_passed(name: str) -> None:
    assert is_never_passed(name)


@pytest.mark.parametrize("name", ["MISTRAL_API_KEY", "AWS_SECRET_ACCESS_KEY", "HOME", "GITHUB_TOKEN"])
def test_logins_of_a_cli_may_be_allowed(name: str) -> None:
    assert not is_never_passed(name)
