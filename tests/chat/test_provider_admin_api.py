"""/v1/admin/providers: providers are added, changed, drained, restarted and removed while turns go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.asking import CHAT, answer_of, ask, begun_stream, client_of, data_lines, error_of, eventually, make_keys
from tests.hub import HubProcess, running_hub

ADMIN = "/v1/admin/providers"
COMMAND = [sys.executable, "-c", "pass"]
ENV = {
    "HUB_PROVIDERS": "echo",
    "HUB_SHUTDOWN_GRACE_S": "1",
    "HUB_ALLOWED_COMMANDS": f"{sys.executable} -c pass,/usr/bin/allowed",
    "HUB_ALLOWED_ENV": "MISTRAL_API_KEY",
}


@pytest.fixture(scope="module")
def owner_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running_hub(tmp_path_factory.mktemp("providers"), env=ENV) as started:
        yield started


@pytest.fixture(scope="module")
def keys(owner_hub: HubProcess) -> dict[str, str]:
    return make_keys(owner_hub, root={"scopes": ["admin", "chat"]}, alice={})


@pytest.fixture
def admin(owner_hub: HubProcess, keys: dict[str, str]) -> Iterator[httpx.Client]:
    """An administrator's client; what a test has added is removed after it."""
    with client_of(owner_hub, keys["root"]) as client:
        yield client
        for it in client.get(ADMIN).json()["providers"]:
            if it["origin"] == "row":
                client.delete(f"{ADMIN}/{it['name']}")
        client.post(f"{ADMIN}/echo/undrain")
        client.patch(f"{ADMIN}/echo", json={"enabled": True, "floor": None, "ceiling": None})


def added(client: httpx.Client, name: str = "second", **fields: Any) -> dict[str, Any]:
    response = client.post(ADMIN, json={"name": name, "adapter": "echo", **fields})
    assert response.status_code == 201, response.text
    return dict(response.json())


def names_of(client: httpx.Client) -> list[str]:
    return [it["name"] for it in client.get("/v1/providers").json()["providers"]]


def test_only_keys_with_the_scope_are_let_in(owner_hub: HubProcess, keys: dict[str, str]) -> None:
    with client_of(owner_hub, keys["alice"]) as alice:
        asked = [
            alice.get(ADMIN),
            alice.get(f"{ADMIN}/echo"),
            alice.post(ADMIN, json={"name": "mine", "adapter": "echo"}),
            alice.patch(f"{ADMIN}/echo", json={"enabled": False}),
            alice.delete(f"{ADMIN}/echo"),
            *(alice.post(f"{ADMIN}/echo/{act}") for act in ("restart", "drain", "undrain", "clear-cooldown")),
        ]
    assert {(it.status_code, error_of(it)["code"]) for it in asked} == {(403, "insufficient_scope")}


def test_provider_of_the_settings_has_its_row_from_the_start(admin: httpx.Client) -> None:
    (echo,) = admin.get(ADMIN).json()["providers"]
    assert (echo["name"], echo["adapter"], echo["origin"], echo["problem"]) == ("echo", "echo", "settings", "")
    assert (echo["enabled"], echo["drained"], echo["floor"], echo["command"]) == (True, False, None, [])
    assert echo["now"]["name"] == "echo"
    assert echo["workers"]["waiting"] == 0


def test_added_provider_answers_at_once_under_its_name_and_is_gone_when_removed(admin: httpx.Client) -> None:
    made = added(admin, models=["echo", "echo-2"], aliases={"parrot": "echo"}, floor=0, ceiling=2)
    assert (made["name"], made["origin"], made["models"], made["ceiling"]) == ("second", "row", ["echo", "echo-2"], 2)
    response = admin.post(CHAT, json=ask("Hi", provider="second"))
    assert answer_of(response) == "Hi"
    assert response.headers["X-Hub-Provider"] == "second"
    assert "second/parrot" in {it["id"] for it in admin.get("/v1/models").json()["data"]}
    assert admin.delete(f"{ADMIN}/second").json()["success"] is True
    assert "second" not in names_of(admin)
    assert error_of(admin.post(CHAT, json=ask("Hi", provider="second")))["code"] == "provider_not_found"


def test_removed_provider_ends_the_answers_it_has_begun(admin: httpx.Client) -> None:
    added(admin, floor=0)
    with begun_stream(admin, ask("[[chunks=4 delay=0.2]]", provider="second")) as lines:
        assert admin.delete(f"{ADMIN}/second").status_code == 200
        *_, last = data_lines("\n".join(lines))
    assert last == "[DONE]"


def test_only_what_is_named_is_changed_and_null_gives_it_back_to_the_settings(admin: httpx.Client) -> None:
    added(admin, floor=1, ceiling=3, aliases={"parrot": "echo"})
    changed = admin.patch(f"{ADMIN}/second", json={"floor": None, "models": ["echo"]}).json()
    assert (changed["floor"], changed["ceiling"], changed["models"], changed["aliases"]) == (
        None,
        3,
        ["echo"],
        {"parrot": "echo"},
    )
    assert admin.get(f"{ADMIN}/second").json()["ceiling"] == 3


def test_disabled_provider_is_refused_by_name_until_it_is_enabled(admin: httpx.Client) -> None:
    changed = admin.patch(f"{ADMIN}/echo", json={"enabled": False}).json()
    assert changed["now"]["state"] == "disabled"
    eventually(lambda: admin.post(CHAT, json=ask("Hi")).status_code == 503)
    assert admin.patch(f"{ADMIN}/echo", json={"enabled": True}).json()["now"]["state"] != "disabled"
    assert answer_of(admin.post(CHAT, json=ask("Hi"))) == "Hi"


def test_drained_provider_says_why_and_serves_again_when_that_is_undone(admin: httpx.Client) -> None:
    drained = admin.post(f"{ADMIN}/echo/drain").json()
    assert (drained["drained"], drained["enabled"], drained["now"]["state"]) == (True, True, "disabled")
    assert "drain" in drained["now"]["why"]
    undone = admin.post(f"{ADMIN}/echo/undrain").json()
    assert (undone["drained"], undone["now"]["state"] == "disabled") == (False, False)
    assert answer_of(admin.post(CHAT, json=ask("Hi"))) == "Hi"


def test_restart_gives_other_processes_and_ends_no_answer(admin: httpx.Client, owner_hub: HubProcess) -> None:
    added(admin, floor=1, ceiling=2)
    with begun_stream(admin, ask("[[chunks=4 delay=0.2]]", provider="second")) as lines:
        before = {it.pid for it in owner_hub.workers()}
        assert admin.post(f"{ADMIN}/second/restart").status_code == 200
        eventually(lambda: bool({it.pid for it in owner_hub.workers()} - before))
        *_, last = data_lines("\n".join(lines))
    assert last == "[DONE]"


def test_cooldown_can_be_cleared(admin: httpx.Client) -> None:
    assert admin.post(f"{ADMIN}/echo/clear-cooldown").status_code == 200


def test_provider_of_the_settings_can_not_be_removed(admin: httpx.Client) -> None:
    refused = admin.delete(f"{ADMIN}/echo")
    assert refused.status_code == 409
    assert "HUB_PROVIDERS" in error_of(refused)["message"]
    assert "echo" in names_of(admin)


def test_name_that_is_taken_is_refused(admin: httpx.Client) -> None:
    refused = admin.post(ADMIN, json={"name": "echo", "adapter": "echo"})
    assert (refused.status_code, error_of(refused)["code"]) == (409, "provider_conflict")


@pytest.mark.parametrize("name", ["nobody", "a%00b", "..%2fx"])
def test_unknown_provider_is_not_found(admin: httpx.Client, name: str) -> None:
    asked = [admin.get(f"{ADMIN}/{name}"), admin.delete(f"{ADMIN}/{name}"), admin.post(f"{ADMIN}/{name}/drain")]
    assert {it.status_code for it in asked} == {404}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "auto"}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "Grösse"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 33}, "name"),
        ({"name": "x\n"}, "name"),
        ({"name": "x\0"}, "name"),
        ({"adapter": "nothing"}, "adapter"),
        ({"adapter": "acp", "command": ["/bin/sh", "-c", "true"]}, "command"),
        ({"adapter": "acp", "command": [*COMMAND, "more"]}, "command"),
        ({"adapter": "acp", "command": COMMAND[:1]}, "command"),
        ({"adapter": "acp", "command": ["allowed"]}, "command"),
        ({"adapter": "acp", "command": ["/usr/bin/../bin/allowed"]}, "command"),
        ({"adapter": "acp", "command": ["/usr/bin/allowed;true"]}, "command"),
        ({"adapter": "acp", "command": ["/usr/bin/allowed", "\0"]}, "command"),
        ({"adapter": "echo", "command": COMMAND}, "command"),
        ({"adapter": "claude", "binary": "/bin/sh"}, "binary"),
        ({"adapter": "claude", "binary": "allowed"}, "binary"),
        ({"adapter": "claude", "binary": "$(id)"}, "binary"),
        ({"extra_env": ["HUB_SECRET_KEY"]}, "extra_env"),
        ({"extra_env": ["LD_PRELOAD"]}, "extra_env"),
        ({"extra_env": ["REDIS_URL"]}, "extra_env"),
        ({"extra_env": ["MISTRAL_API_KEY\n"]}, "extra_env"),
        ({"extra_env": ["MISTRAL_API_KEY=x"]}, "extra_env"),
        ({"extra_env": ["PATH"]}, "extra_env"),
        ({"models": ["--danger"]}, "models"),
        ({"models": ["a\0b"]}, "models"),
        ({"models": ["x" * 201]}, "models"),
        ({"models": ["m"] * 201}, "models"),
        ({"aliases": {"a b\n": "echo"}}, "aliases"),
        ({"aliases": {"a": "-x"}}, "aliases"),
        ({"default_model": "-x"}, "default_model"),
        ({"floor": 5, "ceiling": 2}, "floor"),
        ({"floor": -1}, "floor"),
        ({"ceiling": 0}, "ceiling"),
        ({"ceiling": 10**30}, "ceiling"),
        ({"nice": -5}, "nice"),
        ({"ready_s": 0}, "ready_s"),
        ({"turn_s": 1e308}, "turn_s"),
        ({"context_tokens": "many"}, "context_tokens"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_hostile_row_is_refused_and_leaves_nothing(admin: httpx.Client, fields: dict[str, Any], param: str) -> None:
    refused = admin.post(ADMIN, json={"name": "second", "adapter": "echo", **fields})
    assert (refused.status_code, error_of(refused)["param"]) == (400, param), refused.text
    assert [it["name"] for it in admin.get(ADMIN).json()["providers"]] == ["echo"]


@pytest.mark.parametrize(
    "fields", [{"binary": "/bin/sh"}, {"extra_env": ["HUB_SECRET_KEY"]}, {"floor": 99}, {"name": "x"}, {"adapter": "x"}]
)
def test_hostile_change_is_refused_and_changes_nothing(admin: httpx.Client, fields: dict[str, Any]) -> None:
    before = added(admin, ceiling=3)
    assert admin.patch(f"{ADMIN}/second", json=fields).status_code == 400
    after = admin.get(f"{ADMIN}/second").json()
    assert {name: after[name] for name in before if name not in ("now", "workers")} == {
        name: value for name, value in before.items() if name not in ("now", "workers")
    }


def test_program_of_the_allow_list_is_accepted(admin: httpx.Client) -> None:
    made = added(admin, adapter="acp", command=COMMAND, extra_env=["MISTRAL_API_KEY"], floor=0)
    assert (made["command"], made["extra_env"], made["problem"]) == (COMMAND, ["MISTRAL_API_KEY"], "")
    missing = added(admin, name="third", adapter="acp", command=["/usr/bin/allowed"], floor=0)
    assert missing["now"]["state"] == "not_installed"


def test_openapi_tells_of_every_way_in(admin: httpx.Client) -> None:
    paths = admin.get("/v1/openapi.json").json()["paths"]
    assert set(paths["/v1/admin/providers"]) == {"get", "post"}
    assert set(paths["/v1/admin/providers/{name}"]) == {"get", "patch", "delete"}
    for act in ("restart", "drain", "undrain", "clear-cooldown"):
        body = paths[f"/v1/admin/providers/{{name}}/{act}"]["post"]
        assert "200" in body["responses"]
