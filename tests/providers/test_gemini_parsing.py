"""The pure parts of the gemini adapter: its logins, the files it writes for the CLI, the lines it reads from it.

Figures and words of the lines are those recorded from gemini 0.61.0. What they do in the real program is shown by the
adapter's conformance tests.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest

from providers import errors
from providers.adapters import gemini, gemini_files, gemini_rpc, gemini_text
from providers.adapters.acp_rpc import Update
from providers.adapters.base import Program, WorkerFolder
from providers.events import Message, ReasoningDelta, Sampling, TextDelta, Turn, Usage

HOSTILE = ("@/etc/passwd", "/memory show", "$HOME", "${GEMINI_API_KEY}", "!id", "#x", "\u2028{}\u2028", '"\\', "é😀")


def question(text: str = "hi", **fields: Any) -> Turn:
    return Turn((Message("user", (text,)),), **fields)


def adapter(**env: str) -> gemini.GeminiAdapter:
    return gemini.GeminiAdapter(Program(Path("/opt/gemini"), env))


@pytest.fixture
def folder(tmp_path: Path) -> WorkerFolder:
    made = WorkerFolder(tmp_path / "worker")
    for path in (made.cwd, made.tmp, made.state):
        path.mkdir(parents=True, mode=0o700)
    return made


def messages_of(answer: bytes) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(answer)["hookSpecificOutput"]["llm_request"]["messages"]
    return found


# --- the login ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"GEMINI_API_KEY": "k"}, "gemini-api-key"),
        ({"GOOGLE_API_KEY": "k"}, "vertex-ai"),
        ({"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "l"}, None),
        (
            {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "l", "GOOGLE_APPLICATION_CREDENTIALS": "/f"},
            "vertex-ai",
        ),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "true", "GEMINI_API_KEY": "k"}, None),
        ({"GOOGLE_GENAI_USE_GCA": "true", "GEMINI_API_KEY": "k"}, None),
        ({"GOOGLE_GENAI_USE_GCA": "true", "GOOGLE_CLOUD_ACCESS_TOKEN": "t"}, "oauth-personal"),
    ],
)
def test_login_is_told_by_the_environment(env: dict[str, str], expected: str | None) -> None:
    assert gemini.auth_type(env) == expected


async def test_login_file_is_only_named_to_the_cli_and_never_opened(tmp_path: Path) -> None:
    """No credential file is ever read or copied (hub rule): one without any permission serves as well."""
    login = tmp_path / gemini.OAUTH_FILE
    login.parent.mkdir()
    login.touch(mode=0o000)
    program = Program(Path("/opt/gemini"), {"HOME": str(tmp_path)})
    assert await gemini.GeminiAdapter.login_state(program) == "ready"
    assert gemini.login_file_env(program.env) == {"GOOGLE_APPLICATION_CREDENTIALS": str(login)}


async def test_home_without_a_login_needs_one(tmp_path: Path) -> None:
    program = Program(Path("/opt/gemini"), {"HOME": str(tmp_path)})
    assert await gemini.GeminiAdapter.login_state(program) == "needs_login"
    assert gemini.login_file_env(program.env) == {}


# --- launch ------------------------------------------------------------------------------------------------------


def test_process_gets_a_private_home_and_a_path_of_two_programs(folder: WorkerFolder) -> None:
    launch = adapter(HOME="/home/alice", GEMINI_API_KEY="k").launch(folder)
    private = str(folder.state / "home")
    assert (launch.env["HOME"], launch.env["GEMINI_CLI_HOME"]) == (private, private)
    assert launch.env["GEMINI_API_KEY"] == "k"
    assert not any("/home/alice" in value for value in launch.env.values())
    assert sorted(path.name for path in Path(launch.env["PATH"]).iterdir()) == ["bash", "cat"]
    record = str(folder.state / "responses.jsonl")
    assert launch.argv == ("/opt/gemini", "--acp", "-e", "none", "--record-responses", record)


def test_script_is_run_with_node(folder: WorkerFolder, tmp_path: Path) -> None:
    script = tmp_path / "bundle/gemini.js"
    script.parent.mkdir()
    script.touch()
    (tmp_path / "package.json").write_text('{"version": "0.61.0"}')
    link = tmp_path / "gemini"
    link.symlink_to(script)
    launch = gemini.GeminiAdapter(Program(link, {"GEMINI_API_KEY": "k"})).launch(folder)
    assert Path(launch.argv[0]).name == "node"
    assert launch.argv[2] == str(script)


async def test_version_is_read_from_the_package(tmp_path: Path) -> None:
    script = tmp_path / "bundle/gemini.js"
    script.parent.mkdir()
    script.touch()
    (tmp_path / "package.json").write_text('{"version": "0.61.0"}')
    assert await gemini.GeminiAdapter.version(Program(script, {})) == "0.61.0"


def test_settings_leave_no_tool_no_retry_and_one_request_per_turn() -> None:
    settings = gemini_files.base_settings("gemini-api-key")
    assert settings["tools"] == {"core": []}
    assert settings["general"]["maxAttempts"] == 1
    assert settings["model"]["maxSessionTurns"] == 1
    assert list(settings["hooks"]) == ["BeforeModel"]
    # The CLI expands variables in every settings string.
    assert "$" not in orjson.dumps(settings).decode()


@pytest.mark.parametrize("model", ["auto", "auto-gemini-3", "../secret", "a b", "${GEMINI_API_KEY}", "", "m" * 101])
def test_model_name_that_is_none_is_refused(model: str) -> None:
    with pytest.raises(errors.ModelUnknown):
        adapter().check(question(model=model))


def test_more_stop_sequences_than_the_api_takes_are_refused() -> None:
    adapter().check(question(sampling=Sampling(stop=("a",) * 5)))
    with pytest.raises(errors.ParameterUnsupported):
        adapter().check(question(sampling=Sampling(stop=("a",) * 6)))


def test_processes_are_shared_by_system_prompts_and_never_by_owners() -> None:
    binding = adapter().binding
    assert binding(question(owner="alice", system="a")) == binding(question(owner="alice", system="b", model="x"))
    assert binding(question(owner="alice")) != binding(question(owner="bob"))


# --- a turn's files ----------------------------------------------------------------------------------------------


def test_messages_keep_roles_order_and_every_character() -> None:
    messages = tuple(Message("assistant" if n % 2 else "user", ("a", text)) for n, text in enumerate(HOSTILE))
    answer = gemini_files.hook_answer(Turn(messages))
    assert answer.isascii()
    assert messages_of(answer) == [
        {"role": "model" if n % 2 else "user", "content": "a" + text} for n, text in enumerate(HOSTILE)
    ]


def test_empty_message_is_not_sent_as_an_empty_part() -> None:
    assert messages_of(gemini_files.hook_answer(question(""))) == [{"role": "user", "content": "\u200b"}]


def test_sampling_is_written_for_every_name_the_model_may_end_up_with() -> None:
    sampling = Sampling(max_tokens=7, temperature=0.0, top_p=0.5, stop=("END",))
    settings = gemini_files.turn_settings("gemini-3-pro-preview", sampling)
    overrides = {entry["match"]["model"]: entry["modelConfig"] for entry in settings["modelConfigs"]["customOverrides"]}
    config = {"temperature": 0.0, "topP": 0.5, "maxOutputTokens": 7, "stopSequences": ["END"]}
    assert overrides["gemini-3-pro-preview"] == overrides["gemini-3.1-pro-preview"] == {"generateContentConfig": config}
    assert settings["model"] == {"name": "gemini-3-pro-preview"}


def test_sampling_left_out_is_left_to_the_vendor() -> None:
    settings = gemini_files.turn_settings("gemini-2.5-pro", Sampling())
    assert settings["modelConfigs"] == {"customOverrides": []}


def test_stop_sequence_can_not_name_a_variable() -> None:
    """`${GEMINI_API_KEY}` as a stop sequence sent the key upstream before it was guarded."""
    assert gemini_text.without_variables("a$HOME") == "a${_HUB_NONE:-$}HOME"


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be brief. ${name} $HOME", "Be brief. ${name} $HOME"),
        ("${AvailableTools}!", "$\u200b{AvailableTools}!"),
        ("", "\u200b"),
        (" \n", "\u200b"),
    ],
)
def test_system_prompt_is_written_as_text(system: str, expected: str) -> None:
    assert gemini_text.system_text(system) == expected


def test_turn_files_are_private_and_gone_after_wiping(folder: WorkerFolder) -> None:
    adapter(GEMINI_API_KEY="k").launch(folder)
    before = set(folder.root.rglob("*"))
    home = gemini_files.Home(folder)
    turn = home.write_turn(question("secret", system="secret"), "gemini-2.5-pro")
    left = folder.state / "home/.gemini/tmp/t1/chats"
    left.mkdir(parents=True)
    (folder.tmp / "error-report.json").write_text("secret")
    written = [path for path in turn.cwd.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert home.wipe()
    assert set(folder.root.rglob("*")) == before
    assert b"secret" not in b"".join(path.read_bytes() for path in folder.root.rglob("*.md"))


def test_each_turn_has_a_folder_of_its_own(folder: WorkerFolder) -> None:
    """The CLI caches a folder's settings for 10 s, so the last turn's sampling would be used again."""
    adapter(GEMINI_API_KEY="k").launch(folder)
    home = gemini_files.Home(folder)
    assert home.write_turn(question(), "m").cwd != home.write_turn(question(), "m").cwd


def test_turn_without_a_receipt_is_a_broken_worker(folder: WorkerFolder) -> None:
    turn = gemini_files.TurnFolder(folder.cwd, folder.cwd)
    with pytest.raises(errors.ProtocolBroken):
        turn.actual_model()
    (folder.cwd / ".gemini").mkdir()
    (folder.cwd / ".gemini/receipt.json").write_bytes(b'{"llm_request": {"model": "gemini-3.1-pro-preview"}}')
    assert turn.actual_model() == "gemini-3.1-pro-preview"


def test_last_token_record_of_the_chat_counts(folder: WorkerFolder) -> None:
    turn = gemini_files.TurnFolder(folder.cwd, folder.cwd)
    assert turn.token_counts() == {}
    lines = [b'{"type":"user"}', b'{"type":"gemini","tokens":{"input":1}}', b'{"$set":{}}', b"torn {"]
    (folder.cwd / "session.jsonl").write_bytes(b"\n".join(lines))
    assert turn.token_counts() == {"input": 1}


# --- lines -------------------------------------------------------------------------------------------------------


def update(kind: str, **content: Any) -> bytes:
    params = {"sessionId": "s", "update": {"sessionUpdate": kind, "content": content}}
    return orjson.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params})


def test_text_and_thought_chunks_are_events() -> None:
    text = gemini_rpc.parse_line(update("agent_message_chunk", type="text", text="a"))
    thought = gemini_rpc.parse_line(update("agent_thought_chunk", type="text", text="**S**\nx"))
    assert text == Update("s", TextDelta("a"))
    assert thought == Update("s", ReasoningDelta("**S**\nx\n\n"))


@pytest.mark.parametrize(
    "line", [b"", b"{}", update("available_commands_update"), update("tool_call", type="text", text="x")]
)
def test_lines_without_use_are_skipped(line: bytes) -> None:
    assert gemini_rpc.parse_line(line) is None


@pytest.mark.parametrize("line", [b"Ripgrep is not available", b"[1]", b"\xff"])
def test_line_that_is_no_object_breaks_the_protocol(line: bytes) -> None:
    with pytest.raises(errors.ProtocolBroken):
        gemini_rpc.parse_line(line)


def test_login_dialog_means_a_new_login_is_needed() -> None:
    with pytest.raises(errors.NeedsLogin):
        gemini_rpc.parse_line(b"\x1b[2JPlease visit the following URL to authorize the application:")


# --- the end of an answer ----------------------------------------------------------------------------------------

QUOTA = {
    "stopReason": "end_turn",
    "_meta": {"quota": {"token_count": {"input_tokens": 11, "output_tokens": 7}, "model_usage": [{"model": "m"}]}},
}


def test_usage_is_the_recorded_one_with_thoughts_counted_as_output() -> None:
    recorded = {"input": 11, "output": 7, "cached": 4, "thoughts": 3, "tool": 0, "total": 21}
    assert gemini_rpc.read_usage(QUOTA, recorded) == Usage(11, 10, cached_tokens=4, reasoning_tokens=3)


def test_usage_without_a_record_is_that_of_the_reply() -> None:
    assert gemini_rpc.read_usage(QUOTA, {}) == Usage(11, 7)


def test_reply_without_any_usage_has_none() -> None:
    """The CLI ends a stream that was cut before its last piece as a success, with nothing used."""
    quota = {"token_count": {"input_tokens": 0, "output_tokens": 0}, "model_usage": []}
    assert gemini_rpc.read_usage({"stopReason": "end_turn", "_meta": {"quota": quota}}, {}) is None


@pytest.mark.parametrize(
    ("used", "max_tokens", "has_only_thought", "expected"),
    [(5, None, True, "stop"), (5, 6, False, "stop"), (6, 6, False, "length"), (5, 6, True, "length")],
)
def test_length_is_inferred_from_the_tokens_used(
    used: int, max_tokens: int | None, has_only_thought: bool, expected: str
) -> None:
    assert gemini_rpc.finish_reason(Usage(1, used), max_tokens, has_only_thought=has_only_thought) == expected


# --- errors ------------------------------------------------------------------------------------------------------


def vendor(code: int, message: str, **more: Any) -> dict[str, Any]:
    inner = {"error": {"code": code, "message": message, "status": "X", **more}}
    return {"code": code, "message": json.dumps(inner)}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (vendor(400, "Please pass a valid one.", details=[{"reason": "API_KEY_INVALID"}]), errors.NeedsLogin),
        (vendor(400, "API key not valid. Please pass a valid API key."), errors.NeedsLogin),
        (vendor(401, "Request had invalid authentication credentials."), errors.NeedsLogin),
        (vendor(403, "The caller does not have permission"), errors.NeedsLogin),
        ({"code": -32000, "message": "Gemini API key is missing or not configured."}, errors.NeedsLogin),
        ({"code": -32000, "message": "Your account is not eligible for this tier."}, errors.UnsupportedAccount),
        (vendor(400, "User location is not supported for the API use."), errors.UnsupportedAccount),
        ({"code": 500, "message": "models/gemini-9 is not found for API version v1beta"}, errors.ModelUnknown),
        (vendor(404, "models/gemini-ineligible is not found for API version v1beta"), errors.ModelUnknown),
        (
            vendor(400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
            errors.ContextTooLong,
        ),
        (vendor(400, "Invalid value at temperature"), errors.TurnRefused),
        (vendor(413, "Request payload size exceeds the limit"), errors.RequestTooLarge),
        ({"code": 429, "message": "You have exhausted your daily quota on this model."}, errors.RateLimited),
        (vendor(500, "Internal error"), errors.Overloaded),
        ({"code": 503, "message": "The model is overloaded. Please try again later."}, errors.Overloaded),
        ({"code": 500, "message": "exception TypeError: fetch failed sending request"}, errors.Overloaded),
        ({"code": 500, "message": "terminated"}, errors.StreamCut),
        ({"code": -32602, "message": "Session not found: x"}, errors.ProtocolBroken),
        ({}, errors.Overloaded),
    ],
)
def test_error_says_what_to_do_next(error: dict[str, Any], expected: type[errors.ProviderError]) -> None:
    assert type(gemini_rpc.failure(error)) is expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("You exceeded your quota\nSuggested retry after 34.07s.", 34.07),
        ("Quota exceeded. Please retry in 12.5s.", 12.5),
        ("You have exhausted your daily quota on this model.", None),
        ("retry after ..s", None),
    ],
)
def test_rate_limit_keeps_the_reset_time(words: str, expected: float | None) -> None:
    assert gemini_rpc.failure({"code": 429, "message": words}).retry_after_s == expected


def test_login_failure_tells_the_mend() -> None:
    mend = gemini.GeminiAdapter.info.mend_login
    assert "GEMINI_API_KEY" in mend and "June 2026" in mend
    assert gemini_rpc.failure(vendor(401, "no"), mend_login=mend).mend == mend


def test_message_holds_no_key_and_no_more_than_an_excerpt() -> None:
    key = "AIzaSyA-234567890123456789012345678901"
    words = f"key my-secret and {key} refused " + "x" * 500
    message = gemini_rpc.failure(vendor(403, words), secrets=("my-secret",)).message
    assert message.startswith("gemini: key *** and *** refused")
    assert len(message) <= 200 + len("gemini: ")
