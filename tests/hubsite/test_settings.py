"""Settings are typed and bounded; a wrong one is named with a hint, never a traceback."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import settings

from hubsite.env import Env, read_or_make_secret
from tests.hub import ROOT, HubProcess

DEFAULT = Path("/default")


@pytest.mark.parametrize(
    ("value", "expected"), [("5", 5), (" 7 ", 7), ("", 3), ("abc", 3), ("-1", 3), ("11", 3), ("1.5", 3), ("1e3", 3)]
)
def test_whole_number_is_read_or_replaced_by_its_default(value: str, expected: int) -> None:
    env = Env({"HUB_QUEUE": value})
    assert env.integer("HUB_QUEUE", 3, most=10) == expected
    assert [fault.name for fault in env.faults] == (["HUB_QUEUE"] if expected == 3 and value else [])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "x", "1e400", "0"])
def test_number_that_is_no_bound_is_a_fault(value: str) -> None:
    env = Env({"HUB_WAIT_S": value})
    assert env.number("HUB_WAIT_S", 3.0, least=0.1) == 3.0
    assert "0.1 to" in env.faults[0].hint


@pytest.mark.parametrize(
    ("value", "expected"), [("on", True), ("TRUE", True), ("1", True), ("off", False), ("No", False), ("", True)]
)
def test_switch_takes_the_usual_words(value: str, expected: bool) -> None:
    env = Env({"HUB_DEBUG": value})
    assert env.flag("HUB_DEBUG", default=True) is expected
    assert env.faults == []


def test_switch_that_is_neither_on_nor_off_is_a_fault() -> None:
    env = Env({"HUB_DEBUG": "maybe"})
    assert env.flag("HUB_DEBUG", default=False) is False
    assert env.faults[0].hint == "Use on or off"


def test_unknown_words_are_named_beside_the_known() -> None:
    env = Env({"HUB_PROVIDERS": "echo, clod"})
    assert env.words("HUB_PROVIDERS", "claude,echo", known=("claude", "echo")) == ["claude", "echo"]
    assert "clod" in env.faults[0].problem
    assert "claude, echo" in env.faults[0].hint


def test_relative_path_counts_from_the_checkout() -> None:
    env = Env({"HUB_DATA_DIR": "data", "HUB_OTHER": "/abs"})
    assert env.path("HUB_DATA_DIR", DEFAULT, base=Path("/checkout")) == Path("/checkout/data")
    assert env.path("HUB_OTHER", DEFAULT, base=Path("/checkout")) == Path("/abs")
    assert env.path("HUB_NONE", DEFAULT, base=Path("/checkout")) == DEFAULT


def test_commands_started_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / str(number) / "secret.key"
        with ThreadPoolExecutor(8) as threads:
            secrets = set(threads.map(lambda _, path=path: read_or_make_secret(path), range(8)))
        assert len(secrets) == 1
        assert [it.name for it in path.parent.iterdir()] == ["secret.key"]


def test_example_lists_exactly_the_settings_that_are_read() -> None:
    text = (ROOT / ".env.example").read_text()
    listed = re.findall(r"^#?\s*([A-Z][A-Z0-9_]+)=", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(settings.HUB_ENV_NAMES))


def test_example_as_it_stands_is_free_of_faults(tmp_path: Path) -> None:
    """Whoever takes the comment marks off gets what the hub would have done anyway."""
    text = (ROOT / ".env.example").read_text()
    lines = dict(re.findall(r"^#?\s*([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE))
    ran = HubProcess(tmp_path, env={**lines, "HUB_DATA_DIR": str(tmp_path / "data")}).run("check")
    assert (ran.returncode, ran.stdout) == (0, "System check identified no issues (0 silenced).\n"), ran.stderr


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_wrong_settings_keep_the_hub_from_starting_and_are_named_with_a_hint(tmp_path: Path, server: str) -> None:
    hub = HubProcess(tmp_path, env={"HUB_QUEUE": "abc", "HUB_PROVIDERS": "clod", "HUB_QUEU": "5"})
    if server == "daphne":
        ran = hub.run("hub", "--bind", "127.0.0.1:0")
    else:
        ran = hub.run_program(sys.executable, "-m", "uvicorn", "hubsite.asgi:application", "--port", "0")
    assert ran.returncode != 0
    assert "HUB_QUEUE can't be 'abc'." in ran.stderr
    assert "HINT: Use a whole number of 0 to" in ran.stderr
    assert "HUB_PROVIDERS does not know clod." in ran.stderr
    assert "HINT: Use any of: acp, claude" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (hub.data_dir / "hub.sqlite3").exists()


def test_hub_answers_to_this_machines_names_whatever_else_it_is_called(tmp_path: Path) -> None:
    """A balancer's health checks come by them."""
    asked = HubProcess(tmp_path, env={"HUB_ALLOWED_HOSTS": "hub.internal,localhost"}).run_program(
        sys.executable, "-c", "from hubsite.asgi import settings; print(*settings.ALLOWED_HOSTS)"
    )
    assert asked.stdout.split() == ["localhost", "127.0.0.1", "[::1]", "hub.internal"]


def test_misspelt_setting_is_a_warning_and_no_hindrance(tmp_path: Path) -> None:
    ran = HubProcess(tmp_path, env={"HUB_QUEU": "5"}).run("check")
    assert ran.returncode == 0
    assert "HUB_QUEU is no setting of the hub" in ran.stderr
    assert ".env.example" in ran.stderr


def test_doctor_fails_when_only_the_demo_is_usable(tmp_path: Path) -> None:
    ran = HubProcess(tmp_path).run("doctor")
    assert ran.returncode == 1
    for name in ("claude", "gemini"):
        assert re.search(rf"{name} +not installed\n +to mend it: uv run manage.py install_cli {name}", ran.stdout)
    assert re.search(r"echo +ready", ran.stdout)
    assert "Traceback" not in ran.stderr
