"""A vendor, or a model talked into it, that asks for the CLI's built-in tools by name: none is there, nothing runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from providers import errors
from providers.events import TurnFinished
from tests.clis.rig import Rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS = (
    *("Bash", "BashOutput", "KillShell", "Read", "Write", "Edit", "MultiEdit", "NotebookEdit", "Glob", "Grep", "LS"),
    *("WebFetch", "WebSearch", "Task", "Agent", "TodoWrite", "Skill", "SlashCommand", "ExitPlanMode", "EnterWorktree"),
    *("AskUserQuestion", "StructuredOutput", "ToolSearch", "ListMcpResourcesTool", "ReadMcpResourceTool", "Workflow"),
    *("run_shell_command", "read_file", "write_file", "replace", "read_many_files", "list_directory", "glob"),
    *("search_file_content", "grep_search", "google_web_search", "web_fetch", "save_memory", "activate_skill"),
    *(
        "shell",
        "local_shell",
        "exec_command",
        "write_stdin",
        "apply_patch",
        "view_image",
        "update_plan",
        "exec",
        "wait",
    ),
    *("request_user_input", "spawn_agent", "web_search", "js_repl", "list_mcp_resources", "read_mcp_resource"),
    *("write_todos", "ask_user", "mcp__trap__run", "mcp_trap_run", "exit_plan_mode", "complete_task"),
)
# A vendor begins its response this long before its first word, at least.
BEFORE_FIRST_WORD_S = 0.03
SECRET = "content-of-a-file-nobody-may-see"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "secret.txt").write_text(SECRET)
    return folder


def wish(place: Path) -> str:
    """One input that would do harm with whichever tool takes it."""
    marker, secret = str(place / "marker"), str(place / "secret.txt")
    return json.dumps(
        {
            **dict.fromkeys(("command", "script", "prompt", "query", "fact"), f"touch {marker}"),
            **dict.fromkeys(("file_path", "notebook_path", "absolute_path", "path", "dir_path"), marker),
            **dict.fromkeys(("content", "new_source", "new_string"), "written"),
            **{"paths": [secret], "include": [secret], "pattern": "*", "old_string": "", "url": "http://127.0.0.1:9/"},
            **{"description": "a task", "subagent_type": "general-purpose", "skill": "x", "name": "x", "todos": []},
        }
    )


def asking_for(*tools: str, place: Path, text: str | None = None) -> Script:
    return Script(text=text, first_delay_s=BEFORE_FIRST_WORD_S, tools=tools, tool_input=wish(place))


def assert_nothing_ran(rig: Rig, place: Path) -> None:
    assert [path.name for path in place.iterdir()] == ["secret.txt"]
    assert [*rig.home.rglob("marker"), *rig.data.rglob("marker")] == []
    assert SECRET not in str(rig.vendor.received)


async def assert_recovered(rig: Rig) -> None:
    answer = await rig.ask(user("hello"))
    assert rig.upstream(answer).messages == (user("hello"),)
    assert answer.text == rig.plain.text


@pytest.mark.parametrize("start", range(0, len(TOOLS), 5), ids=lambda start: "-".join(TOOLS[start : start + 5]))
async def test_a_tool_nobody_offered_ends_the_turn_and_runs_nothing(rig: Rig, place: Path, start: int) -> None:
    for tool in TOOLS[start : start + 5]:
        answer = await rig.ask(user("hello"), script=asking_for(tool, place=place))
        assert type(answer.error) is errors.ProtocolBroken, tool
        assert len(answer.received) <= rig.dialect.requests_for_a_tool
        assert_nothing_ran(rig, place)
    await assert_recovered(rig)


async def test_all_tools_at_once_end_the_turn_and_run_nothing(rig: Rig, place: Path) -> None:
    answer = await rig.ask(user("hello"), script=asking_for(*TOOLS, place=place))
    assert type(answer.error) is errors.ProtocolBroken
    assert len(answer.received) <= rig.dialect.requests_for_a_tool
    await assert_recovered(rig)
    assert_nothing_ran(rig, place)


async def test_tools_after_a_text_run_nothing_either(rig: Rig, place: Path) -> None:
    answer = await rig.ask(user("hello"), script=asking_for(*TOOLS, place=place, text="let me see"))
    assert answer.text == "let me see"
    if rig.dialect.hides_tool_after_text:
        assert isinstance(answer.events[-1], TurnFinished)
    else:
        assert type(answer.error) is errors.ProtocolBroken
    assert len(answer.received) <= rig.dialect.requests_for_a_tool
    await assert_recovered(rig)
    assert_nothing_ran(rig, place)


async def test_a_shower_of_tool_requests_keeps_the_pool_alive(rig: Rig, place: Path) -> None:
    for _ in range(5):
        await rig.ask(user("hello"), script=asking_for(*TOOLS, place=place))
    await assert_recovered(rig)
    assert_nothing_ran(rig, place)
