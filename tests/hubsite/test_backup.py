"""`manage.py backup` and `restore`: conversations go on elsewhere, in the same kind of database or the other."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from hubsite.backup import BackupFailed, checked_parts, read_manifest
from tests.asking import CHAT, SESSION, UNARCHIVED, answer_of, ask, client_of, eventually
from tests.hub import HubProcess, running_hub
from tests.postgres import PostgresServer, running_postgres

ECHO = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1"}
SAID = "to be kept \x00 höher \U0001f98a"
ADD_GROUP = """
from hubsite.asgi import settings
from django.contrib.auth.models import Group, Permission, User
group = Group.objects.create(name="auditors")
group.permissions.set(Permission.objects.filter(codename="view_apikey"))
User.objects.create_user("eve").groups.add(group)
"""
SHOW_GROUP = """
from hubsite.asgi import settings
from django.contrib.auth.models import User
print([[it.codename for it in group.permissions.all()] for group in User.objects.get(username="eve").groups.all()])
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with a conversation, that goes on running."""
    with running_hub(tmp_path_factory.mktemp("origin"), env=ECHO) as hub:
        begin(hub)
        yield hub


@pytest.fixture(scope="module")
def archive(origin: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its backup, made while it serves."""
    path = tmp_path_factory.mktemp("archive") / "hub.tar.gz"
    made = origin.run("backup", str(path))
    assert made.returncode == 0, made.stderr
    return path


def begin(hub: HubProcess) -> None:
    """A conversation that is in the database by the end, and somebody with rights."""
    say(hub, hub.key, SAID, session="kept")
    with Redis.from_url(hub.redis_url) as redis:
        eventually(lambda: not redis.exists(UNARCHIVED))
    assert hub.run_program(sys.executable, "-c", ADD_GROUP).returncode == 0


def say(hub: HubProcess, key: str, text: str, *, session: str) -> str:
    with client_of(hub, key) as client:
        return answer_of(client.post(CHAT, json=ask(text), headers={SESSION: session}))


def texts_in(path: Path) -> str:
    with tarfile.open(path) as archive:
        files = [archive.extractfile(member) for member in archive.getmembers()]
        return "\n".join(file.read().decode() for file in files if file is not None)


def test_archive_is_its_owners_alone_and_holds_no_key(origin: HubProcess, archive: Path) -> None:
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert list(archive.parent.iterdir()) == [archive]
    text = texts_in(archive)
    assert "to be kept" in text
    for secret in (origin.key, (origin.data_dir / "secret.key").read_text().strip()):
        assert secret not in text


def test_conversation_goes_from_sqlite_to_postgres(
    origin: HubProcess, archive: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    postgres.execute("CREATE DATABASE target", database="postgres")
    assert_goes_on(archive, tmp_path, ECHO | {"DATABASE_URL": postgres.url_of("target")}, key=origin.key)


def test_conversation_goes_from_postgres_to_sqlite(tmp_path: Path, postgres: PostgresServer) -> None:
    archive = tmp_path / "hub.tar.gz"
    with running_hub(tmp_path / "origin", env=ECHO | {"DATABASE_URL": postgres.url}) as hub:
        begin(hub)
        made = hub.run("backup", str(archive))
        assert made.returncode == 0, made.stderr
    assert_goes_on(archive, tmp_path / "target", ECHO, key=hub.key)


def assert_goes_on(archive: Path, folder: Path, env: dict[str, str], *, key: str) -> None:
    """The old hub's key is as good as before, and so is the new folder's own."""
    done = HubProcess(folder, env=env).run("restore", str(archive))
    assert done.returncode == 0, done.stderr
    with running_hub(folder, env=env) as hub:
        assert hub.run_program(sys.executable, "-c", SHOW_GROUP).stdout.strip() == "[['view_apikey']]"
        assert say(hub, key, "and more", session="kept") == "and more"
        assert told_in(hub) == [SAID, SAID, "and more", "and more"]


def told_in(hub: HubProcess) -> list[str]:
    with client_of(hub, hub.key) as client:
        return [it["content"] for it in client.get("/v1/sessions/kept").json()["messages"]]


def test_nothing_is_overwritten_unasked_and_then_nothing_of_the_old_is_left(
    origin: HubProcess, archive: Path, tmp_path: Path
) -> None:
    """Redis too: else a conversation that was never in the backup would go on out of nowhere."""
    refused = origin.run("backup", str(archive))
    assert (refused.returncode, "is there already" in refused.stderr) == (1, True)
    with running_hub(tmp_path, env=ECHO) as hub:
        say(hub, hub.key, "of another world", session="kept")
        assert "another hub" in hub.run("restore", "--force", str(archive)).stderr
    refused = hub.run("restore", str(archive))
    assert (refused.returncode, "not empty" in refused.stderr) == (1, True)
    forced = hub.run("restore", "--force", str(archive))
    assert forced.returncode == 0, forced.stderr
    with running_hub(tmp_path, env=ECHO) as hub:
        assert told_in(hub) == [SAID, SAID]


def test_damage_is_found_before_anything_is_changed(archive: Path, tmp_path: Path) -> None:
    cut, altered = tmp_path / "cut", tmp_path / "altered"
    cut.write_bytes(archive.read_bytes()[:-200])
    rewrite(archive, altered, "tables/chat.message.jsonl", lambda text: text.replace("to be kept", "to be lost"))
    for path in (cut, altered):
        with pytest.raises(BackupFailed, match="damaged"), checked_parts(path, read_manifest(archive)):
            pytest.fail("the lines of a damaged archive were given out")
    (tmp_path / "text").write_text("no archive at all")
    with pytest.raises(BackupFailed, match="no backup"):
        read_manifest(tmp_path / "text")


def test_archive_with_other_tables_is_refused(archive: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    rewrite(archive, foreign, "manifest.json", lambda text: text.replace("chat.0001_initial", "chat.9999_later"))
    refused = HubProcess(tmp_path / "hub", env=ECHO).run("restore", str(foreign))
    assert (refused.returncode, "chat.9999_later" in refused.stderr) == (1, True)
    assert "Traceback" not in refused.stderr


def rewrite(origin: Path, target: Path, name: str, change: Callable[[str], str]) -> None:
    with tarfile.open(origin) as old, tarfile.open(target, "w:gz") as new:
        folder = target.parent / f"{target.name}-files"
        old.extractall(folder, filter="data")
        changed = folder / name
        text = changed.read_text()
        changed.write_text(change(text))
        assert changed.read_text() != text
        for member in old.getnames():
            new.add(folder / member, member)


def lines_of(archive: Path) -> dict[str, bytes]:
    """Every table's lines."""
    with tarfile.open(archive) as opened:
        names = [it for it in opened.getnames() if it.startswith("tables/")]
        return {name: file.read() for name in names if (file := opened.extractfile(name)) is not None}


def rows_of(archive: Path) -> dict[str, list[object]]:
    """Likewise, whatever the order of what stands within: PostgreSQL keeps none."""
    return {name: [*map(json.loads, lines.splitlines())] for name, lines in lines_of(archive).items()}


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_backup_of_what_was_restored_is_the_same(
    archive: Path, tmp_path: Path, postgres: PostgresServer, database: str
) -> None:
    """Times of changes and fractions of milliseconds included."""
    if database == "postgres":
        postgres.execute("CREATE DATABASE again", database="postgres")
    env = ECHO | ({"DATABASE_URL": postgres.url_of("again")} if database == "postgres" else {})
    hub = HubProcess(tmp_path / "hub", env=env)
    assert hub.run("restore", str(archive)).returncode == 0
    assert hub.run("backup", str(tmp_path / "again")).returncode == 0
    assert rows_of(tmp_path / "again") == rows_of(archive)
    assert re.search(rb"\.\d{6}", lines_of(archive)["tables/providers.routerule.jsonl"])


MANIFEST = "manifest.json"
GROUPS, KEYS = "tables/auth.group.jsonl", "tables/chat.apikey.jsonl"


def without_parts(text: str) -> str:
    return json.dumps({**json.loads(text), "parts": []})


def fewer_rows(text: str) -> str:
    given = json.loads(text)
    return json.dumps({**given, "parts": [{**it, "rows": it["rows"] + 1} for it in given["parts"]]})


SPOILT: list[tuple[str, Callable[[str], str], str]] = [
    (MANIFEST, without_parts, "lacks admin.logentry, auth.group"),
    (MANIFEST, fewer_rows, "rows of"),
    (MANIFEST, lambda text: json.dumps({**json.loads(text), "migrations": 5}), "no backup of this hub"),
    (MANIFEST, lambda text: json.dumps({**json.loads(text), "has_secret": True}), "lacks secret.key"),
    (GROUPS, lambda text: text.replace('"auditors"', '"auditors'), "JSON"),
    (GROUPS, lambda text: text.replace("auth.group", "auth.permission"), "Permission"),
    (GROUPS, lambda text: text.replace('"pk": 1', f'"pk": {10**30}'), "nothing was changed: "),
    (KEYS, lambda text: text.replace('"scopes"', '"nonsense"'), "nonsense"),
]


def test_what_is_no_whole_backup_changes_nothing(archive: Path, tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "hub", env=ECHO)
    assert hub.run("restore", str(archive)).returncode == 0
    for number, (name, change, said) in enumerate(SPOILT):
        refused = hub.run("restore", "--force", str(spoilt(archive, tmp_path / str(number), name, change)))
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False), refused.stderr
        assert said in refused.stderr
    assert hub.run("backup", str(tmp_path / "after")).returncode == 0
    assert lines_of(tmp_path / "after") == lines_of(archive)


def spoilt(archive: Path, folder: Path, name: str, change: Callable[[str], str]) -> Path:
    """An archive that was made up rather than damaged: its digests are right."""
    folder.mkdir()
    rewrite(archive, folder / "changed", name, change)
    if name == MANIFEST:
        return folder / "changed"
    was, now = (hashlib.sha256(lines_of(it)[name]).hexdigest() for it in (archive, folder / "changed"))
    rewrite(folder / "changed", folder / "signed", MANIFEST, lambda text: text.replace(was, now))
    return folder / "signed"


def test_backup_that_is_stopped_leaves_nothing(origin: HubProcess, tmp_path: Path) -> None:
    wait = "import hubsite.backup as it, time; it._write_table = lambda *_: time.sleep(60); "
    code = f"from hubsite.asgi import settings; {wait}from django.core.management import call_command as c; "
    path = tmp_path / "hub.tar.gz"
    with origin.begin_program(sys.executable, "-c", f"{code}c('backup', {str(path)!r})") as process:
        eventually(lambda: any(tmp_path.glob(".backup-*")))
        process.terminate()
        assert process.wait(20) == 128 + 15
    assert list(tmp_path.iterdir()) == []


def test_secret_key_comes_along_only_when_asked_for(origin: HubProcess, tmp_path: Path) -> None:
    secret = (origin.data_dir / "secret.key").read_text().strip()
    path = tmp_path / "with-secret.tar.gz"
    assert origin.run("backup", "--with-secret-key", str(path)).returncode == 0
    hub = HubProcess(tmp_path / "hub", env=ECHO)
    assert hub.run("restore", str(path)).returncode == 0
    assert (hub.data_dir / "secret.key").read_text().strip() == secret
    with tarfile.open(path) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)["has_secret"] is True
