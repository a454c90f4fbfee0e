"""A provider that fails before its first word costs the caller a header: another one answers, if the caller allows."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

import httpx
import openai
import pytest

from chat import service
from chat.ask import Ask
from chat.keys import Caller
from chat.limits import KeyLimits
from chat.running import RunningTurn
from chat.wire.openai_errors import as_http
from providers.errors import NeedsLogin, ProviderChanged
from providers.events import Event, Message, Turn, TurnFinished, TurnStarted
from providers.provider import Provider
from providers.route import Attempt, Choice, Decision
from tests.asking import (
    CHAT,
    SESSION,
    WAIT_S,
    answer_of,
    ask,
    client_of,
    data_lines,
    error_of,
    make_keys,
    session_of,
    streamed_text,
    turns_of,
)
from tests.hub import HubProcess, running_hub

ROUTE, ATTEMPTS = "X-Hub-Route", "X-Hub-Attempts"
# Says its version, and nothing more.
MUTE = """#!/bin/sh
case "$*" in *--version*) echo 0.1 ;; *) while read -r line; do :; done ;; esac
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """claude is not there, gemini is mute, echo answers."""
    folder = tmp_path_factory.mktemp("fallback")
    mute = folder / "mute"
    mute.write_text(MUTE)
    mute.chmod(0o700)
    env = {
        "HUB_PROVIDERS": "claude,gemini,echo",
        "HUB_CLAUDE_BIN": str(folder / "nothing"),
        "HUB_GEMINI_BIN": str(mute),
        "GEMINI_API_KEY": "dummy-key-of-the-tests",
        "HUB_FALLBACK_FIRST_TOKEN_S": "0.3",
        "HUB_MAX_STARTS": "8",  # the mute program's would hold up all others
        "HUB_SHUTDOWN_GRACE_S": "1",
    }
    with running_hub(folder, env=env) as started:
        yield started


def to(provider: str, text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """A request to a provider by name."""
    return {"provider": provider, "messages": [{"role": "user", "content": text}], **fields}


def attempts_of(response: httpx.Response) -> list[str]:
    """Who was tried and what came of it; each attempt also tells how long it took."""
    told = response.headers[ATTEMPTS].split(", ")
    assert all(re.fullmatch(r"[\w-]+=\w+ [0-9]+ms", it) for it in told)
    return [it.split(" ")[0] for it in told]


# --- who answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_another_provider_answers_and_the_headers_say_so(http: httpx.Client, stream: bool) -> None:
    response = http.post(CHAT, json=to("claude", "Hello there", fallback=["echo"], stream=stream))
    assert (streamed_text if stream else answer_of)(response) == "Hello there"
    assert response.headers["X-Hub-Provider"] == "echo"
    assert response.headers[ROUTE] == "echo; named"
    assert attempts_of(response) == ["claude=provider_not_installed", "echo=ok"]


def test_provider_that_hangs_before_its_first_word_is_left(http: httpx.Client) -> None:
    response = http.post(CHAT, json=to("gemini", fallback=["echo"]))
    assert answer_of(response) == "Hi"
    assert attempts_of(response) == ["gemini=timed_out", "echo=ok"]


def test_first_choice_that_answers_is_told_too(http: httpx.Client) -> None:
    response = http.post(CHAT, json=to("echo", fallback=["claude"]))
    assert response.headers[ROUTE] == "echo; named"
    assert attempts_of(response) == ["echo=ok"]


@pytest.mark.parametrize("fields", [{}, {"fallback": False}, {"fallback": None}])
@pytest.mark.parametrize("stream", [False, True])
def test_named_provider_alone_answers_unless_the_caller_allows_others(
    http: httpx.Client, fields: dict[str, Any], stream: bool
) -> None:
    response = http.post(CHAT, json=to("claude", stream=stream, **fields))
    assert response.status_code == 503
    assert error_of(response)["code"] == "provider_not_installed"
    assert response.headers[ROUTE] == "claude; named"
    assert attempts_of(response) == ["claude=provider_not_installed"]


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_else_is_asked_after_the_first_word(http: httpx.Client, stream: bool) -> None:
    body = to("echo", "Hi [[chunks=4 do=crash]]", fallback=["echo", "claude"], stream=stream)
    response = http.post(CHAT, json=body)
    if not stream:
        assert response.status_code == 502
        assert attempts_of(response) == ["echo=worker_crashed"]
    else:
        # Its headers went out with the first word.
        assert attempts_of(response) == ["echo=ok"]
        assert json.loads(data_lines(response.text)[-1])["error"]["code"] == "worker_crashed"


def test_fault_of_the_request_is_not_carried_around(http: httpx.Client) -> None:
    response = http.post(CHAT, json=to("echo", "[[chunks=0]]", fallback=["claude"]))
    assert response.status_code == 400
    assert attempts_of(response) == ["echo=invalid_request"]


def test_parameters_are_ignored_by_who_answers(http: httpx.Client) -> None:
    response = http.post(CHAT, json=to("claude", fallback=["echo"], temperature=0.5))
    assert response.headers["X-Hub-Ignored"] == "temperature"


def test_fallback_comes_from_the_openai_sdk_too(hub: HubProcess) -> None:
    with openai.OpenAI(base_url=f"{hub.url}/v1", api_key=hub.key, max_retries=0, timeout=WAIT_S) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="claude", messages=[{"role": "user", "content": "Hi"}], extra_body={"fallback": ["echo"]}
        )
    assert answer.headers["X-Hub-Provider"] == "echo"
    assert answer.parse().choices[0].message.content == "Hi"


@pytest.mark.parametrize("value", ["yes", 1, [], [""], [1], ["echo", None], {"echo": 1}, ["echo"] * 17, ["x" * 201]])
def test_fallback_that_is_none_is_refused_by_its_name(http: httpx.Client, value: object) -> None:
    response = http.post(CHAT, json=to("echo", fallback=value))
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("invalid_value", "fallback")
    assert "true, false or a list" in error["message"]


def test_fallback_to_a_provider_there_is_not_is_refused(http: httpx.Client) -> None:
    response = http.post(CHAT, json=to("claude", fallback=["nobody"]))
    assert response.status_code == 400
    assert "nobody" in error_of(response)["message"]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_key_allows_others_and_a_request_may_say_otherwise(hub: HubProcess) -> None:
    """True is the hub's own chain, in which the demo provider is not: here it is gemini, which is mute."""
    keys = make_keys(hub, free={"fallback": True, "allowed_providers": ["claude", "gemini"]}, plain={})
    with client_of(hub, keys["plain"]) as client:
        assert attempts_of(client.post(CHAT, json=to("claude"))) == ["claude=provider_not_installed"]
    with client_of(hub, keys["free"]) as client:
        refused = client.post(CHAT, json=to("claude", fallback=False))
        assert attempts_of(refused) == ["claude=provider_not_installed"]
        # The chain is what is looked at: its answer would not come.
        route = client.post("/v1/route", json=to("claude"))
        assert [it["provider"] for it in route.json()["choices"]] == ["claude", "gemini"], route.text


def test_fallback_to_what_the_key_may_not_use_is_none(hub: HubProcess) -> None:
    key = make_keys(hub, narrow={"allowed_providers": ["claude"]})["narrow"]
    with client_of(hub, key) as client:
        response = client.post(CHAT, json=to("claude", fallback=["echo"]))
    assert response.status_code in (403, 503)
    assert "echo=" not in response.headers.get(ATTEMPTS, "")


# --- sessions --------------------------------------------------------------------------------------------------------


def test_fallback_goes_on_with_the_conversation(http: httpx.Client) -> None:
    session = session_of(http.post(CHAT, json=ask("one")))
    response = http.post(CHAT, json=to("claude", "two", fallback=["echo"]), headers={SESSION: session})
    assert (answer_of(response), session_of(response)) == ("two", session)
    messages = http.get(f"/v1/sessions/{session}").json()["messages"]
    assert [it["content"] for it in messages] == ["one", "one", "two", "two"]


@pytest.mark.parametrize("body", [to("nobody"), {"model": "no-such-model", **ask("Hi", model="no-such-model")}])
def test_request_that_routing_refuses_leaves_its_session_as_it_was(http: httpx.Client, body: dict[str, Any]) -> None:
    session = session_of(http.post(CHAT, json=ask("one")))
    before = http.get(f"/v1/sessions/{session}").json()
    assert http.post(CHAT, json=body, headers={SESSION: session}).status_code in (400, 404)
    assert http.get(f"/v1/sessions/{session}").json() == before
    # Were it still locked, this would wait for the lock.
    assert answer_of(http.post(CHAT, json=ask("two"), headers={SESSION: session})) == "two"


# --- what is written down, and what a repeat gets --------------------------------------------------------------------


def test_record_of_a_turn_tells_the_whole_decision(hub: HubProcess) -> None:
    key = make_keys(hub, recorded={})["recorded"]
    with client_of(hub, key) as client:
        client.post(CHAT, json=to("claude", fallback=["echo"]))
        client.post(CHAT, json=to("claude"))
    answered, failed = turns_of(hub, key)
    assert (answered["outcome"], answered["provider"], answered["route"]) == ("ok", "echo", "echo; named")
    told = json.loads(answered["decision"])
    assert (told["provider"], told["reason"]) == ("claude", "named")
    assert [it["provider"] for it in told["choices"]] == ["claude", "echo"]
    assert [(it["provider"], it["code"]) for it in told["attempts"]] == [
        ("claude", "provider_not_installed"),
        ("echo", "ok"),
    ]
    assert (failed["outcome"], failed["provider"], failed["route"]) == (
        "provider_not_installed",
        "claude",
        "claude; named",
    )
    assert [it["code"] for it in json.loads(failed["decision"])["attempts"]] == ["provider_not_installed"]


def test_repeated_request_gets_the_same_headers(http: httpx.Client) -> None:
    body, marked = to("claude", fallback=["echo"]), {"Idempotency-Key": "fallback"}
    first, second = (http.post(CHAT, json=body, headers=marked) for _ in range(2))
    assert first.json() == second.json()
    for name in (ROUTE, ATTEMPTS, "X-Hub-Provider"):
        assert first.headers[name] == second.headers[name]


class Exchanged:
    """A provider that is exchanged while a turn waits for it, so many times."""

    name = default_model = "claude"

    def __init__(self, times: int) -> None:
        self.left = times

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        self.left -= 1
        if self.left >= 0:
            raise ProviderChanged("it was changed meanwhile")
        yield TurnStarted("opus", "claude")
        yield TurnFinished("stop", None)


@pytest.mark.parametrize(("times", "is_answered"), [(0, True), (2, True), (3, False)])
async def test_turn_whose_provider_is_exchanged_while_it_waits_is_decided_anew(
    monkeypatch: pytest.MonkeyPatch, times: int, is_answered: bool
) -> None:
    decision = Decision((Choice(cast(Provider, Exchanged(times))),), "named")

    async def decide(*args: object, stays_with: str) -> Decision:
        return decision

    monkeypatch.setattr(service, "decide_for", decide)
    turn = Turn((Message("user", ("Hi",)),))
    caller = Caller(1, "n8n", "alice", frozenset(), (), (), KeyLimits(), 60)
    running = RunningTurn(1, "alice", "req_1", turn)
    events = service._run(caller, Ask(turn), running, decision)
    if is_answered:
        assert [type(event) async for event in events] == [TurnStarted, TurnFinished]
    else:
        with pytest.raises(ProviderChanged):
            await anext(events)
    assert [it.code for it in running.attempts] == ["provider_changed"] * times + [""] * is_answered


def test_error_bears_its_headers_to_whoever_is_given_it() -> None:
    """Requests that share a turn share its error, each of them at its own door."""

    class Named:
        name = "claude"

    error = NeedsLogin("log in")
    error.decision = Decision((Choice(cast(Provider, Named())),), "rule=code")
    error.attempts = (Attempt("claude", "opus", "provider_needs_login", 12),)
    headers = as_http(error).headers
    assert (headers[ROUTE], headers[ATTEMPTS]) == ("claude; rule=code", "claude=provider_needs_login 12ms")
