"""POST /v1/route: which provider a request would get and why, with the rules a fresh hub has. Nothing is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.asking import CHAT, SESSION, ask, client_of, error_of, eventually, make_keys, session_of, turns_of
from tests.hub import HubProcess, running_hub

ROUTE = "/v1/route"
# Says its version, and nothing more.
MUTE = """#!/bin/sh
case "$*" in *--version*) echo 0.1 ;; *) while read -r line; do :; done ;; esac
"""
ADD_RULE = """
from hubsite.asgi import settings
from providers.models import RouteRule
RouteRule.objects.create(
    name="night shift", position=0, model_names=["gpt-*"], targets=[{"provider": "gemini", "model": "", "weight": 1}]
)
"""
CODE = "Why does this fail?\n```python\nprint(1\n```\n"
LONG = "Once upon a time there was a king who had three daughters. " * 20

Client = Callable[[str], httpx.Client]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """claude and gemini are there as far as the hub can tell without asking them; no worker of theirs ever starts."""
    folder = tmp_path_factory.mktemp("route")
    mute = folder / "mute"
    mute.write_text(MUTE)
    mute.chmod(0o700)
    env = {
        **{"HUB_PROVIDERS": "claude,gemini,echo", "HUB_SHUTDOWN_GRACE_S": "1", "HUB_ECHO_FLOOR": "0"},
        **{"HUB_CLAUDE_BIN": str(mute), "ANTHROPIC_API_KEY": "dummy-key-of-the-tests", "HUB_CLAUDE_FLOOR": "0"},
        **{"HUB_GEMINI_BIN": str(mute), "GEMINI_API_KEY": "dummy-key-of-the-tests", "HUB_GEMINI_FLOOR": "0"},
    }
    with running_hub(folder, env=env) as started:
        yield started


@pytest.fixture(scope="module")
def keys(hub: HubProcess) -> dict[str, str]:
    return make_keys(
        hub,
        alice={},
        gemini_only={"allowed_providers": ["gemini"]},
        haiku_only={"allowed_models": ["haiku"]},
        pro_only={"allowed_models": ["no-such-model"]},
        dollars={"budget_day_usd": "1"},
        lenient={"fallback": True},
        two={"requests_per_minute": 2},
        no_chat={"scopes": ["sessions"]},
    )


@pytest.fixture
def client(hub: HubProcess, keys: dict[str, str]) -> Iterator[Client]:
    clients: dict[str, httpx.Client] = {}
    yield lambda name: clients.setdefault(name, client_of(hub, keys[name]))
    for opened in clients.values():
        opened.close()


def request(text: str, model: str = "auto", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def routed(caller: httpx.Client, text: str, model: str = "auto", *, session: str = "", **fields: Any) -> dict[str, Any]:
    headers = {SESSION: session} if session else {}
    response = caller.post(ROUTE, json=request(text, model, **fields), headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json())


def names(told: dict[str, Any]) -> list[str]:
    return [choice["provider"] for choice in told["choices"]]


def rejected(told: dict[str, Any]) -> dict[str, str]:
    return {it["name"]: it["why"] for it in told["rejected"]}


def test_short_question_goes_to_the_small_model_and_all_is_told(client: Client) -> None:
    told = routed(client("alice"), "What is the capital of France?")
    assert (told["object"], told["provider"], told["model"]) == ("route", "claude", "haiku")
    assert (told["reason"], told["route"], told["problem"]) == ("rule=short", "claude; rule=short", "")
    assert names(told)[0] == "claude" and "gemini" in names(told)
    assert told["nature"] == {
        "tokens": 8,
        "is_code": False,
        "languages": ["en"],
        "has_images": False,
        "has_tools": False,
        "wants_json": False,
    }
    rules = {rule["name"]: rule for rule in told["rules"]}
    assert rules["short"] == {"name": "short", "is_hit": True, "why_not": ""}
    assert rules["code"] == {"name": "code", "is_hit": False, "why_not": "it is no code"}


def test_code_goes_by_the_rule_for_code(client: Client) -> None:
    told = routed(client("alice"), CODE)
    assert (told["provider"], told["reason"]) == ("claude", "rule=code")


def test_without_a_rule_the_score_decides(client: Client) -> None:
    told = routed(client("alice"), LONG)
    assert (told["reason"], names(told)) == ("score", ["claude", "gemini"])
    assert rejected(told) == {"echo": "it answers only by name"}
    assert not any(rule["is_hit"] for rule in told["rules"])


def test_what_is_named_is_told_as_named(client: Client) -> None:
    told = routed(client("alice"), "Hi", "gemini")
    assert (told["route"], names(told)) == ("gemini; named", ["gemini"])
    assert {rule["why_not"] for rule in told["rules"]} == {"the request names its provider"}
    told = routed(client("alice"), "Hi", "opus")
    assert (told["route"], told["model"]) == ("claude; model", "opus")
    assert {rule["why_not"] for rule in told["rules"]} == {"the request names its model"}


def test_fallback_is_as_the_request_or_else_the_key_says(client: Client) -> None:
    assert names(routed(client("alice"), "Hi", "gemini", fallback=True)) == ["gemini", "claude"]
    assert names(routed(client("alice"), "Hi", "gemini", fallback=["echo"])) == ["gemini", "echo"]
    assert names(routed(client("lenient"), "Hi", "gemini")) == ["gemini", "claude"]
    assert names(routed(client("lenient"), "Hi", "gemini", fallback=False)) == ["gemini"]
    assert names(routed(client("alice"), LONG, fallback=False)) == ["claude"]


def test_key_has_a_say(client: Client) -> None:
    told = routed(client("gemini_only"), CODE)
    assert names(told) == ["gemini"]
    assert rejected(told)["claude"] == "this key may not use it"
    assert rejected(told)["rule=code"] == "none of its targets is of use now"
    assert names(routed(client("haiku_only"), "What is the capital of France?")) == ["claude"]
    response = client("gemini_only").post(ROUTE, json=request("Hi", "claude"))
    assert (response.status_code, error_of(response)["code"]) == (403, "provider_not_allowed")


def test_budget_passes_over_whom_nobody_knows_the_price_of(client: Client) -> None:
    """claude tells what a turn cost; gemini does not, and has no price here."""
    told = routed(client("dollars"), LONG)
    assert names(told) == ["claude"]
    assert "no price" in rejected(told)["gemini"]
    response = client("dollars").post(ROUTE, json=request(LONG, "gemini"))
    assert (response.status_code, error_of(response)["code"]) == (403, "model_not_allowed")
    told = routed(client("dollars"), LONG, "gemini", fallback=True)
    assert (names(told), told["reason"]) == (["claude"], "fallback")


def test_what_the_session_remembers_counts(client: Client) -> None:
    caller = client("alice")
    session = session_of(caller.post(CHAT, json=ask("x" * 4_000)))
    assert routed(caller, "Hi")["nature"]["tokens"] == 1
    told = routed(caller, "Hi", session=session)
    assert told["nature"]["tokens"] > 1_900
    assert (told["reason"], names(told)) == ("score", ["claude", "gemini"])  # the demo keeps no session to itself
    assert {it["name"]: it["why_not"] for it in told["rules"]}["short"] == "the session is with echo, not new"
    assert routed(caller, "Hi", session="never-seen")["nature"]["tokens"] == 1


def test_nothing_is_run_or_written_down(hub: HubProcess, keys: dict[str, str], client: Client) -> None:
    with client_of(hub, keys["lenient"]) as caller:
        for text in ("Hi", CODE, LONG):
            assert SESSION not in caller.post(ROUTE, json=request(text)).headers
        assert caller.get("/v1/sessions").json()["data"] == []
    assert turns_of(hub, keys["lenient"]) == []
    assert not any("mute" in " ".join(worker.cmdline()) for worker in hub.workers())


def test_it_counts_as_a_request(client: Client) -> None:
    caller = client("two")
    for _ in range(2):
        routed(caller, "Hi")
    response = caller.post(ROUTE, json=request("Hi"))
    assert (response.status_code, error_of(response)["code"]) == (429, "rate_limit_exceeded")


def test_it_needs_a_key_with_the_scope_chat(hub: HubProcess, client: Client) -> None:
    assert httpx.post(hub.url + ROUTE, json=request("Hi")).status_code == 401
    response = client("no_chat").post(ROUTE, json=request("Hi"))
    assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (request("Hi", "mistral"), 404, "model_not_found"),
        (request("Hi", provider="nobody"), 400, "provider_not_found"),
        (request("Hi", fallback=["nobody"]), 400, "provider_not_found"),
        (request("Hi", n=2), 400, "unsupported_parameter"),
        ({"model": "auto", "messages": []}, 400, "invalid_value"),
    ],
)
def test_what_a_turn_would_be_refused_for_is_refused(
    client: Client, body: dict[str, Any], status: int, code: str
) -> None:
    for path in (ROUTE, CHAT):
        response = client("alice").post(path, json=body)
        assert (response.status_code, error_of(response)["code"]) == (status, code)


def test_that_nobody_can_answer_is_told_with_the_rules(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        running_hub(tmp_path_factory.mktemp("alone"), env={"HUB_PROVIDERS": "echo", "HUB_ECHO_FLOOR": "0"}) as alone,
        client_of(alone, alone.key) as caller,
    ):
        told = routed(caller, "What is the capital of France?")
        assert (told["provider"], told["model"], told["choices"]) == (None, None, [])
        assert "no provider is ready" in told["problem"]
        assert told["nature"]["languages"] == ["en"]
        assert routed(caller, "Hi", "echo")["route"] == "echo; named"
        assert caller.post(CHAT, json=ask("Hi")).headers["X-Hub-Route"] == "echo; named"


def test_it_is_in_the_api_document(client: Client) -> None:
    document = client("alice").get("/v1/openapi.json").json()
    described = document["paths"][ROUTE]["post"]
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/RouteBody"}
    assert {"choices", "rejected", "nature", "rules"} <= document["components"]["schemas"]["RouteBody"][
        "properties"
    ].keys()


def test_new_rule_counts_without_a_restart(hub: HubProcess, client: Client) -> None:
    caller = client("alice")
    assert caller.post(ROUTE, json=request("Hi", "gpt-4o")).status_code == 404
    made = hub.run_program(sys.executable, "-c", ADD_RULE)
    assert made.returncode == 0, made.stderr
    eventually(lambda: caller.post(ROUTE, json=request("Hi", "gpt-4o")).status_code == 200)
    told = routed(caller, "Hi", "gpt-4o")
    assert (told["reason"], told["route"]) == ("rule=night shift", 'gemini; rule="night shift"')
