"""`bench soak` counts what is the hub's own fault, and only that: a soak that can't fail would prove nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from bench import soak_load
from bench.soak_load import Caller, Tally

Answer = tuple[int, dict[str, str], str]
Answers = list[Answer]
JSON = {"Content-Type": "application/json"}
WHOLE: Answer = (200, JSON, '{"choices": [{"message": {"content": "%s"}}]}')


def refusal(status: int, code: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"code": code}})


@asynccontextmanager
async def server(answers: Answers) -> AsyncIterator[str]:
    """One that gives these answers in turn, the last one for ever; `%s` is the question."""
    left = iter(answers)
    last = answers[-1]

    async def answer(request: web.Request) -> web.Response:
        question = (await request.json())["messages"][0]["content"]
        status, headers, text = next(left, last)
        return web.Response(status=status, headers=headers, text=text.replace("%s", question))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def judged(answers: Answers, kind: str, monkeypatch: pytest.MonkeyPatch) -> Tally:
    monkeypatch.setattr(soak_load, "FIRST_WAIT_S", 0.0)
    tally = Tally()
    async with server(answers) as url, aiohttp.ClientSession(url) as client:
        caller = Caller(client, tally, asyncio.Event(), asks_vendor=kind == "vendor")
        tally.note(kind, await caller._with_retries(caller._kinds[kind]))
    return tally


@pytest.mark.parametrize(
    ("answers", "kind", "verdict"),
    [
        ([WHOLE], "whole", "right"),
        ([(200, JSON, '{"choices": [{"message": {"content": "another"}}]}')], "whole", "fault"),
        ([refusal(500, "internal_error")], "whole", "fault"),
        ([refusal(503, "shutting_down"), WHOLE], "whole", "right"),
        ([refusal(503, "shutting_down", X_Should_Retry="false"), WHOLE], "whole", "fault"),
        ([(502, {}, "<html>")], "whole", "fault"),
        ([refusal(429, "rate_limit_exceeded", X_Should_Retry="false")], "whole", "told"),
        ([refusal(503, "vendor_overloaded", X_Should_Retry="false")], "vendor", "told"),
        ([refusal(502, "worker_crashed", X_Should_Retry="false")], "whole", "fault"),
        ([(200, {}, 'data: {"choices": [{"delta": {"content": "half"}}]}\n\n')], "streamed", "fault"),
        ([(200, {}, 'data: {"error": {"code": "worker_crashed"}}\n\n')], "streamed", "told"),
        ([(200, {}, "data: [DONE]\n\n")], "streamed", "fault"),
    ],
)
async def test_an_answer_is_judged_as_a_caller_would(
    answers: Answers, kind: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = await judged(answers, kind, monkeypatch)
    assert tally.total(verdict) == tally.total() == 1
    assert tally.fault_share == (1.0 if verdict == "fault" else 0.0)
