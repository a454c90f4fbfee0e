"""The whole way: a client, a real hub, the real program, the vendor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import pytest_asyncio

from providers.cooldowns import UNKNOWN_S
from providers.registry import adapters_by_name
from tests.asking import CHAT, answer_of, chunks_of, data_lines, error_of, streamed_text
from tests.clis.cooling import thaw
from tests.clis.dialects import DIALECTS, DUMMY_KEY
from tests.clis.rig import REAL
from tests.hub import HubProcess
from tests.programs import require_cli
from tests.vendor_api import Script, VendorApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

HTTP_TIMEOUT_S = 30
# Hub rule: a client that hangs up stops the vendor's work within this time.
HANG_UP_S = 0.5
HUB_SECRETS = {
    "SECRET_X": "hub-secret-x",
    "HUB_SECRET_KEY": "hub-secret-key-that-is-long-enough-to-be-one-of-django",
    "AWS_SECRET_ACCESS_KEY": "hub-secret-aws",
}


@dataclass(slots=True)
class Door:
    """A hub with one provider behind it, and a client at its door."""

    name: str
    hub: HubProcess
    vendor: VendorApi
    client: httpx.AsyncClient

    def body(self, text: str, **fields: Any) -> dict[str, Any]:
        return {"provider": self.name, "messages": [{"role": "user", "content": text}], **fields}

    async def post(self, text: str, script: Script | None = None, **fields: Any) -> httpx.Response:
        """One request; the vendor's record holds nothing else afterwards."""
        await thaw(self.hub)
        self.vendor.clear()
        self.vendor.script = script or Script(text="well then", chunks=3)
        return await self.client.post(CHAT, json=self.body(text, **fields))

    def workers(self) -> list[psutil.Process]:
        """The CLI's processes, as distinguished from helpers of the hub's own."""
        folder = self.hub.data_dir / "run" / "workers"
        return [child for child in self.hub.children() if works_below(child, folder)]


def works_below(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextlib.contextmanager
def a_hub(name: str, folder: Path, vendor: VendorApi, login: Mapping[str, str]) -> Iterator[HubProcess]:
    env = {
        "HUB_PROVIDERS": f"{name},echo",
        f"HUB_{name.upper()}_BIN": str(require_cli(name)),
        "HUB_SHUTDOWN_GRACE_S": "1",
        **(DIALECTS[name].bare_env(vendor.url) if login else DIALECTS[name].env(vendor.url)),
        **login,
        **HUB_SECRETS,
    }
    hub = HubProcess(folder, env=env)
    try:
        yield hub
    finally:
        hub.close()


@contextlib.asynccontextmanager
async def open_door(name: str, folder: Path, *, login: Mapping[str, str] | None = None) -> AsyncIterator[Door]:
    async with VendorApi() as vendor:
        with a_hub(name, folder, vendor, login or {}) as hub:
            await asyncio.to_thread(hub.start)
            async with httpx.AsyncClient(base_url=hub.url, headers=hub.headers, timeout=HTTP_TIMEOUT_S) as client:
                yield Door(name, hub, vendor, client)


@pytest_asyncio.fixture(params=REAL, scope="module", loop_scope="module")
async def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


async def test_a_whole_answer_has_text_usage_and_the_real_model(door: Door) -> None:
    response = await door.post("hello", Script(text="well then", cached=1))
    assert answer_of(response) == "well then"
    body = response.json()
    assert body["provider"] == response.headers["x-hub-provider"] == door.name
    assert body["model"] == DIALECTS[door.name].read(door.vendor.chats()[0]).model
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


async def test_a_streamed_answer_comes_in_pieces_with_usage_when_asked(door: Door) -> None:
    response = await door.post("hello", Script(text="one two three", chunks=3), stream=True)
    assert streamed_text(response) == "one two three"
    asked = await door.post("hello", stream=True, stream_options={"include_usage": True})
    assert chunks_of(asked)[-1]["usage"]["completion_tokens"] == 3


async def test_a_piece_reaches_the_client_before_the_vendor_has_the_next(door: Door) -> None:
    door.vendor.clear()
    door.vendor.script = Script(text="one two", chunks=2, hang_after=1)
    async with (
        asyncio.timeout(10),
        door.client.stream("POST", CHAT, json=door.body("hello", stream=True)) as response,
    ):
        async for line in response.aiter_lines():
            if '"content":"one' in line:
                break
    await door.vendor.wait_for_abort(HANG_UP_S)


async def test_history_system_and_sampling_reach_the_vendor(door: Door) -> None:
    door.vendor.clear()
    door.vendor.script = Script(text="well then")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    body = {"provider": door.name, "messages": messages, "max_tokens": 40, "temperature": 0.5, "stop": ["ZZ"]}
    response = await door.client.post(CHAT, json=body)
    assert answer_of(response) == "well then"
    named = ("max_tokens", "temperature", "stop")
    unsupported = adapters_by_name()[door.name].info.unsupported_sampling
    ignored = [name for name in response.headers.get("x-hub-ignored", "").split(", ") if name]
    assert set(ignored) == set(named).intersection(unsupported)
    upstream = DIALECTS[door.name].read(door.vendor.chats()[0])
    assert upstream.system == "Be brief."
    assert [(message.role, message.text) for message in upstream.messages] == [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    arrived = (upstream.sampling.max_tokens, upstream.sampling.temperature, upstream.sampling.stop)
    assert arrived == ((None, None, ()) if unsupported else (40, 0.5, ("ZZ",)))


async def test_the_openai_sdk_answers_whole_and_streamed(door: Door) -> None:
    door.vendor.script = Script(text="one two three", chunks=3)
    async with openai.AsyncOpenAI(base_url=f"{door.hub.url}/v1", api_key=door.hub.key, max_retries=0) as client:
        whole = await client.chat.completions.create(model=door.name, messages=[{"role": "user", "content": "hello"}])
        assert whole.choices[0].message.content == "one two three"
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 3
        stream = await client.chat.completions.create(
            model=door.name, messages=[{"role": "user", "content": "hello"}], stream=True
        )
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(texts) == "one two three"
        assert len([text for text in texts if text]) == 3


async def test_the_openai_sdk_sees_a_rate_limit_as_one(door: Door) -> None:
    await thaw(door.hub)
    door.vendor.script = Script(status=429, retry_after_s=7)
    async with openai.AsyncOpenAI(base_url=f"{door.hub.url}/v1", api_key=door.hub.key, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=door.name, messages=[{"role": "user", "content": "hello"}])
    assert caught.value.code == "vendor_rate_limited"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(status=401), 503, "provider_needs_login"),
        (Script(status=403), 503, "provider_needs_login"),
        (Script(status=404), 404, "model_not_found"),
        (Script(status=413), 413, "request_too_large"),
        (Script(status=429), 429, "vendor_rate_limited"),
        (Script(status=500), 503, "vendor_overloaded"),
        (Script(status=503), 503, "vendor_overloaded"),
        (Script(too_long=True), 400, "context_length_exceeded"),
    ],
    ids=["401", "403", "404", "413", "429", "500", "503", "too-long"],
)
async def test_a_failing_vendor_has_a_status_and_a_code(
    door: Door, script: Script, status: int, code: str, stream: bool
) -> None:
    response = await door.post("hello", script, stream=stream)
    assert response.status_code == status
    assert error_of(response)["code"] == code


async def test_a_vendors_rate_limit_keeps_its_reset_where_the_program_tells_it(door: Door) -> None:
    response = await door.post("hello", Script(status=429, retry_after_s=7))
    assert response.status_code == 429
    # Where the vendor's time does not get through it is the hub's own.
    told_s = 7 if DIALECTS[door.name].has_reset else UNKNOWN_S
    assert int(response.headers["retry-after"]) == pytest.approx(told_s, abs=1)


async def test_a_used_up_subscription_says_when_it_can_be_asked_again(tmp_path: Path) -> None:
    login = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-dummy-token"}
    async with open_door("claude", tmp_path, login=login) as door:
        script = Script(status=429, unified="rejected", reset_unix=int(time.time()) + 90)
        response = await door.post("hello", script)
        assert response.status_code == 429
        assert 60 < int(response.headers["retry-after"]) <= 90
        streamed = await door.post("hello", script, stream=True)
        assert streamed.status_code == 429
        assert "sk-ant-oat01" not in door.hub.log.read_text() + response.text


async def test_a_stream_cut_late_ends_in_an_error_and_never_looks_whole(door: Door) -> None:
    response = await door.post("hello", Script(chunks=4, delay_s=0.02, cut_after=2), stream=True)
    assert response.status_code == 200
    lines = data_lines(response.text)
    assert json.loads(lines[-1])["error"]["code"] == "vendor_stream_cut"
    assert "[DONE]" not in response.text
    assert '"finish_reason":"stop"' not in response.text


async def test_a_whole_answer_cut_late_is_an_error(door: Door) -> None:
    response = await door.post("hello", Script(chunks=4, delay_s=0.02, cut_after=2))
    assert response.status_code == 502
    assert error_of(response)["code"] == "vendor_stream_cut"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_client_that_hangs_up_closes_the_vendors_connection_at_once(door: Door, stream: bool) -> None:
    door.vendor.clear()
    door.vendor.script = Script(chunks=100, delay_s=0.1)
    asked = asyncio.create_task(door.client.post(CHAT, json=door.body("hello", stream=stream)))
    await door.vendor.wait_for(1, HTTP_TIMEOUT_S)
    asked.cancel()
    await asyncio.wait({asked}, timeout=5)
    await door.vendor.wait_for_abort(HANG_UP_S)
    assert answer_of(await door.post("and now?")) == "well then"


async def test_the_start_of_a_turn_tells_what_its_process_did_before(door: Door) -> None:
    async def start_of(number: int, *texts: str) -> str:
        messages = [{"role": "system", "content": f"You are number {number}."}]
        for index, text in enumerate(texts or ("hello",)):
            messages.append({"role": "assistant" if index % 2 else "user", "content": text})
        body = {"provider": door.name, "messages": messages}
        return (await door.client.post(CHAT, json=body)).headers["x-hub-start"]

    door.vendor.script = Script(text="well then")
    if door.name == "claude":  # its processes are bound to a system prompt, so a new one takes the process kept warm
        for number in range(5):
            start = await start_of(number)
            assert start in ("cold", "warm")
            # Meanwhile the next process gets ready, and may be taken while the first is left with its conversation.
            starts = [await start_of(number) for _ in range(20)]
            assert "reused" in starts
            assert {*starts} <= {"reused", "warm"}
            assert await start_of(number, "hello", "well then", "go on") == "kept"
            if "warm" in (start, *starts):
                return
        raise AssertionError("no process was kept warm")
    await start_of(0)
    assert [await start_of(number) for number in range(3)] == ["reused"] * 3


async def test_no_secret_of_the_hub_is_in_a_process(door: Door) -> None:
    await door.post("hello")
    assert door.workers()
    for worker in door.workers():
        environ, line = worker.environ(), " ".join(worker.cmdline())
        for secret in (*HUB_SECRETS.values(), door.hub.key):
            assert secret not in str(environ)
            assert secret not in line
        assert DUMMY_KEY not in line


async def test_the_log_of_the_hub_holds_no_key_and_no_words_of_a_turn(door: Door) -> None:
    await door.post("words-of-a-caller", Script(text="words-of-the-model"))
    await door.post("words-of-a-caller", Script(status=500))
    log = door.hub.log.read_text()
    for hidden in ("words-of-a-caller", "words-of-the-model", DUMMY_KEY, door.hub.key, *HUB_SECRETS.values()):
        assert hidden not in log


async def test_the_provider_is_listed_with_its_version_and_as_available(door: Door) -> None:
    await door.post("hello")
    providers = (await door.client.get("/v1/providers")).json()["providers"]
    (listed,) = [provider for provider in providers if provider["name"] == door.name]
    assert (listed["status"], listed["state"]) == ("available", "ready")


@pytest.mark.parametrize("name", REAL)
async def test_a_hub_that_is_killed_leaves_no_process_behind(name: str, tmp_path: Path) -> None:
    async with open_door(name, tmp_path) as door:
        door.vendor.script = Script(chunks=200, delay_s=0.1)
        async with door.client.stream("POST", CHAT, json=door.body("hello", stream=True)) as response:
            assert response.status_code == 200
            workers = door.workers()
            assert workers
            door.hub.stop(signal.SIGKILL)
            _, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=5)
            assert not alive
            await door.vendor.wait_for_abort(5)


@pytest.mark.parametrize("name", REAL)
async def test_a_hub_that_is_stopped_leaves_neither_process_nor_folder(name: str, tmp_path: Path) -> None:
    async with open_door(name, tmp_path) as door:
        await door.post("hello")
        workers = door.workers()
        assert workers
        assert await asyncio.to_thread(door.hub.stop) == 0
        _, alive = psutil.wait_procs(workers, timeout=0)
        assert not alive
        assert list((door.hub.data_dir / "run" / "workers").iterdir()) == []
