"""The dashboard's questions and acts: what it shows to whom, and who may do what."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from model_bakery import baker

from chat import rollups
from chat.dashboard import figures
from chat.keys import create_key
from chat.models import ApiKey, TurnRecord
from chat.roles import OPERATORS, VIEWERS
from providers.models import ProviderRow
from tests.chat.administrators import guest, queries_of, root, text_of

pytestmark = pytest.mark.django_db

INDEX, NOW, FIGURES, ACT = (f"/admin/{it}" for it in ("", "dashboard/now/", "dashboard/figures/", "dashboard/act/"))
ACTS = ("restart", "drain", "undrain", "clear_cooldown", "replace_worker", "stop_turn")
NOON = datetime.fromisoformat("2026-03-04T12:30:00+00:00")


def of_group(name: str) -> Client:
    user = User.objects.create_user(name, password=None, is_staff=True)
    user.groups.add(Group.objects.get(name=name))
    client = Client()
    client.force_login(user)
    return client


def count(*turns: TurnRecord) -> None:
    rollups.count(turns)


def turn(**values: Any) -> TurnRecord:
    base = {"owner": "alice", "provider": "echo", "outcome": "ok", "started_at": timezone.now(), "key": None}
    made: TurnRecord = baker.prepare(TurnRecord, **{"total_ms": 1, **base, **values})
    return made


def act(client: Client, name: str, **target: object) -> Any:
    return client.post(ACT, {"act": name, **target})


# --- figures ---------------------------------------------------------------------------------------------------------


def test_turns_are_shown_in_the_step_they_began_in() -> None:
    count(
        turn(started_at=NOON),
        turn(
            started_at=NOON - timedelta(hours=1),
            input_tokens=7,
            output_tokens=2,
            cost_usd=Decimal("0.5"),
            first_token_ms=100,
        ),
        turn(started_at=NOON - timedelta(hours=23), provider="claude", outcome="cancelled"),
        turn(started_at=NOON - timedelta(hours=24)),  # out of sight
        turn(started_at=NOON + timedelta(hours=1)),
    )
    found = figures.look("day", now=NOON)
    assert len(found["times"]) == 24
    assert found["times"][-1] == NOON.replace(minute=0).timestamp()
    echo, claude = found["providers"]["echo"], found["providers"]["claude"]
    assert (echo["turns"][-2:], sum(echo["turns"])) == ([1, 1], 2)
    assert (claude["turns"][0], claude["cancelled"][0]) == (1, 1)
    assert (echo["input_tokens"][-2], echo["output_tokens"][-2], echo["cost_usd"][-2]) == (7, 2, 0.5)
    assert echo["p50"][-2] == pytest.approx(100, rel=0.1)
    assert echo["p50"][-1] is None, "of turns without an answer no time is known"
    totals = found["totals"]
    assert (totals["turns"], totals["cancelled"], totals["errors"], totals["priced"]) == (3, 1, 0, 1)


@pytest.mark.parametrize(("span", "steps", "ago"), [("week", 28, timedelta(days=6)), ("month", 30, timedelta(days=29))])
def test_longer_spans_have_wider_steps(span: str, steps: int, ago: timedelta) -> None:
    count(turn(started_at=NOON), turn(started_at=NOON - ago), turn(started_at=NOON - timedelta(days=31)))
    found = figures.look(span, now=NOON)
    assert len(found["times"]) == steps
    assert all(it % 21_600 == 0 for it in found["times"])
    assert sum(found["providers"]["echo"]["turns"]) == 2


def test_steps_of_a_month_are_days_in_utc() -> None:
    midnight = NOON.replace(hour=0, minute=0)
    count(turn(started_at=midnight), turn(started_at=midnight - timedelta(seconds=1)))
    assert figures.look("month", now=NOON)["providers"]["echo"]["turns"][-2:] == [1, 1]


def test_rare_errors_are_shown_together() -> None:
    frequent = [turn(started_at=NOON, outcome=f"code_{code}") for code in range(6) for _ in range(2)]
    count(*frequent, *(turn(started_at=NOON, outcome=f"rare_{code}") for code in range(5)), turn(started_at=NOON))
    errors = figures.look("day", now=NOON)["errors"]
    assert {code: sum(it) for code, it in errors.items()} == {**{f"code_{code}": 2 for code in range(6)}, "others": 5}


def test_busiest_keys_of_the_day_come_first() -> None:
    keys = [baker.make(ApiKey, name=f"key {number}", owner="alice", digest=str(number)) for number in range(12)]
    for number, key in enumerate(keys):
        count(*(turn(started_at=NOON, key=key, input_tokens=3, output_tokens=1) for _ in range(number + 1)))
    count(*(turn(started_at=NOON - timedelta(hours=13), key=keys[0]) for _ in range(50)))  # yesterday's
    count(*(turn(started_at=NOON) for _ in range(20)))
    found = figures.busiest_keys(now=NOON)
    assert [it["turns"] for it in found] == [20, *range(12, 3, -1)]
    assert (found[0]["owner"], found[1]["name"], found[1]["owner"]) == ("", "key 11", "alice")
    assert (found[1]["tokens"], found[1]["cost_usd"]) == (48, None)


def test_page_that_has_the_figures_already_is_told_so() -> None:
    count(turn())
    client = root()
    first = client.get(FIGURES)
    assert first.json()["totals"]["turns"] == 1
    again = client.get(FIGURES, headers={"if-none-match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert float(again["X-Hub-Time"]) > 0
    count(turn())
    assert client.get(FIGURES, headers={"if-none-match": first["ETag"]}).json()["totals"]["turns"] == 2


def test_span_that_is_none_is_refused() -> None:
    assert root().get(f"{FIGURES}?span=year").status_code == 400


def test_more_turns_take_no_more_queries() -> None:
    client = root()
    count(turn())
    few = queries_of(client, FIGURES)
    keys = [baker.make(ApiKey, name=f"key {number}", digest=str(number)) for number in range(20)]
    count(*(turn(provider=f"p{number % 9}", key=keys[number % 20], outcome=f"o{number % 11}") for number in range(500)))
    assert queries_of(client, FIGURES) == few


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_groups_are_there_from_the_start() -> None:
    viewers, operators = (permissions_of(name) for name in (VIEWERS, OPERATORS))
    assert viewers
    assert all(it.startswith("view_") for it in viewers)
    assert operators - viewers >= {"change_providerrow", "stop_turn", "add_apikey"}
    assert not {it for it in operators if it.startswith("delete_")} & {"delete_session", "delete_providerrow"}


def permissions_of(name: str) -> set[str]:
    return set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))


def test_groups_stay_as_an_administrator_has_made_them_until_they_are_reset() -> None:
    meant = permissions_of(VIEWERS)
    Group.objects.get(name=VIEWERS).permissions.clear()
    call_command("migrate", verbosity=0)
    assert permissions_of(VIEWERS) == set()
    call_command("reset_roles", stdout=StringIO())
    assert permissions_of(VIEWERS) == meant


def test_viewer_sees_everything_and_finds_no_act() -> None:
    client = of_group(VIEWERS)
    page = text_of(client.get(INDEX))
    assert 'data-acts=""' in page
    assert 'data-sees="providers turns keys"' in page
    assert {"hub", "providers", "turns"} == set(client.get(NOW).json())
    assert "keys" in client.get(FIGURES).json()


@pytest.mark.parametrize("name", ACTS)
def test_viewer_can_do_nothing(name: str) -> None:
    row = ProviderRow.objects.create(name="echo", adapter="echo", is_drained=name == "undrain")
    answer = act(of_group(VIEWERS), name, provider="echo", pid=1, turn="t")
    assert answer.status_code == 403
    before = (row.generation, row.is_drained)
    row.refresh_from_db()
    assert (row.generation, row.is_drained) == before
    assert not LogEntry.objects.exists()


def test_operator_finds_every_act() -> None:
    page = text_of(of_group(OPERATORS).get(INDEX))
    assert f'data-acts="{" ".join(ACTS)}"' in page


def test_staff_who_may_see_nothing_are_told_so() -> None:
    client = guest()
    page = text_of(client.get(INDEX))
    assert "may not see providers or turns" in page
    assert 'id="hub-providers"' not in page
    assert set(client.get(NOW).json()) == {"hub"}
    assert client.get(FIGURES).status_code == 403


def test_who_may_not_see_keys_gets_none() -> None:
    count(turn())
    assert "keys" not in guest("view_turnrecord").get(FIGURES).json()


@pytest.mark.parametrize("url", [INDEX, NOW, FIGURES, ACT])
def test_stranger_is_sent_to_the_login(url: str) -> None:
    assert "/admin/login/" in Client().get(url)["Location"]


def test_login_leads_to_the_dashboard() -> None:
    User.objects.create_superuser("root", password="a good one")
    client = Client()
    form = client.get("/admin/login/", follow=True)
    url, _ = form.redirect_chain[-1]
    answer = client.post(url, {"username": "root", "password": "a good one"})
    assert answer["Location"] == INDEX


def test_no_key_and_no_digest_is_ever_sent() -> None:
    secret = create_key("n8n", owner="alice")
    key = ApiKey.objects.get()
    count(turn(key=key))
    client = root()
    sent = "".join(text_of(client.get(url)) for url in (INDEX, NOW, FIGURES))
    assert "n8n" in sent
    assert secret not in sent
    assert key.digest not in sent


@pytest.mark.parametrize("url", [INDEX, "/admin/chat/apikey/", "/admin/chat/apikey/add/", "/admin/logout/"])
def test_page_lets_no_foreign_and_no_inline_script_run(url: str) -> None:
    response = root().get(url) if url != "/admin/logout/" else root().post(url, follow=True)
    policy = dict(it.strip().split(" ", 1) for it in response["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "'unsafe-inline'" not in policy["script-src"]
    assert "<script>" not in text_of(response)


# --- acts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [("restart", "generation", 1), ("drain", "is_drained", True), ("undrain", "is_drained", False)],
)
def test_acts_on_a_provider_are_written_down_for_every_hub(name: str, column: str, expected: object) -> None:
    row = ProviderRow.objects.create(name="echo", adapter="echo", is_drained=name == "undrain")
    answer = act(of_group(OPERATORS), name, provider="echo")
    assert (answer.status_code, "within two seconds" in answer.json()["message"]) == (200, True)
    row.refresh_from_db()
    assert getattr(row, column) == expected
    assert LogEntry.objects.get().object_repr == "echo"


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("restart", {"provider": "nobody"}, "no such provider"),
        ("drain", {"provider": "a\0b"}, "no such provider"),
        ("clear_cooldown", {"provider": "echo"}, "does not run in this process"),
        ("replace_worker", {"provider": "echo", "pid": "1"}, "has no worker 1"),
        ("replace_worker", {"provider": "echo", "pid": "-1"}, "has no worker 0"),
        ("replace_worker", {"provider": "echo", "pid": "9" * 5_000}, "has no worker 0"),
        ("stop_turn", {"turn": "nothing"}, "is over"),
        ("stop_turn", {}, "is over"),
    ],
)
def test_act_on_what_is_not_there_says_so(name: str, target: dict[str, str], said: str) -> None:
    ProviderRow.objects.create(name="echo", adapter="echo")
    answer = act(root(), name, **target)
    assert (answer.status_code, said in answer.json()["message"]) == (404, True)
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("name", ["", "delete", "__class__"])
def test_act_that_does_not_exist_is_refused(name: str) -> None:
    assert act(root(), name).status_code == 400


def test_acts_are_no_links() -> None:
    assert root().get(f"{ACT}?act=drain&provider=echo").status_code == 405


def test_act_from_another_page_is_refused() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root", password=None))
    row = ProviderRow.objects.create(name="echo", adapter="echo")
    assert act(client, "drain", provider="echo").status_code == 403
    row.refresh_from_db()
    assert not row.is_drained
