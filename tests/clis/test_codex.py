"""What only codex does: threads that go on, a ChatGPT login in a file of its owner's, usage windows, a lost network."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from providers import errors
from providers.adapters.base import Launch, Program, WorkerFolder
from providers.adapters.codex import CodexAdapter
from providers.adapters.codex_files import AUTH_FILE
from providers.events import LimitNotice, Message
from providers.history_digest import history_digest
from providers.pool_limits import PoolLimits
from tests.clis.rig import Answer, Rig, assistant, open_rig, user
from tests.programs import require_cli
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def codex(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    limits = PoolLimits(floor=0, ceiling=2, kept=2, turns=100_000, watch_s=0.2)
    async with open_rig("codex", tmp_path_factory.mktemp("codex"), pool=limits) as opened:
        yield opened


# --- threads ---------------------------------------------------------------------------------------------------------


async def begin(rig: Rig, question: str) -> list[Message]:
    """A conversation of one turn, and the history its next one has."""
    answer = await rig.ask(user(question), script=Script(text="the answer"))
    assert answer.finished.reason == "stop"
    return [user(question), assistant("the answer")]


async def test_every_next_turn_goes_on_in_its_thread_and_the_vendor_receives_all_of_it_once(codex: Rig) -> None:
    history = await begin(codex, "the first question")
    for number in range(3):
        history.append(user(f"further {number}"))
        answer = await codex.ask(*history, script=Script(text=f"so {number}"))
        assert answer.started.start == "kept"
        assert codex.upstream(answer).messages == tuple(history)
        history.append(assistant(f"so {number}"))


async def test_an_edited_history_gets_a_thread_of_its_own(codex: Rig) -> None:
    history = await begin(codex, "the edited question")
    edited = (history[0], assistant("another answer"), user("go on"))
    answer = await codex.ask(*edited)
    assert answer.started.start in ("reused", "cold")
    assert codex.upstream(answer).messages == edited


async def test_the_next_turn_with_another_system_prompt_gets_it(codex: Rig) -> None:
    history = [*await begin(codex, "the ordered question"), user("go on")]
    answer = await codex.ask(*history, system="You are a pirate.")
    assert codex.upstream(answer).system == "You are a pirate."
    assert codex.upstream(answer).messages == tuple(history)


@pytest.mark.parametrize(
    "script",
    [Script(status=500), Script(text="one two", chunks=2, cut_after=1), Script(text="I would", stop="refusal")],
    ids=["failed", "cut", "refused"],
)
async def test_a_turn_without_a_proper_end_is_not_gone_on_with(codex: Rig, script: Script) -> None:
    history = [*await begin(codex, "a question that fails"), user("and now")]
    given = await codex.ask(*history, script=script)
    assert codex.provider.pool is not None
    next_turn = codex.turn(*history, assistant(given.text), user("go on"))
    assert history_digest(next_turn) not in {worker.memory for worker in codex.provider.pool.roster}


async def test_a_process_asked_to_go_on_with_what_it_does_not_hold_refuses_and_sends_nothing(codex: Rig) -> None:
    """The pool lets it never happen; should it fail to, no caller reads what another one wrote."""
    history = await begin(codex, "the question of another")
    codex.vendor.clear()
    assert codex.provider.pool is not None
    wanted = history_digest(codex.turn(*history, user("go on")))
    async with codex.provider.pool.lease(caller="alice", binding=("alice",), history=wanted) as lease:
        with pytest.raises(errors.ProtocolBroken, match="another conversation"):
            await anext(lease.worker.run(codex.turn(user("hello"))))
    assert codex.vendor.received == []


async def test_a_request_holds_nothing_but_the_conversation(codex: Rig) -> None:
    """By its own catalogue of models the CLI would send 20 kB of tools and instructions with each."""
    for model in codex.provider.info.models:
        answer = await codex.ask(user("hello"), model=model)
        upstream = codex.upstream(answer)
        assert (upstream.model, upstream.messages, upstream.tools) == (model, (user("hello"),), ())
        assert len(json.dumps(answer.received[0].body)) < 4_000


async def test_a_model_the_cli_does_not_know_gets_no_tool_either(codex: Rig) -> None:
    upstream = codex.upstream(await codex.ask(user("hello"), model="gpt-99", system="Be brief."))
    assert (upstream.model, upstream.system, upstream.tools) == ("gpt-99", "Be brief.", ())


async def test_a_vendor_out_of_reach_is_told_at_once(tmp_path: Path) -> None:
    """Left to itself the CLI would try for ever."""

    def env(url: str) -> Mapping[str, str]:
        return {"OPENAI_API_KEY": "dummy-key-of-the-tests", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}

    async with open_rig("codex", tmp_path, env=env) as rig:
        answer = await rig.ask(user("hello"))
        assert type(answer.error) is errors.Overloaded


# --- the ChatGPT login -----------------------------------------------------------------------------------------------


def token(**claims: object) -> str:
    """What looks like one of OpenAI's, signed by nobody."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
    return ".".join([*parts, "signature"])


def log_in(home: Path) -> Path:
    """Leave a login in a home, as `codex login` does."""
    plan = {"chatgpt_plan_type": "plus", "chatgpt_account_id": "account-of-the-tests"}
    tokens = {
        "id_token": token(email="alice@example.org", **{"https://api.openai.com/auth": plan}),
        "access_token": token(exp=int(time.time()) + 86_400),
        "refresh_token": "refresh-token-of-the-tests",
        "account_id": "account-of-the-tests",
    }
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path = home / ".codex" / AUTH_FILE
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": now}))
    return path


def to_the_stand_in(address: Callable[[], str]) -> type[CodexAdapter]:
    """The adapter, with settings that lead a login's requests to the stand-in. In earnest there is no such way."""

    class Redirected(CodexAdapter):
        def launch(self, folder: WorkerFolder) -> Launch:
            launch = super().launch(folder)
            path = Path(launch.env["CODEX_HOME"], "config.toml")
            said = path.read_text().replace('name = "OpenAI"', f'name = "OpenAI", base_url = "{address()}/v1"')
            path.write_text(f'chatgpt_base_url = "{address()}/backend-api/"\n{said}')
            return launch

    return Redirected


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subscriber(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """codex with a ChatGPT login, as far as that can be had without one."""
    folder = tmp_path_factory.mktemp("codex")
    log_in(folder / "home")
    urls: list[str] = []

    def env(url: str) -> Mapping[str, str]:
        urls.append(url)
        return {}

    async with open_rig("codex", folder, env=env, adapter=to_the_stand_in(lambda: urls[-1])) as opened:
        yield opened


async def chat(rig: Rig, script: Script) -> Answer:
    answer = await rig.ask(user("hello"), script=script)
    return Answer(answer.events, [it for it in answer.received if it.kind == "chat"], answer.error)


async def test_a_login_is_used_from_where_it_is_and_its_home_has_no_say(subscriber: Rig) -> None:
    (subscriber.home / ".codex/config.toml").write_text('model = "taint"\n[mcp_servers.x]\ncommand = "/nonexistent"\n')
    answer = await chat(subscriber, Script(text="well then"))
    assert answer.text == "well then"
    assert subscriber.upstream(answer).tools == ()
    assert answer.received[0].headers["authorization"].startswith("Bearer ")
    assert answer.received[0].headers["chatgpt-account-id"] == "account-of-the-tests"
    files = {path.name for path in (subscriber.home / ".codex").iterdir()}
    assert files == {AUTH_FILE, "config.toml"}
    (link,) = subscriber.workers_folder.glob(f"*/state/codex/{AUTH_FILE}")
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("said", "claim", "status", "used"),
    [("allowed", "five_hour", "allowed", 0.12), ("allowed_warning", "seven_day", "warning", 0.91)],
)
async def test_a_usage_window_is_told_with_its_reset(
    subscriber: Rig, said: str, claim: str, status: str, used: float
) -> None:
    reset = int(time.time()) + 600
    answer = await chat(subscriber, Script(unified=said, claim=claim, reset_unix=reset))
    (notice,) = [event for event in answer.events if isinstance(event, LimitNotice)]
    assert (notice.status, notice.window, notice.resets_at, notice.used) == (status, claim, reset, used)
    assert answer.finished.reason == "stop"


async def test_a_used_up_window_is_a_rate_limit_that_counts_to_its_reset(tmp_path: Path) -> None:
    log_in(tmp_path / "home")
    urls: list[str] = []

    def env(url: str) -> Mapping[str, str]:
        urls.append(url)
        return {}

    script = Script(status=429, unified="rejected", claim="seven_day", reset_unix=int(time.time()) + 90)
    async with open_rig("codex", tmp_path, env=env, adapter=to_the_stand_in(lambda: urls[-1])) as rig:
        answer = await chat(rig, script)
        assert isinstance(answer.error, errors.RateLimited)
        assert answer.error.retry_after_s is not None
        assert 60 < answer.error.retry_after_s <= 90
        notices = [event for event in answer.events if isinstance(event, LimitNotice)]
        assert (notices[-1].status, notices[-1].window) == ("rejected", "seven_day")


async def test_a_login_is_told_by_the_program_itself(tmp_path: Path) -> None:
    program = Program(require_cli("codex"), {"HOME": str(tmp_path)})
    assert await CodexAdapter.login_state(program) == "needs_login"
    path = log_in(tmp_path)
    assert await CodexAdapter.login_state(program) == "ready"
    path.write_text("no login")
    assert await CodexAdapter.login_state(program) == "unknown"
    assert list(path.parent.iterdir()) == [path]
