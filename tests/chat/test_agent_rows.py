"""An agent that speaks ACP becomes a provider by a row alone, as docs/adding-a-provider.md says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.asking import CHAT, answer_of, client_of, error_of, make_keys
from tests.hub import HubProcess, running_hub
from tests.providers import fake_agent

ADMIN = "/v1/admin/providers"
COMMAND = [sys.executable, "-I", fake_agent.__file__]
SECRET = "sk-agents-own-key-1234"


@pytest.fixture(scope="module")
def agent_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {
        "HUB_PROVIDERS": "echo",
        "HUB_SHUTDOWN_GRACE_S": "1",
        "HUB_ALLOWED_COMMANDS": " ".join(COMMAND),
        "HUB_ALLOWED_ENV": "AGENT_KEY",
        "AGENT_KEY": SECRET,
    }
    with running_hub(tmp_path_factory.mktemp("agents"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def client(agent_hub: HubProcess) -> Iterator[httpx.Client]:
    """An administrator's, after two providers of the same adapter were added; only the first sees the agent's key."""
    keys = make_keys(agent_hub, root={"scopes": ["admin", "chat"]})
    with client_of(agent_hub, keys["root"]) as opened:
        for name, extra_env in (("first", ["AGENT_KEY"]), ("second", [])):
            body = {"name": name, "adapter": "acp", "command": COMMAND, "extra_env": extra_env, "models": ["large"]}
            assert opened.post(ADMIN, json=body).status_code == 201
        yield opened


def said(client: httpx.Client, text: str, provider: str = "first", **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={"provider": provider, "messages": [{"role": "user", "content": text}], **fields})


def test_agent_answers_under_its_providers_name(client: httpx.Client) -> None:
    response = said(client, "hello")
    assert answer_of(response).endswith("[user]\n| hello")
    assert response.headers["x-hub-provider"] == "first"


def test_model_of_the_row_is_asked_of_the_agent(client: httpx.Client) -> None:
    assert said(client, "hello", model="large").json()["model"] == "large"
    assert error_of(said(client, "hello", model="huge"))["code"] == "model_not_found"


def test_conversation_goes_on_in_its_session(client: httpx.Client) -> None:
    session = said(client, "do=think").headers["x-session-id"]
    body = {"provider": "first", "messages": [{"role": "user", "content": "and now?"}]}
    response = client.post(CHAT, json=body, headers={"X-Session-ID": session})
    assert answer_of(response).endswith("[user]\n| do=think\n\n[assistant]\n| so\n\n[user]\n| and now?")


def test_sampling_that_can_not_be_passed_on_is_named(client: httpx.Client) -> None:
    response = said(client, "hello", temperature=0.5, max_completion_tokens=5)
    assert set(response.headers["x-hub-ignored"].split(", ")) == {"temperature", "max_completion_tokens"}


def test_each_provider_sees_what_its_own_row_names(client: httpx.Client) -> None:
    environ = json.loads(answer_of(said(client, "do=where")))["env"]
    assert environ["AGENT_KEY"] == SECRET
    assert not {"HUB_ALLOWED_ENV", "HUB_DATA_DIR"} & set(environ)
    assert "AGENT_KEY" not in json.loads(answer_of(said(client, "do=where", provider="second")))["env"]


def test_error_of_an_agent_tells_no_secret(client: httpx.Client) -> None:
    assert SECRET not in json.dumps(error_of(said(client, "do=leave")))
    assert answer_of(said(client, "still there?"))
