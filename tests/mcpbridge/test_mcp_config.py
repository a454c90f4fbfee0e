"""`mcp_config`: the block each client reads, and how it gets into the client's own file."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.client_file import ClientFile, FileChanged, hide_secrets
from mcpbridge.clients import CLIENTS, SERVER, Hub, Machine
from mcpbridge.management.commands import mcp_config
from mcpbridge.management.commands.mcp_config import Command
from mcpbridge.merging import CannotMerge, merge

MANAGE = [str(settings.BASE_DIR / "manage.py"), "run_mcp"]
ENTRY = {"command": "python", "args": ["manage.py", "run_mcp"]}
BLOCK = {"mcpServers": {SERVER: ENTRY}}
ALICES = """{
    "theme": "dark",
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "files"],   "n": 1.50}
    },
    "last": [1,2,3]
}
"""

http_clients = pytest.mark.parametrize("client", ["cursor", "claude-code", "gemini-cli", "vscode"])
file_clients = pytest.mark.parametrize("client", list(CLIENTS))


@pytest.fixture(autouse=True)
def alices_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Her home and working folder; nothing of the machine the tests run on may be written to."""
    for name in ("HUB_DATA_DIR", "XDG_CONFIG_HOME", "REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def run(*args: str) -> tuple[str, str]:
    """What the command prints, and what it says beside it."""
    out, err = io.StringIO(), io.StringIO()
    call_command(Command(), *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def block(*args: str) -> Any:
    return json.loads(run(*args)[0])


def entry(*args: str) -> dict[str, Any]:
    (section,) = (it for name, it in block(*args).items() if name != "inputs")
    return dict(section[SERVER])


def write(path: Path, *args: str, client: str = "claude-desktop") -> str:
    return run(client, "--write", "--yes", "--file", str(path), *args)[1]


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*.bak"))


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


# --- what is printed -------------------------------------------------------------------------------------------------


@file_clients
def test_clients_that_start_a_program_get_absolute_paths(client: str) -> None:
    """Their working folder and PATH are not those of a shell."""
    assert Path(sys.executable).is_absolute()
    told = entry(client)
    assert told["command"] == sys.executable
    assert told["args"] == MANAGE
    assert "env" not in told


@pytest.mark.parametrize(
    ("client", "fields"),
    [
        ("claude-code", {"type": "stdio", "timeout": 900_000}),
        ("gemini-cli", {"timeout": 600_000}),
        ("vscode", {"type": "stdio"}),
        ("cursor", {}),
    ],
)
def test_each_client_gets_what_it_alone_wants(client: str, fields: dict[str, Any]) -> None:
    told = entry(client)
    assert {name: told[name] for name in told.keys() - {"command", "args"}} == fields


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("cursor", {"url": "URL", "headers": {"Authorization": "Bearer ${env:HUB_API_KEY}"}}),
        (
            "claude-code",
            {
                "type": "http",
                "url": "URL",
                "headers": {"Authorization": "Bearer ${HUB_API_KEY}"},
                "timeout": 900_000,
            },
        ),
        (
            "gemini-cli",
            {"httpUrl": "URL", "headers": {"Authorization": "Bearer ${HUB_API_KEY}"}, "timeout": 600_000},
        ),
        ("vscode", {"type": "http", "url": "URL", "headers": {"Authorization": "Bearer ${input:hub-key}"}}),
    ],
)
def test_a_client_of_http_refers_to_its_key(client: str, expected: dict[str, Any]) -> None:
    """Each in its own way, so that no secret stands in a file."""
    told = json.dumps(entry(client, "--http")).replace("http://127.0.0.1:8000/mcp", "URL")
    assert json.loads(told) == expected


def test_vs_code_asks_for_the_key_it_refers_to() -> None:
    (asked,) = block("vscode", "--http")["inputs"]
    assert asked == {"type": "promptString", "id": "hub-key", "description": "Key of the hub", "password": True}
    assert "inputs" not in block("vscode", "--http", "--key", "hub_alice")
    assert "inputs" not in block("vscode")


@http_clients
@pytest.mark.parametrize("url", ["https://hub.example", "https://hub.example/", "https://hub.example/mcp"])
def test_a_url_may_be_written_in_any_way(client: str, url: str) -> None:
    told = entry(client, "--http", "--url", url)
    assert told.get("url", told.get("httpUrl")) == "https://hub.example/mcp"


@pytest.mark.parametrize(
    "url", ["hub.example", "ftp://hub.example", "http://", "http://a:b@hub", "http://h:x", "http://a b", ""]
)
def test_what_is_no_address_of_a_hub_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match="--url"):
        run("cursor", "--http", "--url", url)


def test_a_hub_that_is_named_goes_into_the_environment_of_the_bridge() -> None:
    told = entry("cursor", "--url", "https://hub.example")
    assert told["env"] == {"HUB_URL": "https://hub.example", "HUB_API_KEY": "${env:HUB_API_KEY}"}


def test_a_key_is_printed_only_where_it_was_given() -> None:
    assert "hub_alice" in run("cursor", "--http", "--key", "hub_alice")[0]
    assert entry("claude-desktop", "--key", "hub_alice")["env"] == {"HUB_API_KEY": "hub_alice"}


def test_the_data_folder_goes_along_where_only_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in .env the bridge finds by itself."""
    monkeypatch.setenv("HUB_DATA_DIR", "elsewhere")
    assert entry("claude-desktop")["env"] == {"HUB_DATA_DIR": str(settings.HUB_DATA_DIR)}
    assert "env" not in entry("cursor", "--http")


def test_stores_that_only_the_environment_names_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may hold passwords, so they are not put into the file."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://hub:secret@host/hub")
    out, err = run("claude-desktop")
    assert "DATABASE_URL" in err
    assert "secret" not in out + err


def test_n8n_gets_the_fields_to_fill_in() -> None:
    fields = dict(line.split(": ", 1) for line in run("n8n")[0].splitlines())
    assert fields["Endpoint"] == "http://127.0.0.1:8000/mcp"
    assert fields["Server Transport"] == "HTTP Streamable"
    assert fields["Authentication"] == "Bearer Auth"
    assert int(fields["Options > Timeout"]) > 60_000


def test_claude_code_also_gets_the_command_that_does_the_same() -> None:
    words = " ".join(["claude mcp add", SERVER, "--scope project --", sys.executable, *MANAGE])
    assert words in run("claude-code")[1]
    header = "--header 'Authorization: Bearer ${HUB_API_KEY}'"
    assert (
        f"{SERVER} http://127.0.0.1:8000/mcp --scope project --transport http {header}"
        in run("claude-code", "--http")[1]
    )


def test_claude_desktop_takes_no_url() -> None:
    with pytest.raises(CommandError, match="build_mcpb"):
        run("claude-desktop", "--http")


def test_n8n_has_no_file() -> None:
    with pytest.raises(CommandError, match="no file"):
        run("n8n", "--write")


@pytest.mark.parametrize(
    ("platform", "client", "place"),
    [
        ("darwin", "claude-desktop", "/home/alice/Library/Application Support/Claude/claude_desktop_config.json"),
        ("linux", "claude-desktop", "/home/alice/.config/Claude/claude_desktop_config.json"),
        ("win32", "claude-desktop", "C:/Roaming/Claude/claude_desktop_config.json"),
        ("linux", "cursor", "/home/alice/.cursor/mcp.json"),
        ("linux", "gemini-cli", "/home/alice/.gemini/settings.json"),
        ("linux", "claude-code", "/project/.mcp.json"),
        ("linux", "vscode", "/project/.vscode/mcp.json"),
    ],
)
def test_the_usual_places_are_known(platform: str, client: str, place: str) -> None:
    machine = Machine(platform, Path("/home/alice"), Path("/project"), {"APPDATA": "C:/Roaming"})
    assert CLIENTS[client].place(machine).as_posix() == place


# --- merging ---------------------------------------------------------------------------------------------------------


def test_a_file_keeps_every_other_byte() -> None:
    merged = merge(ALICES, BLOCK)
    added = f',\n        "{SERVER}": ' + json.dumps(ENTRY, indent=4).replace("\n", "\n        ")
    assert merged == ALICES.replace("1.50}", "1.50}" + added)


@pytest.mark.parametrize("text", ["", "  \n", "\ufeff"])
def test_an_empty_file_becomes_the_block(text: str) -> None:
    assert json.loads(merge(text, BLOCK)) == BLOCK


def test_tabs_line_ends_and_a_byte_order_mark_stay() -> None:
    text = '\ufeff{\r\n\t"a": 1\r\n}\r\n'
    merged = merge(text, BLOCK)
    assert merged.startswith('\ufeff{\r\n\t"a": 1,\r\n\t"mcpServers": {\r\n\t\t"llm-mcp-hub": {\r\n\t\t\t"command"')
    assert merged.count("\n") == merged.count("\r\n")
    assert json.loads(merged[1:]) == {"a": 1, **BLOCK}


def test_merging_again_changes_nothing() -> None:
    merged = merge(ALICES, BLOCK)
    assert merge(merged, BLOCK) == merged


def test_a_former_entry_is_replaced_and_what_a_person_added_to_it_stays() -> None:
    old = {"url": "http://old/mcp", "headers": {}, "timeout": 5, "disabled": True}
    env = {"env": {"HUB_URL": "http://old", "HTTPS_PROXY": "http://proxy"}}
    new = {"command": "python", "args": [], "timeout": 900_000, "env": {"HUB_DATA_DIR": "/data"}}
    merged = merge(json.dumps({"mcpServers": {SERVER: old | env}}), {"mcpServers": {SERVER: new}})
    assert json.loads(merged)["mcpServers"][SERVER] == {
        "command": "python",
        "args": [],
        "timeout": 5,
        "disabled": True,
        "env": {"HTTPS_PROXY": "http://proxy", "HUB_DATA_DIR": "/data"},
    }


def test_an_input_is_added_once() -> None:
    asked = {"inputs": [{"id": "hub-key"}], "servers": {SERVER: ENTRY}}
    merged = merge('{"inputs": [{"id": "other"}]}', asked)
    assert json.loads(merged) == {"inputs": [{"id": "other"}, {"id": "hub-key"}], "servers": {SERVER: ENTRY}}
    assert merge(merged, asked) == merged


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1,}', "no valid JSON"),
        ("{", "no valid JSON"),
        ('{\n  // mine\n  "a": 1\n}', "comments"),
        ('{"a": /* mine */ 1}', "comments"),
        ('{"a": "http://x", "b": }', "no valid JSON"),
        ("[]", "no JSON object"),
        ('{"mcpServers": []}', "mcpServers"),
        ("[" * 100_000, "nested too deep|no valid JSON"),
    ],
)
def test_what_can_not_be_merged_into_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CannotMerge, match=reason):
        merge(text, BLOCK)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
servers = st.dictionaries(st.text() | st.just(SERVER), st.dictionaries(st.text(), json_values, max_size=3), max_size=3)
files = st.tuples(
    st.dictionaries(st.text(), json_values, max_size=3), st.none() | servers, st.sampled_from([None, 0, 2, "\t"])
)


@given(files)
def test_whatever_else_a_file_holds_is_as_it_was(file: tuple[dict[str, Any], dict[str, Any] | None, Any]) -> None:
    rest, former, indent = file
    document = rest if former is None else {**rest, "mcpServers": former}
    document.pop("mcpServers", None) if former is None else None
    merged = json.loads(merge(json.dumps(document, indent=indent), BLOCK))
    ours = merged["mcpServers"].pop(SERVER)
    assert {name: ours[name] for name in ENTRY} == ENTRY
    (former or {}).pop(SERVER, None)
    assert merged == {**document, "mcpServers": former or {}}


# --- writing ---------------------------------------------------------------------------------------------------------


@file_clients
def test_the_clients_own_file_is_made_with_its_folders(client: str) -> None:
    err = run(client, "--write", "--yes")[1]
    path = CLIENTS[client].place(mcp_config.this_machine())
    assert json.loads(path.read_text()) == block(client)
    assert str(path) in err
    assert not backups(path)


def test_a_former_file_is_kept_with_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(ALICES)
    path.chmod(0o640)
    err = write(path)
    assert json.loads(path.read_text())["theme"] == "dark"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (backup,) = backups(path)
    assert backup.read_text() == ALICES
    assert str(backup) in err
    assert {it.name for it in tmp_path.iterdir() if it.is_file()} == {path.name, backup.name}


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    """It may hold a key."""
    write(tmp_path / "config.json", "--key", "hub_alice")
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o600


def test_writing_again_says_so_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write(path)
    before = path.stat()
    assert "nothing was written" in write(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    assert not backups(path)


def test_a_link_stays_one(tmp_path: Path) -> None:
    kept, link = tmp_path / "dotfiles.json", tmp_path / "config.json"
    kept.write_text(ALICES)
    link.symlink_to(kept)
    write(link)
    assert link.is_symlink()
    assert SERVER in kept.read_text()


@pytest.mark.parametrize("text", ["{", "// hers\n{}", "[]"])
def test_a_file_that_is_not_understood_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"config\.json can't be used"):
        write(path)
    assert path.read_text() == text
    assert not backups(path)


def test_a_file_that_is_no_text_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{\x00}\x00")
    with pytest.raises(CommandError, match="UTF-8"):
        write(path)
    assert path.read_bytes() == b"\xff\xfe{\x00}\x00"


def test_a_folder_in_its_place_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="directory"):
        write(tmp_path)


def test_the_change_is_shown_and_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text(ALICES)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    out, err = run("claude-desktop", "--write", "--file", str(path))
    assert f'+        "{SERVER}": {{' in err
    assert "[y/N]" in err
    assert out == ""
    assert SERVER in path.read_text()


@pytest.mark.parametrize("stdin", [Terminal("n\n"), Terminal(""), io.StringIO("y\n")], ids=["no", "end", "nobody"])
def test_without_a_yes_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO) -> None:
    path = tmp_path / "config.json"
    path.write_text(ALICES)
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(CommandError):
        run("claude-desktop", "--write", "--file", str(path))
    assert path.read_text() == ALICES
    assert not backups(path)


def test_a_file_that_changed_while_its_owner_was_asked_is_left_alone(tmp_path: Path) -> None:
    """Clients write to their files, too."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    file = ClientFile(path)
    path.write_text('{"a": 1}')
    with pytest.raises(FileChanged):
        file.write("{}", now=timezone.now())
    assert path.read_text() == '{"a": 1}'
    assert not backups(path)


def test_the_shown_change_keeps_secrets(tmp_path: Path) -> None:
    """A file may be on one line, and then all of it is the change."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"mcpServers": {"git": {"env": {"GIT_TOKEN": "ghp_alice"}}}}))
    assert "ghp_alice" not in write(path)
    assert "ghp_alice" in path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        '"HUB_API_KEY": "secret"',
        '"Authorization": "Bearer secret"',
        '"args": ["--header", "Authorization:Bearer secret"]',
        '"args": ["--api-key", "secret"]',
        '"args": ["--token=secret"]',
        '"password": "se\\"secret"',
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert "secret" not in hide_secrets(text)


@pytest.mark.parametrize("text", ['"Authorization": "Bearer ${env:HUB_API_KEY}"', '"command": "secret-key"'])
def test_what_is_none_is_shown(text: str) -> None:
    assert hide_secrets(text) == text


def test_a_hub_without_a_key_of_its_own_has_the_default_address() -> None:
    assert Hub("python", ()).endpoint == "http://127.0.0.1:8000/mcp"
