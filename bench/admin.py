"""The administrator's pages over a large database: 100,000 sessions, a million messages, a million turns.

A SQLite database of its own, filled past the ORM, and the pages asked for in this process: what is taken is the
server's time, without a network and a browser.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import Gate, Section, ms, progress
from bench.stats import median

if TYPE_CHECKING:
    from django.db.models import Model
    from django.test import Client

MOST_MS = 300.0
CHUNK = 20_000
DAYS = 30
WORDS = ("the", "hub", "lends", "programs", "to", "callers", "who", "ask", "models", "about", "weather", "invoices")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    keys: int = 200
    owners: int = 40
    sessions: int = 100_000
    messages_each: int = 10
    long_session: int = 2_000
    turns: int = 1_000_000


def measure_admin(folder: Path, *, sizes: Sizes | None = None, runs: int = 5) -> list[Section]:
    """Fill a database below `folder` and ask for each page `runs` times."""
    _set_up_django(folder)
    sizes = sizes or Sizes()
    took_s, counted_s = _fill(folder / "hub.sqlite3", sizes)
    client = _client()
    section = Section(
        title=f"admin: {sizes.sessions:,} sessions, {sizes.sessions * sizes.messages_each:,} messages, "
        f"{sizes.turns:,} turns, filled in {took_s:.0f} s, counted by the hour in {counted_s:.0f} s; server time of "
        f"{runs} requests each",
        head=["", "median ms", "slowest ms", "queries", "kB"],
        rows=[],
    )
    for name, url in _pages().items():
        progress(f"admin: {name}")
        taken_s, queries, size = _ask(client, url, runs)
        section.rows.append([name, ms(median(taken_s)), ms(max(taken_s)), str(queries), f"{size / 1024:,.0f}"])
        section.gates.append(Gate.at_most(name, median(taken_s) * 1_000, MOST_MS, " ms"))
        section.data[name] = taken_s
    return [section]


def _pages() -> dict[str, str]:
    sessions, turns = "/admin/chat/session/", "/admin/chat/turnrecord/"
    figures = "/admin/dashboard/figures/"
    return {
        "dashboard": "/admin/",
        "dashboard, this hub now": "/admin/dashboard/now/",
        "dashboard, figures of a day": f"{figures}?span=day",
        "dashboard, figures of a week": f"{figures}?span=week",
        "dashboard, figures of a month": f"{figures}?span=month",
        "session list, first page": sessions,
        "session list, page 50": f"{sessions}?p=50",
        "search by session id": f"{sessions}?q=sess_00012",
        "search by title": f"{sessions}?q=Weather+and",
        "search, nothing found": f"{sessions}?q=nothing-at-all",
        "filter by owner": f"{sessions}?owner=owner-7",
        "filter by owner, last page": f"{sessions}?owner=owner-7&p=25",
        "filter by state, live": f"{sessions}?state=live",
        "filter by state, deleted": f"{sessions}?state=deleted",
        "filter by a rare provider": f"{sessions}?provider=gemini",
        "transcript of a long session": f"{sessions}{'f' * 32}/change/?page=10",
        "export of a long session": f"{sessions}{'f' * 32}/export/",
        "turn list": turns,
        "turn list, page 50": f"{turns}?p=50",
        "turns of a key": f"{turns}?key=7",
        "turns with errors": f"{turns}?outcome=errors",
        "turns of a rare provider": f"{turns}?provider=gemini",
        "turns, search by request id": f"{turns}?q=req-123456",
        "key list": "/admin/chat/apikey/",
        "a key": "/admin/chat/apikey/7/change/",
    }


def _set_up_django(folder: Path) -> None:
    # Whatever the machine's own hub is told, this one has a database here.
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "hubsite.settings",
        "HUB_DATA_DIR": str(folder),
        "DATABASE_URL": "",
        "HUB_SESSION_ARCHIVE": "on",
        "HUB_DEBUG": "off",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _client() -> Client:
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client(headers={"host": "localhost"})
    client.force_login(User.objects.create_superuser("bench", password=""))
    return client


def _ask(client: Client, url: str, runs: int) -> tuple[list[float], int, int]:
    """Seconds of each request, and the queries and bytes of one. The first request of a page does not count."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    taken_s, size = [], 0
    with CaptureQueriesContext(connection) as queries:
        _body(client, url)
        count = len(queries)  # the next request empties their list
    for _ in range(runs):
        began = time.perf_counter()
        size = _body(client, url)
        taken_s.append(time.perf_counter() - began)
    return taken_s, count, size


def _body(client: Client, url: str) -> int:
    response: Any = client.get(url)
    if response.status_code != 200:
        raise AssertionError(f"{url} answered {response.status_code}")
    return len(response.getvalue())


# --- filling ---------------------------------------------------------------------------------------------------------


def _fill(path: Path, sizes: Sizes) -> tuple[float, float]:
    """Seconds it took, and seconds to count all turns by the hour, as an upgrade does."""
    from django.db import connection

    from chat.models import ApiKey, Message, Session, TurnRecord
    from chat.rollups import rebuild

    connection.close()
    began = time.perf_counter()
    chance = random.Random(1)
    now = datetime.now(UTC).replace(microsecond=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=OFF")
        database.execute("PRAGMA cache_size=-200000")
        for model, rows in (
            (ApiKey, _keys(sizes, now)),
            (Session, _sessions(sizes, now, chance)),
            (Message, _messages(sizes, now, chance)),
            (TurnRecord, _turns(sizes, now, chance)),
        ):
            progress(f"admin: filling {model._meta.verbose_name_plural}")
            _insert(database, model, rows)
    filled_s = time.perf_counter() - began
    began = time.perf_counter()
    rebuild()
    return filled_s, time.perf_counter() - began


def _insert(database: sqlite3.Connection, model: type[Model], rows: Iterator[Row]) -> None:
    first = next(rows)
    fields = {it.column: it for it in model._meta.concrete_fields if not it.primary_key or it.column in first}
    defaults = {name: _plain(it.get_default()) for name, it in fields.items() if name not in first}
    columns = ", ".join(f'"{name}"' for name in fields)
    places = ", ".join(f":{name}" for name in fields)
    sql = f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ({places})"
    whole = ({**defaults, **row} for row in _chain(first, rows))
    while some := list(islice(whole, CHUNK)):
        database.execute("BEGIN")
        database.executemany(sql, some)
        database.execute("COMMIT")


def _chain(first: Row, rows: Iterable[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _keys(sizes: Sizes, now: datetime) -> Iterator[Row]:
    for number in range(1, sizes.keys + 1):
        yield {
            "id": number,
            "name": f"key {number}",
            "owner": f"owner-{number % sizes.owners}",
            "prefix": f"hub_{number:06}",
            "digest": f"{number:064x}",
            "created_at": _time(now - timedelta(minutes=number)),
            "previous_prefix": "",
            "previous_digest": "",
        }


def _sessions(sizes: Sizes, now: datetime, chance: random.Random) -> Iterator[Row]:
    step = timedelta(days=DAYS) / sizes.sessions
    for number in range(sizes.sessions + 1):
        is_long = number == sizes.sessions
        updated_at = now - timedelta(days=DAYS) + number * step
        yield {
            "uid": "f" * 32 if is_long else f"{number:032x}",
            "owner": f"owner-{number % sizes.owners}",
            "session_id": f"sess_{number:06}",
            "title": f"{chance.choice(WORDS)} and {chance.choice(WORDS)} {number}".capitalize(),
            "system": json.dumps("Be brief. " * chance.randrange(200)) if number % 2 else "",
            "provider": "gemini" if number % 500 == 0 else "claude",
            "model": "sonnet",
            "message_count": sizes.long_session if is_long else sizes.messages_each,
            "revision": sizes.messages_each // 2,
            "ttl_s": 3_600,
            "created_at": _time(updated_at - timedelta(minutes=5)),
            "updated_at": _time(updated_at),
            "expires_at": _time(updated_at + timedelta(hours=1)),
            "deleted_at": _time(updated_at) if number % 1_000 == 7 else None,
        }


def _messages(sizes: Sizes, now: datetime, chance: random.Random) -> Iterator[Row]:
    texts = [json.dumps([" ".join(chance.choices(WORDS, k=chance.randrange(5, 60)))]) for _ in range(1_000)]
    counts = [sizes.messages_each] * sizes.sessions + [sizes.long_session]
    for number, count in enumerate(counts):
        uid = "f" * 32 if number == sizes.sessions else f"{number:032x}"
        for place in range(count):
            yield {
                "session_id": uid,
                "turn_id": f"{number:016x}{place // 2:016x}",
                "index": place % 2,
                "position": place,
                "revision": place // 2 + 1,
                "role": "assistant" if place % 2 else "user",
                "content": texts[(number * 7 + place) % len(texts)],
                "provider": "claude" if place % 2 else "",
                "model": "sonnet" if place % 2 else "",
                "created_at": _time(now),
                "replaced_at": None,
            }


def _turns(sizes: Sizes, now: datetime, chance: random.Random) -> Iterator[Row]:
    step = timedelta(days=DAYS) / sizes.turns
    for number in range(sizes.turns):
        session = number * sizes.sessions // sizes.turns
        yield {
            "id": f"{session:016x}{number % 3:08x}{number:08x}",
            "key_id": number % sizes.keys + 1,
            "owner": f"owner-{number % sizes.owners}",
            "session_uid": f"{session:032x}",
            "request_id": f"req-{number}",
            "provider": "gemini" if number % 500 == 0 else "claude",
            "model": "sonnet",
            "start": "warm",
            "outcome": "vendor_overloaded" if number % 200 == 0 else "ok",
            "input_tokens": chance.randrange(5_000),
            "output_tokens": chance.randrange(1_000),
            "cost_usd": "0.00123400",
            "first_token_ms": chance.randrange(2_000),
            "total_ms": chance.randrange(20_000),
            "started_at": _time(now - timedelta(days=DAYS) + number * step),
        }


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
