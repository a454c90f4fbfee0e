"""Keys in admin: made and rotated with their value shown once, never kept; ended, limited, and their use seen."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from model_bakery import baker
from pytest_django import Settings

from chat.keys import create_key, digest_of, revoke_key, rotate_key
from chat.models import ApiKey, TurnRecord
from tests.chat.administrators import (
    HOSTILE,
    everything_stored,
    guest,
    queries_of,
    root,
    said,
    text_of,
    words_of,
)

pytestmark = pytest.mark.django_db

LIST, ADD = "/admin/chat/apikey/", "/admin/chat/apikey/add/"
SECRET = re.compile(r"hub_[\w-]{43}")
LEAST: dict[str, Any] = {"name": "n8n", "owner": "alice", "scopes": ["chat", "sessions"]}


def page_of(key: ApiKey) -> str:
    return f"{LIST}{key.pk}/change/"


def made(**values: Any) -> ApiKey:
    secret = create_key(values.pop("name", "n8n"), owner=values.pop("owner", "alice"))
    ApiKey.objects.filter(prefix=secret[:10]).update(**values)
    return ApiKey.objects.get(prefix=secret[:10])


def act(client: Client, action: str, *keys: ApiKey, confirmed: bool = True) -> Any:
    data = {"action": action, "_selected_action": [key.pk for key in keys]}
    return client.post(LIST, {**data, "confirmed": "yes"} if confirmed else data)


def secret_in(response: Any) -> str:
    (secret,) = set(SECRET.findall(text_of(response)))
    return str(secret)


def assert_is_kept_nowhere(secret: str, client: Client, key: ApiKey) -> None:
    assert secret not in everything_stored()
    assert all(secret not in cookie.OutputString() for cookie in client.cookies.values())
    for url in (LIST, page_of(key), f"{LIST}{key.pk}/history/", "/admin/", ADD):
        assert secret not in text_of(client.get(url))


# --- making ----------------------------------------------------------------------------------------------------------


def test_new_key_is_shown_once_and_kept_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client = root()
    response = client.post(ADD, LEAST)
    secret = secret_in(response)
    key = ApiKey.objects.get()
    assert key.digest == digest_of(secret)
    assert "no-store" in response["Cache-Control"]
    assert_is_kept_nowhere(secret, client, key)
    assert secret not in caplog.text


def test_new_key_has_all_that_was_filled_in() -> None:
    expires_at = (timezone.now() + timedelta(days=3)).replace(microsecond=0)
    limits = {
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "tokens_per_day": 3,
        "concurrent_turns": 4,
        "budget_day_usd": Decimal("0"),
        "budget_month_usd": Decimal("5.5"),
        "session_ttl_s": 60,
    }
    root().post(
        ADD,
        {
            **LEAST,
            **limits,
            "expires_at_0": f"{expires_at:%Y-%m-%d}",
            "expires_at_1": f"{expires_at:%H:%M:%S}",
            "allowed_providers": ["claude", "echo"],
            "allowed_models": " sonnet, gemini-*,,sonnet\nopus[1m] ",
            "fallback": "on",
        },
    )
    key = ApiKey.objects.get()
    assert (key.name, key.owner, key.expires_at) == ("n8n", "alice", expires_at)
    assert (key.scopes, key.allowed_providers) == (["chat", "sessions"], ["claude", "echo"])
    assert (key.allowed_models, key.fallback) == (["sonnet", "gemini-*", "opus[1m]"], True)
    assert {name: getattr(key, name) for name in limits} == limits


def test_limits_that_are_left_empty_are_left_to_the_settings() -> None:
    root().post(ADD, LEAST)
    key = ApiKey.objects.get()
    limits = (key.requests_per_minute, key.tokens_per_day, key.budget_day_usd, key.session_ttl_s, key.expires_at)
    assert key.fallback is False
    assert limits == (None,) * 5
    assert (key.allowed_providers, key.allowed_models) == ([], [])


@pytest.mark.parametrize(
    "fault",
    [
        {"name": " "},
        {"owner": ""},
        {"owner": "x" * 101},
        {"scopes": []},
        {"scopes": ["root"]},
        {"allowed_providers": ["openai"]},
        {"allowed_models": "x" * 201},
        {"requests_per_minute": "-1"},
        {"tokens_per_day": str(2**31)},
        {"session_ttl_s": "0"},
        {"budget_day_usd": "-0.01"},
        {"budget_day_usd": "0.00001"},
        {"budget_month_usd": "NaN"},
        {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"},
    ],
)
def test_key_that_cannot_be_is_not_made(fault: dict[str, Any]) -> None:
    response = root().post(ADD, {**LEAST, **fault})
    assert "errornote" in text_of(response)
    assert not ApiKey.objects.exists()


def test_form_names_the_settings_an_empty_limit_leaves_it_to(settings: Settings) -> None:
    settings.HUB_KEY_REQUESTS_PER_MINUTE, settings.HUB_SESSION_TTL_S = 4_321, 1_234
    words = words_of(root().get(ADD))
    assert "HUB_KEY_REQUESTS_PER_MINUTE (4321)" in words
    assert "HUB_SESSION_TTL_S (1234)" in words


# --- changing --------------------------------------------------------------------------------------------------------


def test_limits_can_be_changed_and_the_key_goes_on_working() -> None:
    key = made()
    response = root().post(page_of(key), {**LEAST, "name": "agents", "requests_per_minute": 7})
    assert response.status_code == 302
    changed = ApiKey.objects.get()
    assert (changed.name, changed.requests_per_minute, changed.digest) == ("agents", 7, key.digest)


def test_saving_an_old_form_does_not_take_back_a_rotation_or_revocation() -> None:
    key = made()
    client = root()
    text_of(client.get(page_of(key)))
    rotate_key(key)
    revoke_key(key)
    client.post(page_of(key), {**LEAST, "requests_per_minute": 7})
    changed = ApiKey.objects.get()
    assert (changed.digest, changed.previous_digest, changed.revoked_at) == (
        key.digest,
        key.previous_digest,
        key.revoked_at,
    )
    assert changed.requests_per_minute == 7


def test_owner_stays_as_it_is() -> None:
    """Under another owner's name the key would open that one's conversations."""
    key = made(owner="alice")
    root().post(page_of(key), {**LEAST, "owner": "bob"})
    assert ApiKey.objects.get().owner == "alice"


@pytest.mark.parametrize("stored", [["gone"], "gone"])
def test_provider_that_is_gone_is_not_dropped_by_saving(stored: object) -> None:
    """No provider would mean all of them."""
    key = made(allowed_providers=stored)
    client = root()
    assert 'value="gone" id="id_allowed_providers_' in text_of(client.get(page_of(key)))
    client.post(page_of(key), {**LEAST, "allowed_providers": ["gone"]})
    assert ApiKey.objects.get().allowed_providers == stored


# --- rotating and revoking -------------------------------------------------------------------------------------------


def test_rotation_is_asked_for_twice_and_shows_the_new_secret_once() -> None:
    key, client = made(), root()
    question = act(client, "rotate", key, confirmed=False)
    assert "24 hours" in words_of(question)
    assert ApiKey.objects.get().digest == key.digest
    response = act(client, "rotate", key)
    secret = secret_in(response)
    rotated = ApiKey.objects.get()
    assert (rotated.digest, rotated.previous_digest) == (digest_of(secret), key.digest)
    assert rotated.previous_expires_at is not None
    assert timedelta(hours=23.9) < rotated.previous_expires_at - timezone.now() < timedelta(hours=24)
    assert "no-store" in response["Cache-Control"]
    assert_is_kept_nowhere(secret, client, rotated)


def test_revocation_is_asked_for_twice() -> None:
    key, other, client = made(), made(name="other"), root()
    act(client, "revoke", key, confirmed=False)
    assert ApiKey.objects.filter(revoked_at=None).count() == 2
    act(client, "revoke", key)
    assert list(ApiKey.objects.filter(revoked_at=None)) == [other]
    assert "revoked" in words_of(client.get(page_of(key)))


@pytest.mark.parametrize("end", [{"revoked_at": timezone.now()}, {"expires_at": timezone.now()}])
def test_key_that_has_ended_is_not_rotated(end: dict[str, Any]) -> None:
    key = made(**end)
    assert "None of these keys is active" in said(act(root(), "rotate", key))
    assert ApiKey.objects.get().digest == key.digest


def test_key_page_has_buttons_for_both() -> None:
    key, client = made(), root()
    buttons = re.findall(r'name="action" value="(\w+)"', text_of(client.get(page_of(key))))
    assert buttons == ["rotate", "revoke"]


# --- who may ---------------------------------------------------------------------------------------------------------


def test_viewer_sees_keys_and_can_do_nothing() -> None:
    key, client = made(), guest("view_apikey")
    assert "n8n" in words_of(client.get(LIST))
    page = text_of(client.get(page_of(key)))
    assert 'name="action"' not in page
    assert 'name="_save"' not in page
    for action in ("rotate", "revoke", "delete_selected"):
        act(client, action, key)
    assert client.post(page_of(key), {**LEAST, "name": "mine"}).status_code == 403
    assert client.post(ADD, LEAST).status_code == 403
    assert client.post(f"{LIST}{key.pk}/delete/", {"post": "yes"}).status_code == 403
    kept = ApiKey.objects.get()
    assert (kept.name, kept.digest, kept.revoked_at) == ("n8n", key.digest, None)


def test_who_may_change_keys_may_rotate_and_revoke_but_not_add() -> None:
    key, client = made(), guest("view_apikey", "change_apikey")
    assert secret_in(act(client, "rotate", key))
    act(client, "revoke", key)
    assert ApiKey.objects.get().revoked_at is not None
    assert client.post(ADD, LEAST).status_code == 403


OPERATOR = ("view_apikey", "add_apikey", "change_apikey", "delete_routerule")


def test_who_may_not_do_what_the_scope_admin_opens_gets_no_key_with_it() -> None:
    """Neither a new one, nor by a change, nor the secret of one there is."""
    client = guest(*OPERATOR)
    assert 'value="admin"' not in text_of(client.get(ADD))
    assert "Select a valid choice" in words_of(client.post(ADD, {**LEAST, "scopes": ["chat", "admin"]}))
    plain, key = made(scopes=["chat"]), made(name="hub", scopes=["chat", "admin"])
    client.post(page_of(plain), {**LEAST, "scopes": ["chat", "admin"]})
    assert ApiKey.objects.get(pk=plain.pk).scopes == ["chat"]
    assert "not yours to give" in said(act(client, "rotate", key))
    assert ApiKey.objects.get(pk=key.pk).digest == key.digest
    assert secret_in(act(client, "rotate", plain))


def test_changing_a_key_with_the_scope_admin_leaves_it_that() -> None:
    key = made(scopes=["chat", "admin"])
    guest(*OPERATOR).post(page_of(key), {**LEAST, "name": "other", "scopes": ["chat", "admin"]})
    kept = ApiKey.objects.get()
    assert (kept.name, kept.scopes) == ("other", ["chat", "admin"])


def test_who_may_remove_providers_may_give_the_scope_admin() -> None:
    client = guest("view_apikey", "add_apikey", "delete_providerrow")
    assert secret_in(client.post(ADD, {**LEAST, "scopes": ["chat", "admin"]}))


def test_stranger_is_sent_to_log_in() -> None:
    for url in (LIST, ADD, page_of(made())):
        assert "/login/" in Client().get(url)["Location"]


def test_only_a_superuser_deletes_a_key_and_only_one_without_turns() -> None:
    used, unused = made(), made()
    baker.make(TurnRecord, key=used)
    delete = {"post": "yes"}
    assert guest("view_apikey", "delete_apikey").post(f"{LIST}{unused.pk}/delete/", delete).status_code == 403
    client = root()
    assert client.post(f"{LIST}{used.pk}/delete/", delete).status_code == 403
    act(client, "delete_selected", used, unused)
    assert ApiKey.objects.count() == 2
    client.post(f"{LIST}{unused.pk}/delete/", delete)
    assert list(ApiKey.objects.all()) == [used]


# --- the list --------------------------------------------------------------------------------------------------------


def test_list_shows_what_a_key_has_used_today() -> None:
    key = made()
    now = timezone.now()
    turn: dict[str, Any] = {"key": key, "input_tokens": 1_000, "output_tokens": 500, "cost_usd": Decimal("0.25")}
    baker.make(TurnRecord, _quantity=2, started_at=now, **turn)
    baker.make(TurnRecord, started_at=now - timedelta(days=1), **turn)
    baker.make(TurnRecord, started_at=now, input_tokens=77_777)
    words = words_of(root().get(LIST))
    assert "chat, sessions, mcp 2 / 3,000 / $0.5000" in words
    assert "77,777" not in words


def test_list_tells_states_apart_and_filters_by_them() -> None:
    made(name="alive")
    made(name="ended", expires_at=timezone.now())
    made(name="stopped", revoked_at=timezone.now())
    client = root()
    for state, name in {"active": "alive", "expired": "ended", "revoked": "stopped"}.items():
        rows = client.get(f"{LIST}?state={state}").context["cl"].result_list
        assert [row.name for row in rows] == [name]


def test_list_of_many_keys_takes_no_more_queries_than_one_of_few() -> None:
    client = root()
    for key in [made() for _ in range(2)]:
        baker.make(TurnRecord, key=key, started_at=timezone.now())
    few = queries_of(client, LIST)
    for key in [made() for _ in range(30)]:
        baker.make(TurnRecord, key=key, started_at=timezone.now())
    assert queries_of(client, LIST) == few <= 9


def test_hostile_names_are_shown_as_text() -> None:
    key, client = made(name=HOSTILE, owner=HOSTILE[:100], allowed_models=[HOSTILE]), root()
    pages = [client.get(LIST), client.get(page_of(key)), act(client, "rotate", key, confirmed=False)]
    pages += [act(client, "rotate", key), client.get(f"{LIST}{key.pk}/history/")]
    for page in pages:
        assert "<script>alert" not in text_of(page)
        assert HOSTILE in words_of(page)
