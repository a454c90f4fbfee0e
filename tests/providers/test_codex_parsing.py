"""The codex adapter without its program: a recorded process, the files written for it, what its words mean.

The transcript is of codex 0.169.0. What all this does in the real program is shown by the adapter's conformance tests.
"""

from __future__ import annotations

import json
import shlex
import stat
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from providers import errors
from providers.adapters import codex_wire as wire
from providers.adapters.base import Program, WorkerFolder
from providers.adapters.codex import CodexAdapter
from providers.adapters.codex_files import MODELS, Home
from providers.events import (
    Event,
    LimitNotice,
    Message,
    ReasoningDelta,
    TextDelta,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
)
from providers.process import ProcessLimits
from providers.worker import Deadlines, Worker
from tests.transcripts import player

KEY = {"OPENAI_API_KEY": "sk-of-the-tests"}


# --- a recorded process ----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def recorded(tmp_path: Path) -> AsyncIterator[Worker]:
    program = tmp_path / "codex"
    program.write_text(f"#!/bin/sh\nexec {shlex.join(player('codex'))}\n")
    program.chmod(0o700)
    adapter = CodexAdapter(Program(program, KEY))
    worker = await Worker.start(adapter, tmp_path / "workers", ProcessLimits(), Deadlines())
    yield worker
    await worker.stop()


async def answer_of(worker: Worker, *messages: Message, system: str = "") -> list[Event | errors.ProviderError]:
    """What came back, a failure as the last of it; the process is emptied for the next."""
    found: list[Event | errors.ProviderError] = []
    try:
        async for event in worker.run(Turn(messages or (Message("user", ("hi",)),), system=system)):
            found.append(event)
    except errors.ProviderError as error:
        found.append(error)
    assert await worker.reset()
    return found


async def test_a_recorded_process_answers_and_fails_as_it_did(recorded: Worker) -> None:
    said = [Message("user", ("one",)), Message("assistant", ("two",)), Message("user", ("three",))]
    assert await answer_of(recorded, *said, system="Be brief.") == [
        TurnStarted("gpt-6.1-sol"),
        ReasoningDelta("Let me see."),
        TextDelta("so b"),
        TextDelta("e it"),
        LimitNotice("warning", "five_hour", 1_795_400_000, 0.91),
        TurnFinished("stop", Usage(5, 5, cached_tokens=3, reasoning_tokens=3)),
    ]
    (refused,) = await answer_of(recorded)
    assert isinstance(refused, errors.NeedsLogin)
    (limited,) = await answer_of(recorded)
    assert isinstance(limited, errors.RateLimited)
    assert limited.retry_after_s is None
    _, notice, used_up = await answer_of(recorded)
    assert notice == LimitNotice("rejected", "seven_day", 4_102_444_800, 1.0)
    assert isinstance(used_up, errors.RateLimited)
    assert used_up.retry_after_s == pytest.approx(4_102_444_800 - time.time(), abs=60)
    (too_long,) = await answer_of(recorded)
    assert isinstance(too_long, errors.ContextTooLong)
    *began, cut = await answer_of(recorded)
    assert began == [TurnStarted("gpt-6.1-sol"), TextDelta("aaaa")]
    assert isinstance(cut, errors.StreamCut)
    assert (await answer_of(recorded))[-1] == TurnFinished("content_filter", None)
    assert isinstance((await answer_of(recorded))[-1], errors.ProtocolBroken)


# --- what the CLI's words mean ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "info", "expected"),
    [
        ("unexpected status 401", {"httpConnectionFailed": {"httpStatusCode": 401}}, errors.NeedsLogin),
        ("unexpected status 403", {"httpConnectionFailed": {"httpStatusCode": 403}}, errors.NeedsLogin),
        ("unexpected status 404", {"httpConnectionFailed": {"httpStatusCode": 404}}, errors.ModelUnknown),
        ("unexpected status 413", {"httpConnectionFailed": {"httpStatusCode": 413}}, errors.RequestTooLarge),
        ("retry limit", {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}, errors.RateLimited),
        ("retry limit", {"responseTooManyFailedAttempts": {"httpStatusCode": 529}}, errors.Overloaded),
        ("high demand", "internalServerError", errors.Overloaded),
        ("at capacity", "serverOverloaded", errors.Overloaded),
        ("gone", "modelNotFound", errors.ModelUnknown),
        ("The model `gpt-unsupported_country` does not exist", "modelNotFound", errors.ModelUnknown),
        ("no", "cyberPolicy", errors.TurnRefused),
        ("cut", {"responseStreamDisconnected": {"httpStatusCode": None}}, errors.StreamCut),
        ("stream disconnected before completion", "other", errors.StreamCut),
        ("Connection failed: error sending request", "other", errors.Overloaded),
        ("workspace routing discovery failed", None, errors.Overloaded),
        ('{"error":{"message":"Invalid value","code":"invalid_value"}}', "other", errors.TurnRefused),
        ('{"error":{"message":"Too big","code":"context_length_exceeded"}}', "other", errors.ContextTooLong),
        (
            "The 'gpt-x' model is not supported when using Codex with a ChatGPT account.",
            "badRequest",
            errors.ModelUnknown,
        ),
        ("something nobody has seen yet", "other", errors.ProtocolBroken),
        ("", None, errors.ProtocolBroken),
    ],
)
def test_every_failure_has_its_own_error(message: str, info: object, expected: type[errors.ProviderError]) -> None:
    error = wire.failure({"message": message, "codexErrorInfo": info}, (), "log in")
    assert type(error) is expected
    assert len(error.message) < 300
    assert error.mend == ("log in" if expected is errors.NeedsLogin else error.mend)


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [("Please try again in 1.5s.", 1.5), ("try again in 250ms", 0.25), ("try again in 3m", 180.0), ("later", None)],
)
def test_a_wait_the_vendor_names_is_kept(words: str, wait_s: float | None) -> None:
    error = wire.failure({"message": words, "codexErrorInfo": "rateLimitExceeded"}, (), "")
    assert error.retry_after_s == wait_s


def test_of_several_used_up_windows_the_last_to_open_counts() -> None:
    now = time.time()
    limits = tuple(LimitNotice("rejected", "x", now + after_s, 1.0) for after_s in (60, 600))
    error = wire.failure({"message": "used up", "codexErrorInfo": "usageLimitExceeded"}, limits, "")
    assert error.retry_after_s == pytest.approx(600, abs=5)


@pytest.mark.parametrize("line", [b"not json", b"[1]", b"\xff"])
def test_what_is_no_protocol_is_told_as_such(line: bytes) -> None:
    with pytest.raises(errors.ProtocolBroken):
        wire.parse_line(line)


@pytest.mark.parametrize("params", [{}, {"rateLimits": None}, {"rateLimits": {"primary": None}}])
def test_no_window_is_told_where_there_is_none(params: dict[str, Any]) -> None:
    assert wire.read_limits(params) == ()


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> WorkerFolder:
    made = WorkerFolder(tmp_path / "worker")
    for path in (made.cwd, made.tmp, made.state):
        path.mkdir(parents=True, mode=0o700)
    return made


def settings_of(folder: WorkerFolder, **env: str) -> dict[str, Any]:
    Home(folder).prepare(env)
    return tomllib.loads((folder.state / "codex/config.toml").read_text())


def test_a_key_is_named_to_the_cli_but_not_written_down(folder: WorkerFolder) -> None:
    vendor = settings_of(folder, **KEY)["model_providers"]["hub"]
    assert vendor["env_key"] == "OPENAI_API_KEY"
    assert "base_url" not in vendor
    for path in (folder.state / "codex").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert KEY["OPENAI_API_KEY"] not in path.read_text()


def test_an_address_of_the_owners_is_taken_as_it_is(folder: WorkerFolder) -> None:
    address = 'https://gateway.example/"v1"\\'
    assert settings_of(folder, **KEY, OPENAI_BASE_URL=address)["model_providers"]["hub"]["base_url"] == address


def test_a_login_is_shown_to_nobody_but_openai(folder: WorkerFolder) -> None:
    vendor = settings_of(folder, OPENAI_BASE_URL="https://gateway.example/v1")["model_providers"]["hub"]
    assert vendor["requires_openai_auth"] is True
    assert "base_url" not in vendor


@pytest.mark.parametrize("env", ["HOME", "CODEX_HOME"])
def test_a_login_file_is_only_linked_and_never_opened(folder: WorkerFolder, tmp_path: Path, env: str) -> None:
    """No credential file is ever read or copied (hub rule): one without any permission serves as well."""
    login = tmp_path / "owner" / (".codex/auth.json" if env == "HOME" else "auth.json")
    login.parent.mkdir(parents=True)
    login.touch(mode=0o000)
    given = {env: str(tmp_path / "owner")}
    Home(folder).prepare(given)
    link = folder.state / "codex/auth.json"
    assert link.readlink() == login
    assert CodexAdapter.login_files(given) == (login,)


def test_a_key_makes_the_login_needless(folder: WorkerFolder, tmp_path: Path) -> None:
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex/auth.json").touch()
    Home(folder).prepare({**KEY, "HOME": str(tmp_path)})
    assert not (folder.state / "codex/auth.json").exists()


def test_no_model_of_the_catalogue_has_a_tool(folder: WorkerFolder) -> None:
    catalogue = json.loads(Path(settings_of(folder, **KEY)["model_catalog_json"]).read_text())
    assert [it["slug"] for it in catalogue["models"]] == [model.name for model in MODELS]
    for model in catalogue["models"]:
        assert (model["shell_type"], model["apply_patch_tool_type"]) == ("disabled", None)
        assert not model["experimental_supported_tools"]
        assert not model["supports_search_tool"]
        assert "tool_mode" not in model
