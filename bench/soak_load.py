"""What the callers of a soak do, and how each of their requests is judged.

They behave as OpenAI's SDKs do: two more tries after a lost connection, 409, 429 and 5xx, unless the answer says not
to, waiting as long as it asks. What counts is what is left then; docs/operations.md defines it for people.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count

import aiohttp
import orjson

from bench.mcp import ACCEPT, META, MODERN, message
from bench.through_hub import Json, request_body
from chat.faults import fault_of

TRIES = 3
LONGEST_WAIT_S = 8.0
FIRST_WAIT_S = 0.5
TURNS_OF_A_SESSION = 8
PAUSE_S = (0.05, 0.15)
REQUEST_TIMEOUT_S = 90.0
# Where a vendor is asked, its refusals and its program's are not the hub's, as chat/faults.py has it for the metrics.
# The demo has no vendor: there only a 429 and a full queue are.
FULL = "provider_busy"
# Mostly well: a 429 keeps everybody away from the vendor for a while, which would be all there is to see.
VENDOR_MOODS = ("", "", "", "", "[[status=529]]", "[[status=500]]", "[[cut_after=1]]", "[[status=429 retry_after=1]]")
HEADERS_OF_MCP = {**ACCEPT, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "chat"}
MCP_TEXT = re.compile(r'"text":\s*"([^"]{1,200})')
numbers = count(1)


@dataclass(frozen=True, slots=True)
class Reply:
    """One try: `verdict` is right, told (refused or cut, with the reason, that being somebody else's) or fault."""

    verdict: str
    detail: str = ""
    may_retry: bool = False
    wait_s: float | None = None


RIGHT = Reply("right")


@dataclass(slots=True)
class Tally:
    """What came of all requests, by kind; the faults with their words, and what every first try said."""

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    firsts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, kind: str, reply: Reply) -> None:
        self.verdicts[kind, reply.verdict] += 1
        if reply.verdict == "fault":
            self.faults.append(f"{kind}: {reply.detail}")

    def total(self, verdict: str = "") -> int:
        return sum(number for (_, it), number in self.verdicts.items() if not verdict or it == verdict)

    @property
    def fault_share(self) -> float:
        """NaN when nothing was asked, which meets no gate."""
        return self.total("fault") / self.total() if self.total() else float("nan")


class Caller:
    """One client that asks all the time, until `ended`: the vendor's provider, or the demo in all other ways."""

    def __init__(self, client: aiohttp.ClientSession, tally: Tally, ended: asyncio.Event, *, asks_vendor: bool) -> None:
        self._client, self._tally, self._ended = client, tally, ended
        self._random = random.Random(next(numbers))
        self._kinds: dict[str, Callable[[], Awaitable[Reply]]] = {
            "whole": lambda: self._chat(streamed=False),
            "streamed": lambda: self._chat(streamed=True),
            "session": self._session_turn,
            "mcp": self._mcp,
        }
        if asks_vendor:
            self._kinds = {"vendor": self._vendor}
        self._retry = 0
        self._session, self._said = "", list[str]()

    async def run(self) -> None:
        while not self._ended.is_set():
            kind = self._random.choice(list(self._kinds))
            self._tally.note(kind, await self._with_retries(self._kinds[kind]))
            await asyncio.sleep(self._random.uniform(*PAUSE_S))

    async def _with_retries(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        for number in range(TRIES):
            self._retry = number
            reply = await ask()
            if number == 0 and reply.verdict != "right":
                self._tally.firsts[reply.detail[:60]] += 1
            if reply.verdict == "right" or not reply.may_retry or number == TRIES - 1:
                return reply
            pause_s = reply.wait_s if reply.wait_s is not None else FIRST_WAIT_S * 2**number
            await asyncio.sleep(min(pause_s, LONGEST_WAIT_S))
        raise AssertionError("there is always a last try")

    # --- what is asked -----------------------------------------------------------------------------------------------

    async def _chat(self, *, streamed: bool) -> Reply:
        text = f"soak {next(numbers)} [[chunks={self._random.randint(1, 10)} delay=0.02]]"
        return await self._post(request_body(text, provider="echo", model="echo", stream=streamed), expect=text)

    async def _vendor(self) -> Reply:
        text = f"soak {next(numbers)} {self._random.choice(VENDOR_MOODS)}"
        body = request_body(text, provider="claude", model="sonnet", stream=bool(self._random.getrandbits(1)))
        return await self._post(body, expect="soak")

    async def _session_turn(self) -> Reply:
        if len(self._said) >= TURNS_OF_A_SESSION:
            return await self._check_session()
        self._session = self._session or f"soak-{next(numbers)}"
        text = f"turn {next(numbers)} [[chunks=2 delay=0.02]]"
        body = request_body(text, provider="echo", model="echo", stream=bool(self._random.getrandbits(1)))
        reply = await self._post(body, expect=text, session=self._session)
        if reply.verdict == "right":
            self._said.append(text)
        return reply

    async def _check_session(self) -> Reply:
        """Whatever was answered is in the conversation, in its order."""
        try:
            async with self._client.get(f"/v1/sessions/{self._session}") as response:
                if response.status != 200:
                    return await _refused(response)
                told = [it["content"] for it in (await response.json())["messages"] if it["role"] == "user"]
        except (aiohttp.ClientError, TimeoutError) as exc:
            return Reply("fault", f"{type(exc).__name__}: {exc}", may_retry=True)
        rest = iter(told)
        is_whole = all(text in rest for text in self._said)
        session, said, self._session, self._said = self._session, self._said, "", []
        return RIGHT if is_whole else Reply("fault", f"{session} lost a turn: {said} of {told}")

    async def _mcp(self) -> Reply:
        text = f"soak {next(numbers)}"
        body = message("tools/call", name="chat", arguments={"message": text, "provider": "echo"}, _meta=META)
        try:
            async with self._client.post("/mcp", json=body, headers=HEADERS_OF_MCP) as response:
                if response.status != 200:
                    return await _refused(response)
                told = await response.text()
        except (aiohttp.ClientError, TimeoutError) as exc:
            return Reply("fault", f"{type(exc).__name__}: {exc}", may_retry=True)
        if '"isError":true' in told.replace(" ", ""):
            words = MCP_TEXT.search(told)
            return Reply("fault", f"mcp: {words[1] if words else told[:200]}", may_retry=True)
        return RIGHT if text in told else Reply("fault", f"mcp, not the right answer: {told[:200]}")

    # --- what comes back ---------------------------------------------------------------------------------------------

    async def _post(self, body: Json, *, expect: str, session: str = "") -> Reply:
        headers = {"X-Stainless-Retry-Count": str(self._retry), **({"X-Session-ID": session} if session else {})}
        try:
            async with self._client.post("/v1/chat/completions", json=body, headers=headers) as response:
                if response.status != 200:
                    return await _refused(response, asks_vendor=body["provider"] != "echo")
                if body["stream"]:
                    return _judged_stream(await response.text(), expect)
                text = str((await response.json())["choices"][0]["message"]["content"])
        except (aiohttp.ClientError, TimeoutError) as exc:
            # A stream that was cut has begun, so no SDK asks again; a request that got no answer is repeated.
            return Reply(
                "fault", f"{type(exc).__name__}: {exc}", may_retry=not isinstance(exc, aiohttp.ClientPayloadError)
            )
        return RIGHT if expect in text else Reply("fault", f"not the right answer: {text[:80]!r}")


def _judged_stream(told: str, expect: str) -> Reply:
    lines = [line[6:] for line in told.splitlines() if line.startswith("data: ")]
    if not lines:
        return Reply("fault", "an empty stream")
    if lines[-1] == "[DONE]":
        chunks = [orjson.loads(line) for line in lines[:-1]]
        text = "".join(c["delta"].get("content") or "" for it in chunks for c in it.get("choices", ()))
        return RIGHT if expect in text else Reply("fault", f"not the right answer: {text[:80]!r}")
    last = orjson.loads(lines[-1])
    if "error" in last:
        return Reply("told", f"stream ended with {last['error']['code']}")
    return Reply("fault", "a stream cut without an error")


async def _refused(response: aiohttp.ClientResponse, *, asks_vendor: bool = False) -> Reply:
    text = await response.text()
    try:
        code = str(orjson.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = text[:100]
    wait = response.headers.get("Retry-After", "")
    advice = response.headers.get("X-Should-Retry")
    may_retry = advice == "true" or (advice is None and (response.status in (409, 429) or response.status >= 500))
    is_others = response.status == 429 or code == FULL or (asks_vendor and fault_of(code) == "provider")
    return Reply(
        "told" if is_others else "fault",
        f"{response.status} {code}",
        may_retry,
        float(wait) if wait.isdecimal() else None,
    )
