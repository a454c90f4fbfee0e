"""Turns and prices in admin."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from django.utils import timezone
from model_bakery import baker

from chat.models import ApiKey, Price, Session, TurnRecord
from tests.chat.administrators import HOSTILE, guest, queries_of, root, text_of, words_of

pytestmark = pytest.mark.django_db

TURNS, PRICES = "/admin/chat/turnrecord/", "/admin/chat/price/"


def turn(**values: Any) -> TurnRecord:
    base = {"owner": "alice", "outcome": "ok", "started_at": timezone.now()}
    made: TurnRecord = baker.make(TurnRecord, **{**base, **values})
    return made


def found(query: str) -> set[str]:
    client = guest("view_turnrecord")
    return {row.pk for row in client.get(f"{TURNS}?{query}").context["cl"].result_list}


def test_list_shows_the_figures() -> None:
    key = baker.make(ApiKey, name="n8n", prefix="hub_abc")
    figures = {"input_tokens": 1_234, "output_tokens": 56, "cost_usd": Decimal("0.0123"), "first_token_ms": 321}
    turn(key=key, provider="claude", model="sonnet", start="kept", total_ms=4_567, outcome="ok", **figures)
    turn(input_tokens=9, output_tokens=1, is_estimated=True, outcome="cancelled")
    words = words_of(root().get(TURNS))
    for shown in ("ok n8n (hub_abc...) alice claude, sonnet kept 1,234 / 56 $0.0123 321 / 4,567", "~9 / 1 unknown"):
        assert shown in words


def test_page_of_a_turn_tells_its_decision() -> None:
    told = {
        "choices": [{"provider": "claude", "model": "opus"}, {"provider": "gemini", "model": "pro"}],
        "rejected": [{"name": "codex", "why": f"it needs a login {HOSTILE}"}],
        "attempts": [{"provider": "claude", "model": "opus", "code": "vendor_rate_limited", "ms": 120}],
    }
    page = root().get(f"{TURNS}{turn(route='gemini; rule=code', decision=json.dumps(told)).pk}/change/")
    words = words_of(page)
    for shown in (
        "gemini; rule=code",
        "claude, opus: vendor_rate_limited after 120 ms",
        "claude, opus gemini, pro",
        "codex: it needs a login",
    ):
        assert shown in words
    assert HOSTILE not in text_of(page)


@pytest.mark.parametrize(
    "decision", ["", "{", "[]", "null", '{"attempts": 1}', '{"attempts": [1, {}], "rejected": [{}]}']
)
def test_page_of_a_turn_without_a_whole_decision_is_shown(decision: str) -> None:
    assert root().get(f"{TURNS}{turn(decision=decision).pk}/change/").status_code == 200


def test_turn_leads_to_its_conversation_while_there_is_one() -> None:
    session = baker.make(Session)
    kept, gone = turn(session_uid=session.pk), turn(session_uid="gone")
    client = root()
    assert text_of(client.get(TURNS)).count("/admin/chat/session/") == 2  # the other one is the menu's
    assert f"/admin/chat/session/{session.pk}/change/" in text_of(client.get(f"{TURNS}{kept.pk}/change/"))
    assert "open</a>" not in text_of(client.get(f"{TURNS}{gone.pk}/change/"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("provider=gemini", {"gemini"}),
        ("outcome=errors", {"failed"}),
        ("outcome=cancelled", {"cancelled"}),
        ("outcome=vendor_down", {"failed"}),
        ("key=7", {"keyed"}),
        ("key=x", {"gemini", "failed", "cancelled", "keyed", "old"}),
        ("q=req-1", {"keyed"}),
        ("q=keyed", {"keyed"}),
        ("q=uid-1", {"old"}),
        ("q=req", set()),
    ],
)
def test_turns_are_found_by_filter_and_id(query: str, expected: set[str]) -> None:
    turn(id="gemini", provider="gemini")
    turn(id="failed", outcome="vendor_down")
    turn(id="cancelled", outcome="cancelled")
    turn(id="keyed", key=baker.make(ApiKey, pk=7), request_id="req-1")
    turn(id="old", session_uid="uid-1", started_at=timezone.now() - timedelta(days=40))
    assert found(query) == expected


def test_turns_are_found_by_time() -> None:
    turn(id="new")
    turn(id="old", started_at=timezone.now() - timedelta(days=40))
    assert found(urlencode({"started_at__gte": timezone.now() - timedelta(days=7)})) == {"new"}


def test_list_takes_the_same_queries_for_any_number_of_turns() -> None:
    client = root()

    def some(count: int) -> None:
        for _ in range(count):
            turn(key=baker.make(ApiKey, digest=str(ApiKey.objects.count())), session_uid=baker.make(Session).pk)

    some(1)
    few = queries_of(client, TURNS)
    some(30)
    assert queries_of(client, TURNS) == few <= 8


def test_nobody_adds_changes_or_deletes_a_turn() -> None:
    row, client = turn(outcome="ok"), root()
    assert client.post(f"{TURNS}add/", {"outcome": "ok"}).status_code == 403
    assert client.post(f"{TURNS}{row.pk}/change/", {"outcome": "other"}).status_code == 403
    assert client.post(f"{TURNS}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(TURNS, {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"})
    assert TurnRecord.objects.get().outcome == "ok"


def test_hostile_values_are_shown_as_text() -> None:
    row = turn(provider=HOSTILE, model=HOSTILE, request_id=HOSTILE, owner=HOSTILE)
    client = root()
    for page in (client.get(TURNS), client.get(f"{TURNS}{row.pk}/change/"), client.get(TURNS, {"outcome": HOSTILE})):
        assert "<script>alert" not in text_of(page)
        assert HOSTILE in words_of(page)


def test_price_is_made_and_changed() -> None:
    client = root()
    price = {
        "provider": "gemini",
        "model": "gemini-*",
        "input_usd": "1.25",
        "output_usd": "10",
        "cached_input_usd": "0",
    }
    assert client.post(f"{PRICES}add/", price).status_code == 302
    made = Price.objects.get()
    assert client.post(f"{PRICES}{made.pk}/change/", {**price, "output_usd": "11"}).status_code == 302
    assert Price.objects.get().output_usd == 11
    assert "gemini-*" in words_of(client.get(PRICES))


@pytest.mark.parametrize("fault", [{"provider": "openai"}, {"model": ""}, {"input_usd": "-1"}, {"input_usd": "NaN"}])
def test_price_that_cannot_be_is_refused(fault: dict[str, str]) -> None:
    price = {"provider": "gemini", "model": "x", "input_usd": "1", "output_usd": "1", "cached_input_usd": "0"}
    assert "errornote" in text_of(root().post(f"{PRICES}add/", {**price, **fault}))
    assert not Price.objects.exists()
