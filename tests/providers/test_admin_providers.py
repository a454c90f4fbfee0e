"""Providers and rules in admin: seen, added, changed, drained; hostile values refused, broken rows marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from providers.models import ProviderRow, RouteRule
from providers.provider_config import ProviderConfig
from providers.registry import adapters_by_name
from providers.rows import ensure_rows
from tests.asking import eventually
from tests.chat.administrators import HOSTILE, guest, queries_of, root, said, text_of, words_of
from tests.hub import HubProcess, running_hub

ROWS, RULES = "/admin/providers/providerrow/", "/admin/providers/routerule/"
TRY = f"{RULES}try/"
COMMAND = ("/opt/agent", "--flag", "a b")


@pytest.fixture(autouse=True)
def allowed(settings: Settings) -> None:
    """What the owner allows in these tests."""
    configs = {name: ProviderConfig(adapter) for name, adapter in adapters_by_name().items()}
    settings.HUB_PROVIDER_SETTINGS = replace(
        django_settings.HUB_PROVIDER_SETTINGS,
        configs=configs,
        names=("claude", "echo"),
        allowed_commands=(COMMAND, ("/opt/claude",)),
        allowed_env=("MISTRAL_API_KEY",),
    )


@pytest.fixture(autouse=True)
def shipped_rules(request: pytest.FixtureRequest) -> None:
    """Those that a migration makes: tests with transactions of their own leave the tables empty behind them."""
    if request.node.get_closest_marker("django_db"):
        request.getfixturevalue("db")
        if not RouteRule.objects.exists():
            import_module("providers.migrations.0002_default_rules").add_default_rules(apps, None)


def made(**values: Any) -> ProviderRow:
    return ProviderRow.objects.create(**{"name": "second", "adapter": "echo", **values})


def page_of(row: ProviderRow | RouteRule) -> str:
    return f"{ROWS if isinstance(row, ProviderRow) else RULES}{row.pk}/change/"


def act(client: Client, action: str, *rows: ProviderRow | RouteRule) -> Any:
    where = ROWS if isinstance(rows[0], ProviderRow) else RULES
    return client.post(where, {"action": action, "_selected_action": [row.pk for row in rows]})


# --- providers -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_providers_of_the_settings_are_listed_once_the_hub_has_started() -> None:
    for _ in range(2):
        ensure_rows()
    assert list(ProviderRow.objects.values_list("name", "adapter")) == [("claude", "claude"), ("echo", "echo")]
    words = words_of(root().get(ROWS))
    assert "claude claude" in words
    assert "unknown" in words, "no engine runs in this process"


@pytest.mark.django_db
def test_provider_is_added_with_all_that_was_filled_in() -> None:
    response = root().post(
        f"{ROWS}add/",
        {
            "name": "agent",
            "adapter": "acp",
            "is_enabled": "on",
            "command": "/opt/agent --flag 'a b'",
            "extra_env": ["MISTRAL_API_KEY"],
            "model_names": "large, small,,large",
            "aliases": "quick = small\n\n big=large",
            "floor": "0",
            "ceiling": "3",
            "turn_s": "60.5",
            "requests_per_minute": "0",
        },
    )
    assert response.status_code == 302, words_of(response)
    row = ProviderRow.objects.get()
    assert (row.name, row.adapter, row.command) == ("agent", "acp", list(COMMAND))
    assert (row.extra_env, row.model_names, row.aliases) == (
        ["MISTRAL_API_KEY"],
        ["large", "small"],
        {"quick": "small", "big": "large"},
    )
    assert (row.floor, row.ceiling, row.turn_s, row.requests_per_minute, row.nice) == (0, 3, 60.5, 0, None)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fault",
    [
        {"name": "auto"},
        {"name": "../x"},
        {"name": "Grösse"},
        {"name": "x" * 33},
        {"adapter": "nothing"},
        {"command": "/bin/sh -c true"},
        {"command": "/opt/agent --flag 'a b' more"},
        {"command": "/opt/agent --flag a b"},
        {"binary": "/bin/sh"},
        {"binary": "/opt/claude"},
        {"extra_env": ["HUB_SECRET_KEY"]},
        {"extra_env": ["LD_PRELOAD"]},
        {"model_names": "--danger"},
        {"model_names": "a\0b"},
        {"model_names": ",".join(f"m{number}" for number in range(201))},
        {"aliases": "no equals"},
        {"aliases": "a = -b"},
        {"floor": "5", "ceiling": "2"},
        {"ceiling": str(10**30)},
        {"nice": "-5"},
        {"turn_s": "nan"},
        {"turn_s": "1e400"},
    ],
)
def test_hostile_provider_is_not_made(fault: dict[str, Any]) -> None:
    response = root().post(f"{ROWS}add/", {"name": "second", "adapter": "echo", "is_enabled": "on", **fault})
    assert "errornote" in text_of(response)
    assert not ProviderRow.objects.exists()


@pytest.mark.django_db
def test_program_may_be_chosen_for_an_adapter_that_has_one() -> None:
    client = root()
    client.post(f"{ROWS}add/", {"name": "second", "adapter": "claude", "is_enabled": "on", "binary": "/opt/claude"})
    assert ProviderRow.objects.get().binary == "/opt/claude"


@pytest.mark.django_db
def test_what_the_owner_no_longer_allows_is_shown_and_the_row_marked_and_not_saved_again() -> None:
    row = made(adapter="acp", command=["/old/agent"], extra_env=["OLD_KEY"])
    client = root()
    words = words_of(client.get(page_of(row)))
    assert "/old/agent" in words
    assert "OLD_KEY" in words
    assert "HUB_ALLOWED_COMMANDS" in words
    assert "BROKEN" in words_of(client.get(ROWS))
    saved = client.post(page_of(row), {"is_enabled": "on", "command": "/old/agent", "extra_env": ["OLD_KEY"]})
    assert "errornote" in text_of(saved)
    client.post(page_of(row), {"is_enabled": "on", "command": ""})
    row.refresh_from_db()
    assert (row.command, row.extra_env) == ([], [])
    assert "BROKEN" not in words_of(client.get(ROWS))


@pytest.mark.django_db
def test_rows_of_a_wrong_kind_are_marked_and_can_be_mended() -> None:
    row = made(name="../x", adapter="nothing", command={"a": 1}, aliases=[1], model_names="x", extra_env=7)
    ProviderRow.objects.filter(pk=row.pk).update(default_model=HOSTILE)
    client = root()
    assert "BROKEN" in words_of(client.get(ROWS))
    page = client.get(page_of(row))
    assert "<script>alert" not in text_of(page)
    assert "errornote" in text_of(client.post(page_of(row), {"is_enabled": "on"})), "its name can't be mended"
    assert client.post(f"{ROWS}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not ProviderRow.objects.exists()


@pytest.mark.django_db
def test_empty_numbers_say_what_holds_instead() -> None:
    words = words_of(root().get(page_of(made())))
    assert "Empty: as the settings say (4)." in words, "the ceiling"
    assert "HUB_ALLOWED_ENV" in words


@pytest.mark.django_db
def test_name_and_adapter_stay_as_they_are() -> None:
    row = made()
    root().post(page_of(row), {"name": "other", "adapter": "claude", "is_enabled": "on", "ceiling": "2"})
    row.refresh_from_db()
    assert (row.name, row.adapter, row.ceiling) == ("second", "echo", 2)


@pytest.mark.django_db
def test_saving_an_old_form_does_not_undo_a_drain() -> None:
    row, client = made(), root()
    act(client, "drain", row)
    client.post(page_of(row), {"is_enabled": "on", "ceiling": "2"})
    row.refresh_from_db()
    assert (row.is_drained, row.ceiling) == (True, 2)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("action", "column", "expected"),
    [
        ("restart", "generation", 1),
        ("drain", "is_drained", True),
        ("undrain", "is_drained", False),
        ("enable", "is_enabled", True),
        ("disable", "is_enabled", False),
    ],
)
def test_actions_are_written_down_for_every_hub(action: str, column: str, expected: object) -> None:
    row, client = made(is_drained=action == "undrain", is_enabled=action != "enable"), root()
    before = row.updated_at
    assert "within two seconds" in said(act(client, action, row))
    row.refresh_from_db()
    assert getattr(row, column) == expected
    assert row.updated_at > before
    assert "second" in words_of(client.get(f"{ROWS}{row.pk}/history/"))


@pytest.mark.django_db
def test_clearing_a_cooldown_says_so_where_no_engine_runs() -> None:
    assert "Not running in this process" in said(act(root(), "clear_cooldown", made()))


@pytest.mark.django_db
def test_provider_of_the_settings_can_not_be_deleted() -> None:
    ensure_rows()
    row, client = ProviderRow.objects.get(name="echo"), root()
    assert client.post(f"{ROWS}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    act(client, "delete_selected", row)
    assert ProviderRow.objects.filter(name="echo").exists()
    other = made()
    client.post(f"{ROWS}{other.pk}/delete/", {"post": "yes"})
    assert not ProviderRow.objects.filter(name="second").exists()


@pytest.mark.django_db
def test_viewer_sees_all_and_can_do_nothing() -> None:
    row, client = made(), guest("view_providerrow", "view_routerule")
    assert "second" in words_of(client.get(ROWS))
    page = text_of(client.get(page_of(row)))
    assert 'name="action"' not in page
    assert 'name="_save"' not in page
    for action in ("restart", "drain", "disable"):
        act(client, action, row)
    assert client.post(page_of(row), {"is_enabled": "on"}).status_code == 403
    row.refresh_from_db()
    assert (row.generation, row.is_drained, row.is_enabled) == (0, False, True)
    assert "code" in words_of(client.get(RULES))


@pytest.mark.django_db
def test_who_may_not_look_is_kept_out() -> None:
    for url in (ROWS, RULES, TRY, page_of(made())):
        assert "/login/" in Client().get(url)["Location"]
        assert guest_of_nothing().get(url).status_code == 403


def guest_of_nothing() -> Client:
    client = Client()
    client.force_login(User.objects.get_or_create(username="nobody", is_staff=True)[0])
    return client


@pytest.mark.django_db
def test_list_of_many_providers_takes_no_more_queries() -> None:
    client = root()
    made()
    few = queries_of(client, ROWS)
    ProviderRow.objects.bulk_create([ProviderRow(name=f"p{number}", adapter="echo") for number in range(30)])
    assert queries_of(client, ROWS) == few


# --- rules -----------------------------------------------------------------------------------------------------------

RULE: dict[str, Any] = {
    "name": "night",
    "position": "5",
    "is_enabled": "on",
    "targets": "claude/small 3\ngemini",
    "fallback": "gemini/flash, claude",
    "least_tokens": "10",
    "is_code": "true",
    "has_images": "false",
    "has_tools": "unknown",
    "wants_json": "unknown",
    "languages": "de, en",
    "model_names": "gpt-4*, auto",
    "keys": "n8n",
    "session_providers": "new, claude",
    "hours": "22:00-06:00",
    "time_zone": "Europe/Berlin",
    "days": ["0", "6"],
}


def names() -> list[str]:
    return list(RouteRule.objects.values_list("name", flat=True))


@pytest.mark.django_db
def test_default_rules_are_there_from_the_start() -> None:
    assert names() == ["images", "long context", "code", "short"]


@pytest.mark.django_db
def test_rule_is_made_with_all_that_was_filled_in() -> None:
    response = root().post(f"{RULES}add/", RULE)
    assert response.status_code == 302, words_of(response)
    rule = RouteRule.objects.get(name="night")
    assert rule.targets == [
        {"provider": "claude", "model": "small", "weight": 3},
        {"provider": "gemini", "model": "", "weight": 1},
    ]
    assert (rule.fallback, rule.least_tokens, rule.most_tokens) == (["gemini/flash", "claude"], 10, None)
    assert (rule.is_code, rule.has_images, rule.has_tools, rule.wants_json) == (True, False, None, None)
    assert (rule.languages, rule.model_names, rule.keys) == (["de", "en"], ["gpt-4*", "auto"], ["n8n"])
    assert (rule.session_providers, rule.hours, rule.days) == (["new", "claude"], "22:00-06:00", [0, 6])


@pytest.mark.django_db
def test_rule_that_is_saved_as_it_is_shown_stays_as_it_is() -> None:
    client = root()
    client.post(f"{RULES}add/", RULE)
    rule = RouteRule.objects.get(name="night")
    form = client.get(page_of(rule)).context["adminform"].form
    shown = {it.name: it.field.prepare_value(it.value()) for it in form}
    client.post(page_of(rule), {name: "" if value is None else value for name, value in shown.items()})
    after = RouteRule.objects.get(name="night")
    fields = [it.name for it in RouteRule._meta.get_fields() if it.name != "updated_at"]
    assert [getattr(after, it) for it in fields] == [getattr(rule, it) for it in fields]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fault",
    [
        {"name": "a\r\nX-Evil: 1"},
        {"name": HOSTILE},
        {"name": "x" * 61},
        {"targets": ""},
        {"targets": "auto"},
        {"targets": "../x"},
        {"targets": "claude many"},
        {"targets": "claude 99999999999"},
        {"targets": "claude/--x"},
        {"fallback": "claude/"},
        {"languages": "english!"},
        {"least_tokens": "10", "most_tokens": "5"},
        {"hours": "25:00-26:00"},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": "../../etc/passwd"},
        {"days": ["7"]},
        {"model_names": "a\0"},
        {"keys": "\0"},
        {"position": "-1"},
    ],
)
def test_hostile_rule_is_not_made(fault: dict[str, Any]) -> None:
    response = root().post(f"{RULES}add/", {**RULE, **fault})
    assert "errornote" in text_of(response)
    assert len(names()) == 4


@pytest.mark.django_db
def test_rules_are_moved_up_and_down() -> None:
    client = root()
    act(client, "move_up", RouteRule.objects.get(name="code"))
    assert names() == ["images", "code", "long context", "short"]
    act(client, "move_up", RouteRule.objects.get(name="images"))
    assert names() == ["images", "code", "long context", "short"]
    act(client, "move_down", RouteRule.objects.get(name="images"), RouteRule.objects.get(name="code"))
    assert names() == ["long context", "images", "code", "short"]


@pytest.mark.django_db
def test_position_and_switch_are_changed_in_the_list_of_broken_rules_too() -> None:
    RouteRule.objects.filter(name="short").update(targets={"a": 1}, days="never")
    client = root()
    assert "BROKEN" in words_of(client.get(RULES))
    rules = list(RouteRule.objects.all())
    data: dict[str, Any] = {"form-TOTAL_FORMS": len(rules), "form-INITIAL_FORMS": len(rules), "_save": "Save"}
    for place, rule in enumerate(rules):
        data |= {f"form-{place}-id": rule.pk, f"form-{place}-position": 100 - place}
    text_of(client.post(RULES, data, follow=True))
    RouteRule.objects.filter(name="short").update(targets=[{"provider": "claude", "model": "", "weight": 1}], days=[])
    client.post(RULES, data)
    assert names() == ["short", "code", "long context", "images"]
    assert not RouteRule.objects.filter(is_enabled=True).exists()


@pytest.mark.django_db
def test_page_tells_which_rule_a_request_would_hit_and_why_not_the_others() -> None:
    client = root()
    assert "Prompt" in words_of(client.get(TRY))
    words = words_of(client.post(TRY, {"prompt": "def f(x):\n    return x\n\nclass A:\n    pass\n" * 5}))
    assert "It hits the rule code." in words
    assert "it has no images" in words
    assert "It hits the rule images." in words_of(client.post(TRY, {"prompt": "What is this?", "has_images": "on"}))
    assert "It hits the rule long context." in words_of(client.post(TRY, {"prompt": "x", "tokens": "150000"}))
    named = words_of(client.post(TRY, {"prompt": "Hi", "provider": "claude"}))
    assert "It hits no rule" in named
    assert "the request names its provider" in named


@pytest.mark.django_db
def test_page_goes_by_the_time_that_is_asked_about() -> None:
    client = root()
    client.post(
        f"{RULES}add/",
        {
            "name": "night",
            "position": "0",
            "is_enabled": "on",
            "targets": "claude",
            "hours": "22:00-06:00",
            "is_code": "unknown",
            "has_images": "unknown",
            "has_tools": "unknown",
            "wants_json": "unknown",
        },
    )
    for time, is_hit in {"2026-01-05T23:30": True, "2026-01-05T12:00": False}.items():
        words = words_of(client.post(TRY, {"prompt": "Hi", "tokens": "5000", "time": time}))
        assert ("It hits the rule night." in words) == is_hit


@pytest.mark.django_db
@pytest.mark.parametrize("fields", [{"tokens": "x"}, {"time": "never"}, {"prompt": "\0"}, {"model": "x" * 201}])
def test_page_refuses_what_can_not_be(fields: dict[str, str]) -> None:
    page = text_of(root().post(TRY, {"prompt": "Hi", **fields}))
    assert "errorlist" in page
    assert 'id="outcome"' not in page


@pytest.mark.django_db
def test_page_shows_hostile_texts_as_text() -> None:
    page = root().post(TRY, {"prompt": HOSTILE, "model": HOSTILE, "key": HOSTILE})
    assert "<script>alert" not in text_of(page)


# --- in a running hub ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1"}
    with running_hub(tmp_path_factory.mktemp("admin"), env=env) as started:
        yield started


@pytest.fixture
def browser(hub: HubProcess) -> Iterator[httpx.Client]:
    """The administrator, logged in over the network."""
    password = Path(hub.data_dir / "admin.password").read_text().strip()
    with httpx.Client(base_url=hub.url, follow_redirects=True, timeout=20) as client:
        client.get("/admin/login/")
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/login/?next=/admin/", data=form).url.path == "/admin/"
        yield client


def seen(page: httpx.Response) -> str:
    assert page.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


def test_admin_shows_live_state_and_its_actions_take_effect(hub: HubProcess, browser: httpx.Client) -> None:
    eventually(lambda: "ready" in seen(browser.get(ROWS)))
    words = seen(browser.get(ROWS))
    assert "unknown" not in words
    assert re.search(r"[0-9]+ of [0-9]+, 0 busy", words)
    (row,) = re.findall(r"/admin/providers/providerrow/([0-9]+)/change/", browser.get(ROWS).text)

    def press(action: str) -> str:
        token = browser.cookies["csrftoken"]
        form = {"action": action, "_selected_action": row, "csrfmiddlewaretoken": token}
        return seen(browser.post(ROWS, data=form, headers={"Referer": f"{hub.url}{ROWS}"}))

    assert "Drained: echo" in press("drain")
    eventually(lambda: "disabled" in seen(browser.get(ROWS)), within_s=5)
    assert "Undrained: echo" in press("undrain")
    eventually(lambda: "disabled" not in seen(browser.get(ROWS)), within_s=5)
    before = {it.pid for it in hub.workers()}
    assert "Restarted: echo" in press("restart")
    eventually(lambda: bool({it.pid for it in hub.workers()} - before))
    assert "Cooldown cleared: echo" in press("clear_cooldown")
