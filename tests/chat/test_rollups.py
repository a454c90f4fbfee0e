"""Figures by the hour: each turn counted once, whoever writes it how often, on both databases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import DjangoDbBlocker

from chat.archive_writer import write_outcomes
from chat.conversation import Figures, Outcome, now_ms
from chat.ids import new_id
from chat.models import ApiKey, HourlyFirstToken, HourlyUse, TurnRecord
from chat.rollups import SUMS, bucket_of, hour_of, quantile, rebuild
from tests.chat.test_archive import using_database
from tests.postgres import running_postgres

ALICE_KEY = 1
BEGAN = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
Stored = tuple[list[tuple[object, ...]], list[tuple[object, ...]]]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def migrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """A database with its tables, as the hub has it."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        with using_database(django_db_blocker, folder):
            call_command("migrate", verbosity=0)
            yield
        return
    with running_postgres(folder) as server, using_database(django_db_blocker, folder, url=server.url):
        call_command("migrate", verbosity=0)
        yield


@pytest.fixture
def database(migrated: None) -> None:
    """Empty but for Alice's key."""
    for model in (HourlyUse, HourlyFirstToken, TurnRecord, ApiKey):
        model._default_manager.all().delete()
    ApiKey.objects.create(pk=ALICE_KEY, name="n8n", owner="alice", prefix="hub_1", digest="1")


def outcome(**figures: object) -> Outcome:
    """A turn of Alice's, without a session."""
    base = Figures(
        turn_id=new_id(),
        key_id=ALICE_KEY,
        owner="alice",
        outcome="ok",
        started_ms=now_ms(),
        total_ms=900,
        provider="echo",
        input_tokens=10,
        output_tokens=3,
        first_token_ms=100,
        cost_usd=0.5,
    )
    return Outcome(replace(base, **figures))  # type: ignore[arg-type]


def at(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def use_of(facet: str, name: str) -> dict[str, int]:
    """Over all hours."""
    rows = HourlyUse.objects.filter(facet=facet, name=name).values(*SUMS)
    return {column: sum(row[column] for row in rows) for column in SUMS}


def stored() -> Stored:
    use = HourlyUse.objects.order_by("hour", "facet", "name").values_list("hour", "facet", "name", *SUMS)
    tokens = HourlyFirstToken.objects.order_by("hour", "provider", "bucket")
    return list(use), list(tokens.values_list("hour", "provider", "bucket", "turns"))


async def asking_at_once(*questions: Callable[[], object]) -> None:
    """Each on a thread and a connection of its own."""

    def work(question: Callable[[], object]) -> None:
        try:
            question()
        finally:
            connection.close()

    async with asyncio.timeout(30):
        await asyncio.gather(*(asyncio.to_thread(work, it) for it in questions))


@pytest.mark.usefixtures("database")
def test_turns_are_added_up_by_provider_key_and_outcome() -> None:
    write_outcomes([outcome(), outcome(cost_usd=None, outcome="cancelled", first_token_ms=None)])
    write_outcomes([outcome(provider="claude", outcome="timed_out", cost_usd=0.000_000_001)])
    echo = use_of("provider", "echo")
    assert (echo["turns"], echo["cancelled"], echo["errors"]) == (2, 1, 0)
    assert (echo["input_tokens"], echo["output_tokens"]) == (20, 6)
    assert (echo["priced"], echo["cost_nano_usd"]) == (1, 500_000_000)
    assert use_of("provider", "claude")["cost_nano_usd"] == 1
    assert use_of("key", str(ALICE_KEY))["turns"] == 3
    assert use_of("outcome", "timed_out") == {**use_of("provider", "claude")}
    assert list(HourlyFirstToken.objects.values_list("provider", "bucket", "turns").order_by("provider")) == [
        ("claude", bucket_of(100), 1),
        ("echo", bucket_of(100), 1),
    ]


@pytest.mark.usefixtures("database")
def test_turn_counts_in_the_hour_it_began_in() -> None:
    write_outcomes([outcome(started_ms=at(BEGAN)), outcome(started_ms=at(BEGAN + timedelta(seconds=1)))])
    hours = HourlyUse.objects.filter(facet="provider").order_by("hour").values_list("hour", "turns")
    assert list(hours) == [(hour_of(BEGAN), 1), (hour_of(BEGAN) + 1, 1)]


@pytest.mark.usefixtures("database")
def test_turn_that_is_written_again_counts_once() -> None:
    """After a killed hub its turns are written by another one, perhaps for the second time."""
    first = outcome()
    for group in ([first], [first, first], [outcome(), first]):
        write_outcomes(group)
    assert use_of("provider", "echo")["turns"] == 2


@pytest.mark.usefixtures("database")
def test_turn_of_a_key_that_was_deleted_counts_without_one() -> None:
    assert write_outcomes([outcome(), outcome(key_id=77)]) == set()
    assert (use_of("key", "0")["turns"], use_of("key", str(ALICE_KEY))["turns"]) == (1, 1)


@pytest.mark.usefixtures("database")
async def test_hubs_that_write_the_same_turns_at_once_count_them_once() -> None:
    outcomes = [outcome(provider=f"p{number % 3}") for number in range(300)]

    def write(seed: int) -> None:
        mine = random.Random(seed).sample(outcomes, len(outcomes))
        for start in range(0, len(mine), 25):
            assert write_outcomes(mine[start : start + 25]) == set()

    await asking_at_once(*(partial(write, seed) for seed in range(4)))
    counted: list[int] = []
    await asking_at_once(lambda: counted.extend(use_of("provider", f"p{it}")["turns"] for it in range(3)))
    assert counted == [100, 100, 100]


@pytest.mark.usefixtures("database")
async def test_counting_anew_gives_the_same_while_turns_go_on_being_written() -> None:
    chance = random.Random(7)
    outcomes = [
        outcome(
            started_ms=at(BEGAN + timedelta(hours=chance.randrange(100))),
            provider=chance.choice(["echo", "claude"]),
            outcome=chance.choice(["ok", "cancelled", "timed_out"]),
            cost_usd=chance.choice([None, 0.001]),
            first_token_ms=chance.choice([None, 1, 90, 40_000]),
        )
        for _ in range(400)
    ]

    def write() -> None:
        for start in range(200, 400, 10):
            write_outcomes(outcomes[start : start + 10])

    def prepare() -> None:
        write_outcomes(outcomes[:200])
        HourlyUse.objects.update(turns=999)  # whatever went wrong with them

    await asking_at_once(prepare)
    await asking_at_once(write, rebuild)
    seen: list[Stored] = []

    def compare() -> None:
        seen.append(stored())
        assert rebuild() == 400
        seen.append(stored())

    await asking_at_once(compare)
    assert seen[0] == seen[1]


@pytest.mark.usefixtures("database")
def test_command_counts_what_was_written_before_there_were_figures() -> None:
    now = datetime.now(UTC)
    TurnRecord.objects.create(
        id="1" * 32, owner="alice", provider="old", outcome="ok", total_ms=1, started_at=now, cost_usd=Decimal("0.25")
    )
    told = StringIO()
    call_command("rebuild_rollups", stdout=told)
    assert "Counted 1 turns." in told.getvalue()
    assert use_of("provider", "old")["cost_nano_usd"] == 250_000_000


# --- times to the first token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantile_is_within_a_bucket_of_the_true_one(share: float) -> None:
    chance = random.Random(3)
    times = sorted(round(chance.lognormvariate(6, 1)) for _ in range(2_000))
    counts: dict[int, int] = {}
    for ms in times:
        counts[bucket_of(ms)] = counts.get(bucket_of(ms), 0) + 1
    found = quantile(counts, share)
    assert found == pytest.approx(times[int(share * len(times))], rel=0.1)


def test_quantile_of_nothing_is_unknown() -> None:
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize("ms", [0, 1, 2, 3, 1_000, 2**31 - 1])
def test_every_time_has_a_bucket(ms: int) -> None:
    low, high = (2 ** (it / 4) for it in (bucket_of(ms), bucket_of(ms) + 1))
    assert (low <= ms < high) or ms < 1
