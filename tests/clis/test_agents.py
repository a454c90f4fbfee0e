"""The acp adapter with a real agent: gemini, started by a command line as an owner would write it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from providers import errors
from tests.clis.rig import Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Hub rule: a client that hangs up stops the vendor's work within this time.
HANG_UP_S = 0.5
SECRET = "planted-secret-that-nobody-may-see"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig("acp", tmp_path_factory.mktemp("acp")) as opened:
        yield opened


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "secret.txt").write_text(SECRET)
    return folder


async def test_the_model_of_the_caller_is_the_one_the_vendor_is_asked_for(agent: Rig) -> None:
    answer = await agent.ask(user("hello"), model="gemini-2.5-flash")
    assert agent.upstream(answer).model == answer.started.model == "gemini-2.5-flash"
    answer = await agent.ask(user("hello"))
    assert agent.upstream(answer).model == answer.started.model == "gemini-3.8-flash"


async def test_usage_is_what_the_agent_tells(agent: Rig) -> None:
    answer = await agent.ask(user("hello"), script=Script(text="one two three", chunks=3))
    assert answer.finished.usage is not None
    assert answer.finished.usage.output_tokens == 3
    assert answer.finished.usage.input_tokens > 100


async def test_thoughts_are_no_part_of_the_answer(agent: Rig) -> None:
    answer = await agent.ask(user("hello"), script=Script(text="so be it", thinking="Let me think."))
    assert "Let me think." in answer.reasoning
    assert answer.text == "so be it"


async def test_one_process_takes_one_conversation_after_the_other(agent: Rig) -> None:
    pid = await agent.pid()
    for text in ("one", "two", "three"):
        await agent.settled()
        answer = await agent.ask(user(text))
        assert agent.upstream(answer).messages == (user(text),)
        assert answer.started.start == "reused"
    assert agent.pids() == {pid}


async def test_hanging_up_drops_the_vendors_connection_at_once(agent: Rig) -> None:
    await agent.pid()
    await agent.settled()
    agent.vendor.clear()
    agent.vendor.script = Script(text="one two three", chunks=3, hang_after=1)
    answer = agent.provider.run(agent.turn(user("hello")))
    await agent.first_word(answer)
    await agent.soon(answer.aclose())
    await agent.vendor.wait_for_abort(HANG_UP_S)
    assert agent.upstream(await agent.ask(user("what now"))).messages == (user("what now"),)


@pytest.mark.parametrize(
    ("status", "error"), [(401, errors.NeedsLogin), (404, errors.ModelUnknown), (400, errors.TurnRefused)]
)
async def test_a_refusal_of_the_vendor_is_the_error_it_means(
    agent: Rig, status: int, error: type[errors.ProviderError]
) -> None:
    answer = await agent.ask(user("hello"), script=Script(status=status))
    assert type(answer.error) is error
    assert (await agent.ask(user("hello"))).text == agent.plain.text


# --- nothing is within reach -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["@{planted}/secret.txt", '@"{planted}/secret.txt"', "/memory show", "/init", "!cat {planted}/secret.txt"]
)
async def test_a_hostile_text_is_only_a_text(agent: Rig, planted: Path, text: str) -> None:
    said = text.replace("{planted}", str(planted))
    for messages in ((user(said),), (user(said), assistant(said), user(f"\n{said}"))):
        answer = await agent.ask(*messages, system=said)
        upstream = agent.upstream(answer)
        assert (upstream.system, upstream.messages) == (said, messages)
        assert SECRET not in str(answer.received[0].body)


async def test_a_command_of_the_model_is_denied_and_the_answer_goes_on(agent: Rig, planted: Path) -> None:
    marker = planted / "marker"
    agent.vendor.next(Script(text="", tools=("run_shell_command",), tool_input=f'{{"command": "touch {marker}"}}'))
    answer = await agent.ask(user("hello"))
    assert answer.text.endswith(agent.plain.text or "")
    assert answer.finished.reason == "stop"
    assert not marker.exists()


async def test_a_file_the_agent_reads_by_itself_never_reaches_the_caller(agent: Rig) -> None:
    """Its own tool asks nobody; what comes after it is withheld, and the process with its conversation goes."""
    pid = await agent.pid()
    (cwd,) = agent.workers_folder.glob("*/cwd")
    (cwd / "secret.txt").write_text(SECRET)
    tool_input = f'{{"file_path": "{cwd}/secret.txt", "absolute_path": "{cwd}/secret.txt"}}'
    agent.vendor.next(Script(text="", tools=("read_file",), tool_input=tool_input))
    answer = await agent.ask(user("hello"), script=Script())
    assert isinstance(answer.error, errors.ProtocolBroken)
    assert SECRET not in answer.text
    await agent.pool_shows("0 busy, 0 tidying, 0 retiring")
    assert pid not in agent.pids()
