"""What a vendor says of its limits, from the real program to the door: waited for, told truly, ended by one try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from providers import errors
from providers.cooldowns import UNKNOWN_S
from providers.events import LimitNotice
from tests.asking import answer_of, error_of
from tests.clis.cooling import state_of, until_state
from tests.clis.rig import Rig, open_rig, user
from tests.clis.test_rest import Door, open_door
from tests.hub import HubProcess
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOGIN = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-dummy-token"}
PLAIN = Script(text="well then", chunks=3)


def used_up(reset: float, claim: str = "five_hour") -> Script:
    return Script(status=429, unified="rejected", claim=claim, reset_unix=int(reset))


@pytest_asyncio.fixture(loop_scope="module")
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A hub of an owner with a subscription."""
    async with open_door("claude", tmp_path, login=LOGIN) as opened:
        yield opened


async def ask_again(door: Door, text: str = "hello", **fields: str) -> tuple[int, int]:
    """The status of a request that names the provider, and how often the vendor was asked for it."""
    before = len(door.vendor.chats())
    response = await door.client.post("/v1/chat/completions", json=door.body(text, **fields))
    return response.status_code, len(door.vendor.chats()) - before


async def shown(door: Door) -> dict[str, object]:
    response = await door.client.get("/v1/providers/claude")
    assert response.status_code == 200, response.text
    return dict(response.json())


# --- through the door ------------------------------------------------------------------------------------------------


async def test_a_used_up_window_is_waited_for_and_ended_by_one_turn(door: Door) -> None:
    reset = int(time.time()) + 8
    refused = await door.post("hello", used_up(reset))
    assert (refused.status_code, error_of(refused)["code"]) == (429, "vendor_rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 9
    door.vendor.script = PLAIN
    assert await ask_again(door) == (429, 0)  # the vendor would answer, and is not asked

    listed = await shown(door)
    assert (listed["status"], listed["state"], listed["until"]) == ("unavailable", "cooling_down", reset)
    assert listed["windows"] == [{"name": "five_hour", "status": "rejected", "used": None, "resets_at": reset}]
    assert listed["mend"]
    health = (await door.client.get("/health")).json()
    assert (health["providers"]["claude"], health["states"]["claude"]["until"]) == ("down", reset)

    await asyncio.sleep(max(0.0, reset - time.time()) + 0.2)
    door.vendor.script = Script(text="well then", slow_s=0.5)
    answers = await asyncio.gather(*(ask_again(door, f"hello {number}") for number in range(4)))
    assert sorted(status for status, _ in answers) == [200, 429, 429, 429]
    assert (await ask_again(door))[0] == 200
    assert (await shown(door))["status"] == "available"
    assert "claude: cooling down" in door.hub.log.read_text()


async def test_a_cooldown_outlives_a_restart_of_the_hub(door: Door) -> None:
    await door.post("hello", used_up(time.time() + 600, "seven_day"))
    await asyncio.to_thread(door.hub.stop)
    await asyncio.to_thread(door.hub.start)
    door.vendor.script = PLAIN
    assert await ask_again(door) == (429, 0)
    assert await state_of(door.hub, "claude") == "cooling_down"
    listed = await asyncio.to_thread(door.hub.run, "doctor")
    assert "cooling down" in listed.stdout


async def test_a_limit_of_one_model_leaves_the_others_to_answer(door: Door) -> None:
    refused = await door.post("hello", used_up(time.time() + 600, "seven_day_opus"), model="opus")
    assert refused.status_code == 429
    door.vendor.script = PLAIN
    assert await ask_again(door, model="opus") == (429, 0)
    assert await ask_again(door, model="sonnet") == (200, 1)
    assert (await shown(door))["status"] == "available"


async def test_windows_are_shown_before_they_are_used_up(door: Door) -> None:
    reset = int(time.time()) + 600
    answer_of(await door.post("hello", Script(unified="allowed_warning", reset_unix=reset)))
    listed = await shown(door)
    assert listed["windows"] == [{"name": "five_hour", "status": "warning", "used": 0.91, "resets_at": reset}]
    assert listed["status"] == "available"


async def test_a_lost_login_is_told_with_its_mend_and_regained_by_a_turn(door: Door) -> None:
    refused = await door.post("hello", Script(status=401))
    assert (refused.status_code, error_of(refused)["code"]) == (503, "provider_needs_login")
    listed = await shown(door)
    assert (listed["status"], listed["state"]) == ("unavailable", "needs_login")
    assert "claude setup-token" in str(listed["mend"])
    answer_of(await door.post("hello"))
    assert (await shown(door))["state"] in ("ready", "busy")


async def test_a_login_made_anew_is_seen_within_seconds_and_costs_no_request(tmp_path: Path) -> None:
    """The program itself is asked once whether it is logged in, which it knows without its vendor."""
    async with open_door("claude", tmp_path, login={"CLAUDE_CONFIG_DIR": str(tmp_path / "config")}) as door:
        await until_state(door.hub, "claude", "needs_login")
        logged_in(door.hub, tmp_path / "config")
        await until_state(door.hub, "claude", "ready", "starting", "busy")
        assert door.vendor.chats() == []


def logged_in(hub: HubProcess, config: Path) -> None:
    """What a login leaves behind, with a token that is none."""
    config.mkdir(parents=True, exist_ok=True)
    ends_ms = int((time.time() + 86_400) * 1_000)
    token = '"accessToken":"sk-ant-oat01-dummy","refreshToken":"sk-ant-ort01-dummy"'
    scopes = '"scopes":["user:inference","user:profile"],"subscriptionType":"max"'
    written = config / "new"
    written.write_text(f'{{"claudeAiOauth":{{{token},"expiresAt":{ends_ms},{scopes}}}}}')
    written.replace(config / ".credentials.json")


# --- what the programs tell ------------------------------------------------------------------------------------------


async def test_an_api_keys_limit_names_no_time_and_is_waited_for_a_little(tmp_path: Path) -> None:
    async with open_rig("claude", tmp_path) as rig:
        answer = await rig.ask(user("hello"), script=Script(status=429))
        assert isinstance(answer.error, errors.RateLimited)
        assert answer.error.retry_after_s == pytest.approx(UNKNOWN_S, abs=3)
        obstacle = rig.provider.obstacle()
        assert obstacle is not None
        assert obstacle.retry_after_s == pytest.approx(UNKNOWN_S, abs=3)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gemini(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig("gemini", tmp_path_factory.mktemp("gemini")) as opened:
        yield opened


async def test_gemini_tells_how_long_to_wait(gemini: Rig) -> None:
    answer = await gemini.ask(user("hello"), script=Script(status=429, retry_after_s=33))
    assert isinstance(answer.error, errors.RateLimited)
    (notice,) = [event for event in answer.events if isinstance(event, LimitNotice)]
    assert (notice.status, notice.window, notice.model) == ("rejected", "per_minute", gemini.provider.default_model)
    assert notice.resets_at == pytest.approx(time.time() + 33, abs=5)
    obstacle = gemini.provider.obstacle()
    assert obstacle is not None
    assert obstacle.retry_after_s == pytest.approx(33, abs=5)


async def test_geminis_quota_of_a_day_is_its_models(gemini: Rig) -> None:
    model = gemini.provider.default_model
    answer = await gemini.ask(user("hello"), script=Script(status=429, daily=True))
    assert isinstance(answer.error, errors.RateLimited)
    (notice,) = [event for event in answer.events if isinstance(event, LimitNotice)]
    assert (notice.window, notice.model, notice.resets_at) == ("per_day", model, None)
    assert isinstance(gemini.provider.obstacle(model), errors.RateLimited)
    other = next(it for it in gemini.provider.models if model not in it)
    assert gemini.provider.obstacle(other) is None
