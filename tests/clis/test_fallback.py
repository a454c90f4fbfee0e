"""claude's vendor fails, gemini answers the same request: real programs, a real hub, a client that sees two headers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.asking import CHAT, answer_of, data_lines, error_of, streamed_text
from tests.clis.dialects import DIALECTS
from tests.hub import HubProcess
from tests.programs import require_cli
from tests.vendor_api import Script, VendorApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 60.0
FIRST_TOKEN_S = 5.0
CODE = "```python\nimport os\n\ndef main() -> str:\n    return os.getcwd()\n```\nWhat does this function return?"
FINE = Script(text="well then", chunks=3)


@dataclass(slots=True)
class House:
    """A hub with both providers, each with a vendor of its own."""

    hub: HubProcess
    claude: VendorApi
    gemini: VendorApi
    client: httpx.AsyncClient

    async def post(self, script: Script, text: str = "hello", **fields: Any) -> httpx.Response:
        """One request while claude's vendor does this; gemini's is fine."""
        for vendor in (self.claude, self.gemini):
            vendor.clear()
        self.claude.script, self.gemini.script = script, FINE
        return await self.client.post(CHAT, json={"messages": [{"role": "user", "content": text}], **fields})

    async def mend(self) -> None:
        """Return once claude answers again."""
        async with asyncio.timeout(WAIT_S):
            while (await self.post(FINE, provider="claude")).status_code != 200:  # noqa: ASYNC110 (it asks)
                await asyncio.sleep(0.2)

    def kill_claudes(self) -> int:
        """How many of its workers there were."""
        folder = str(self.hub.data_dir / "run" / "workers")
        killed = 0
        for child in self.hub.children():
            with contextlib.suppress(psutil.Error):
                if child.cwd().startswith(folder) and "claude" in " ".join(child.cmdline()[:2]):
                    child.kill()
                    killed += 1
        return killed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with VendorApi() as claude, VendorApi() as gemini:
        env = {
            "HUB_PROVIDERS": "claude,gemini",
            "HUB_CLAUDE_BIN": str(require_cli("claude")),
            "HUB_GEMINI_BIN": str(require_cli("gemini")),
            "HUB_FALLBACK_FIRST_TOKEN_S": f"{FIRST_TOKEN_S:g}",
            "HUB_SHUTDOWN_GRACE_S": "1",
            **DIALECTS["claude"].env(claude.url),
            **DIALECTS["gemini"].env(gemini.url),
        }
        hub = HubProcess(tmp_path_factory.mktemp("fallback"), env=env)
        try:
            await asyncio.to_thread(hub.start)
            async with httpx.AsyncClient(base_url=hub.url, headers=hub.headers, timeout=WAIT_S) as client:
                opened = House(hub, claude, gemini, client)
                await opened.mend()
                yield opened
        finally:
            await asyncio.to_thread(hub.close)


def attempts_of(response: httpx.Response) -> list[str]:
    return [it.split(" ")[0] for it in response.headers["X-Hub-Attempts"].split(", ")]


FAULTS = {
    "529": (Script(status=529), "vendor_overloaded"),
    "500": (Script(status=500), "vendor_overloaded"),
    "cut at once": (Script(text="aaaabbbb", chunks=2, cut_after=0), "vendor_stream_cut"),
    "too long": (Script(too_long=True), "context_length_exceeded"),
    "hang": (Script(slow_s=2 * WAIT_S), "timed_out"),
    "hang after the vendor's accept": (Script(first_delay_s=2 * WAIT_S), "timed_out"),
    "401": (Script(status=401), "provider_needs_login"),
    "429": (Script(status=429), "vendor_rate_limited"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_the_other_provider_answers_and_the_headers_say_so(
    house: House, fault: tuple[Script, str], stream: bool
) -> None:
    script, code = fault
    await house.mend()
    response = await house.post(script, provider="claude", fallback=True, stream=stream)
    assert (streamed_text if stream else answer_of)(response) == "well then"
    assert response.headers["X-Hub-Provider"] == "gemini"
    assert response.headers["X-Hub-Route"] == "gemini; named"
    assert attempts_of(response) == [f"claude={code}", "gemini=ok"]
    assert len(house.gemini.chats()) == 1


async def test_a_crash_before_the_first_word_costs_the_caller_nothing(house: House) -> None:
    await house.mend()
    asked = asyncio.ensure_future(house.post(Script(slow_s=2 * WAIT_S), provider="claude", fallback=["gemini"]))
    async with asyncio.timeout(WAIT_S):
        while not asked.done():  # a worker that dies while it is warm is replaced once before the turn is given up
            with contextlib.suppress(TimeoutError):
                await house.claude.wait_for(1, timeout_s=0.1)
                house.kill_claudes()
                house.claude.clear()
    response = await asked
    assert answer_of(response) == "well then"
    assert attempts_of(response) == ["claude=worker_crashed", "gemini=ok"]


async def test_nobody_else_is_asked_after_the_first_word(house: House) -> None:
    await house.mend()
    script = Script(text="aaaabbbbccccdddd", chunks=4, delay_s=0.01, cut_after=2)
    response = await house.post(script, provider="claude", fallback=True)
    assert error_of(response)["code"] == "vendor_stream_cut"
    assert attempts_of(response) == ["claude=vendor_stream_cut"]
    streamed = await house.post(script, provider="claude", fallback=True, stream=True)
    assert json.loads(data_lines(streamed.text)[-1])["error"]["code"] == "vendor_stream_cut"
    assert attempts_of(streamed) == ["claude=ok"]
    assert house.gemini.chats() == []


async def test_a_named_provider_keeps_its_error_unless_the_caller_allows_others(house: House) -> None:
    await house.mend()
    response = await house.post(Script(status=529), provider="claude")
    assert (response.status_code, error_of(response)["code"]) == (503, "vendor_overloaded")
    assert attempts_of(response) == ["claude=vendor_overloaded"]
    assert house.gemini.chats() == []


async def test_the_request_s_own_fault_is_not_carried_around(house: House) -> None:
    await house.mend()
    response = await house.post(Script(status=400), provider="claude", fallback=True)
    assert response.status_code == 400
    assert attempts_of(response) == ["claude=invalid_request"]
    assert house.gemini.chats() == []


async def test_a_request_to_auto_that_meets_a_rate_limit_is_answered_by_the_other(house: House) -> None:
    """The rules that ship send code to claude."""
    await house.mend()
    response = await house.post(Script(status=429), CODE, model="auto")
    assert answer_of(response) == "well then"
    assert response.headers["X-Hub-Route"] == "gemini; rule=code"
    assert attempts_of(response) == ["claude=vendor_rate_limited", "gemini=ok"]


async def test_when_nobody_answers_the_error_says_who_was_tried(house: House) -> None:
    await house.mend()
    for vendor in (house.claude, house.gemini):
        vendor.clear()
    house.claude.script, house.gemini.script = Script(status=401), Script(status=429, retry_after_s=7)
    body = {"provider": "claude", "fallback": True, "messages": [{"role": "user", "content": "hello"}]}
    response = await house.client.post(CHAT, json=body)
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 7
    assert attempts_of(response) == ["claude=provider_needs_login", "gemini=vendor_rate_limited"]
    assert "provider_needs_login" in error_of(response)["message"]
