"""GET /metrics of a hub that has served turns: what it tells, to whom, and that the dashboard and the rules find it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from hubsite.shared_board import NOTES
from providers.status import SERVING, STATES
from tests.asking import (
    CHAT,
    SESSION,
    answer_of,
    ask,
    begun_stream,
    client_of,
    error_of,
    eventually,
    make_keys,
    streamed_text,
)
from tests.hub import ROOT, HubProcess, running_hub
from tests.mcpbridge import wire

METRICS = "/metrics"
ECHO = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1"}
TOKEN = "the-token-of-the-tests"
MARK = "marmalade"
DASHBOARD = ROOT / "deploy" / "grafana" / "llm-mcp-hub.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DOCS = (ROOT / "docs" / "metrics.md").read_text()

ADD_PRICE = """
from hubsite.asgi import settings
from chat.models import Price
Price.objects.create(provider="echo", model="*", input_usd=1, cached_input_usd=1, output_usd=2)
"""

# Processor seconds of a whole page, the best of some: 20 providers with 5 workers and 3 models each.
BIG_PAGE = """
import asyncio, sys, tempfile, time
from pathlib import Path
from unittest import mock
from hubsite.asgi import settings
from chat import metrics
from hubsite.metrics import page
from providers import metrics as engine_metrics
from tests.providers.test_provider_metrics import staffed

NAMES = [f"p{number}" for number in range(20)]

def count(name):
    engine_metrics.expect(name)
    engine_metrics.START_SECONDS.labels(name).observe(0.1)
    engine_metrics.QUEUE_WAIT.labels(name).observe(0.1)
    for model in ("small", "middle", "large"):
        metrics.FIRST_TOKEN.labels(name, model).observe(0.1)
        metrics.SECONDS.labels(name, model).observe(0.1)
        metrics.COST.labels(name, model).inc()
        for outcome in ("ok", "cancelled", "timed_out"):
            metrics.TURNS.labels(name, model, outcome, "rest").inc()
        for kind in ("input", "output", "cached", "reasoning"):
            metrics.TOKENS.labels(name, model, kind).inc()

async def measure():
    engine = staffed(Path(tempfile.gettempdir()), NAMES, workers=5)
    with mock.patch("providers.runtime.engine", lambda: engine):
        best = float("inf")
        for _ in range(7):
            began_at = time.process_time()
            body, _ = await page("")
            best = min(best, time.process_time() - began_at)
    return best, body.count(b"\\n"), body.count(b"\\nhub_workers{")

for name in NAMES:
    count(name)
print(*asyncio.run(measure()))
"""

# Of Prometheus itself: a target's own labels, and what rules have made.
OF_TARGETS = {"instance", "job"}
OF_PROMETHEUS = {"up"}
WORDS = {
    *("sum", "max", "min", "count", "avg", "rate", "increase", "histogram_quantile", "max_over_time"),
    *("by", "on", "unless", "and", "or"),
}

Samples = dict[str, list[dict[str, str]]]


def read(response: httpx.Response) -> Samples:
    """The labels of every sample, by the series' name."""
    assert response.status_code == 200, response.text
    found: Samples = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def value(response: httpx.Response, series: str, **labels: str) -> float:
    """A series' value; nothing if nobody has counted."""
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if sample.name == series and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub on loopback alone, that has a price for echo."""
    with running_hub(tmp_path_factory.mktemp("metrics"), env={**ECHO, "HUB_AUTH_FAILURES_PER_MINUTE": "0"}) as started:
        assert started.run_program(sys.executable, "-c", ADD_PRICE).returncode == 0
        yield started


@pytest.fixture(scope="module")
def keys(hub: HubProcess) -> dict[str, str]:
    return make_keys(hub, alice={}, strict={"requests_per_minute": 1}, admin={"scopes": ["admin"]})


@pytest.fixture(scope="module")
def served(hub: HubProcess, keys: dict[str, str]) -> httpx.Response:
    """The figures after turns of every kind, of which each text, name and id holds a mark."""
    with client_of(hub, keys["alice"]) as alice:
        answer_of(alice.post(CHAT, json=ask(MARK), headers={SESSION: f"{MARK}-1", "X-Request-ID": f"{MARK}-2"}))
        streamed_text(alice.post(CHAT, json=ask(MARK, stream=True)))
        with begun_stream(alice, ask(f"[[chunks=500 delay=0.05]] {MARK}")):
            pass  # and hang up
        error_of(alice.post(CHAT, json=ask(f"[[do=crash]] {MARK}")))
        error_of(alice.post(CHAT, json=ask("hi", provider="echo", model=MARK)))
        error_of(alice.post(CHAT, json=ask("hi", provider=MARK)))
        alice.get(f"/{MARK}")
        alice.get(f"/v1/sessions/{MARK}-1")
        alice.request(MARK.upper(), "/v1/models")
        alice.get("/admin/")
    with client_of(hub, keys["strict"]) as strict:
        for _ in range(2):
            last = strict.get("/v1/models")
        assert last.status_code == 429
    asyncio.run(ask_over_mcp(hub, keys["alice"]))
    tell_of_a_window(hub)
    cancelled = {"outcome": "cancelled", "provider": "echo"}
    eventually(lambda: value(scrape(hub), "hub_turns_total", **cancelled) == 1)
    eventually(lambda: value(scrape(hub), "hub_usage_window_ratio", provider="echo") == 0.25)
    eventually(lambda: value(scrape(hub), "hub_archive_waiting_turns") == 0)
    return scrape(hub)


async def ask_over_mcp(hub: HubProcess, key: str) -> None:
    async with wire.connected(hub, key=key) as client:
        await wire.chat(client, MARK)


def tell_of_a_window(hub: HubProcess) -> None:
    """What another hub of this Redis was told by the vendor."""
    now = time.time()
    window = {"provider": "echo", "name": "day", "status": "allowed", "used": 0.25, "resets_at": now + 999}
    shown = {"kind": "window", "is_over": False, "note": {**window, "told_at": now}}
    with Redis.from_url(hub.redis_url) as redis:
        redis.hset(NOTES, "window\0echo\0day", orjson.dumps(shown))


def scrape(hub: HubProcess, **headers: str) -> httpx.Response:
    return httpx.get(hub.url + METRICS, headers=headers, timeout=20)


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_turns_are_counted_by_how_they_ended_and_where_they_came_from(served: httpx.Response) -> None:
    ended = {
        (it["door"], it["outcome"], it["model"]): value(served, "hub_turns_total", **it)
        for it in read(served)["hub_turns_total"]
    }
    assert ended["rest", "ok", "echo"] == 2
    assert ended["mcp", "ok", "echo"] == 1
    assert ended["rest", "cancelled", "echo"] == 1
    assert ended["rest", "worker_crashed", "echo"] == 1
    assert value(served, "hub_turns_by_fault_total", fault="hub") == 1
    assert value(served, "hub_turns_by_fault_total", fault="none") == 4
    assert value(served, "hub_turns_by_fault_total", fault="caller") == sum(ended.values()) - 5


def test_tokens_cost_times_and_workers_are_told(served: httpx.Response) -> None:
    echo = {"provider": "echo", "model": "echo"}
    assert value(served, "hub_tokens_total", **echo, kind="input") >= 3 * len(MARK)
    assert value(served, "hub_cost_usd_total", **echo) > 0
    assert value(served, "hub_turns_unpriced_total", **echo) == 0
    assert value(served, "hub_turn_seconds_count", **echo) == 3
    assert value(served, "hub_turn_first_token_seconds_count", **echo) >= 4
    assert value(served, "hub_worker_ends_total", provider="echo", reason="crashed") == 1
    assert value(served, "hub_worker_starts_total", provider="echo", outcome="ok") >= 2
    assert value(served, "hub_queue_wait_seconds_count", provider="echo") >= 5
    assert value(served, "hub_limits_hit_total", limit="requests per minute") == 1
    assert value(served, "hub_sessions") >= 3
    assert value(served, "hub_info", version="0.1.0") == 1


def test_http_requests_are_told_by_route_and_status(served: httpx.Response) -> None:
    requests = "hub_http_requests_total"
    assert value(served, requests, method="POST", route="v1/chat/completions", status="200") == 2
    assert value(served, requests, method="POST", route="v1/chat/completions", status="499") == 1
    assert value(served, requests, method="POST", route="v1/chat/completions", status="502") == 1
    assert value(served, requests, method="GET", route="v1/models", status="429") == 1
    assert value(served, requests, method="GET", route="admin/", status="302") == 1
    assert value(served, requests, method="GET", route="unmatched", status="404") == 1
    assert value(served, requests, method="other", status="405") == 1
    assert value(served, requests, method="POST", route="mcp", status="200") >= 2
    assert value(served, requests, method="GET", route="v1/sessions/<session_id>", status="200") == 1


def test_what_is_to_alarm_at_its_first_time_is_counted_from_nought(served: httpx.Response) -> None:
    """To Prometheus a series that begins with 1 has not increased."""
    assert served.text.count("\nhub_internal_errors_total 0.0\n") == 1
    assert value(served, "hub_turns_by_fault_total", fault="hub") >= 0


def test_redis_and_the_database_are_measured(served: httpx.Response) -> None:
    assert value(served, "hub_redis_up") == value(served, "hub_database_up") == value(served, "hub_ready") == 1
    assert value(served, "hub_redis_seconds_count") > 10
    assert value(served, "hub_database_job_seconds_count", thread="archive writer") >= 1
    assert value(served, "django_db_execute_total", vendor="sqlite") > 5
    assert value(served, "django_db_query_duration_seconds_count", vendor="sqlite") > 5


def test_nothing_a_caller_writes_is_in_any_label(served: httpx.Response, keys: dict[str, str]) -> None:
    """Not the text, session, request id, path, method, provider or model of his; nor a key, a name or an owner."""
    assert MARK not in served.text.lower()
    for name, key in keys.items():
        assert key not in served.text
        assert f'"{name}"' not in served.text


def test_every_series_of_the_hub_is_explained_and_no_other(served: httpx.Response) -> None:
    families = {family.name for family in text_string_to_metric_families(served.text)}
    told = {name.removesuffix("_total") for name in re.findall(r"^\| `(hub_\w+)` \|", DOCS, re.MULTILINE)}
    assert told == {name for name in families if name.startswith("hub_")}


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "text/plain"])
def test_it_speaks_the_formats_prometheus_asks_for(hub: HubProcess, served: httpx.Response, accept: str) -> None:
    response = scrape(hub, Accept=accept)
    assert response.headers["content-type"].startswith(accept.partition(";")[0] or "text/plain")
    assert response.headers["cache-control"] == "no-store"
    assert response.text.rstrip().endswith("# EOF") is accept.startswith("application/openmetrics")
    assert "hub_turns_created" not in response.text


def test_page_of_twenty_providers_and_a_hundred_workers_is_made_at_once(tmp_path: Path) -> None:
    """Prometheus asks every few seconds, and what it costs no turn can use."""
    ran = HubProcess(tmp_path).run_program(sys.executable, "-c", BIG_PAGE)
    assert ran.returncode == 0, ran.stderr
    seconds, lines, workers = ran.stdout.split()
    assert (int(lines) > 2_500, int(workers)) == (True, 100)
    assert float(seconds) < 0.05


# --- who finds it ----------------------------------------------------------------------------------------------------


def expressions() -> list[str]:
    """All of PromQL in the dashboard and in the rules."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    # A rule's expression is on its own line, or folded over those that are indented further.
    ruled = re.findall(r"^ +expr: (?:>-\n((?:^ {10}.*\n)+)|(.*)\n)", RULES.read_text(), re.MULTILINE)
    return [*shown, *(" ".join((folded or plain).split()) for folded, plain in ruled)]


def recorded() -> set[str]:
    return set(re.findall(r"- record: (\S+)", RULES.read_text()))


def names_of(expression: str) -> set[str]:
    """The series an expression reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring) *\([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w.$])[a-z_][\w:]*", bare)) - WORDS


def selectors_of(expression: str) -> list[tuple[str, set[str]]]:
    """Each series with the labels that are asked of it."""
    found = re.findall(r"([a-z_][\w:]*)\{([^}]*)\}", expression)
    return [(name, set(re.findall(r"(\w+) *(?:=~|!~|!=|=)", inside))) for name, inside in found]


def groups_of(expression: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|on) *\(([^)]*)\)", expression))))


def test_every_query_names_series_and_labels_that_are_there(served: httpx.Response) -> None:
    there = read(served)
    asked = expressions()
    assert len(asked) > 60
    for expression in asked:
        for name in names_of(expression) - recorded() - OF_PROMETHEUS:
            assert name in there, expression
            known = set().union(*there[name]) | OF_TARGETS
            assert groups_of(expression) <= known, expression
        for name, labels in selectors_of(expression):
            assert labels <= set().union(*there.get(name, [{}])) | OF_TARGETS, expression


def test_values_that_queries_compare_with_are_among_those_there(served: httpx.Response) -> None:
    """A misspelt state or fault would never be equal to anything."""
    there = read(served)
    for expression in expressions():
        for name, inside in re.findall(r"([a-z_][\w:]*)\{([^}]*)\}", expression):
            for label, wanted in re.findall(r'(\w+)=~?"([a-z_|]+)"', inside):
                known = {it[label] for it in there[name] if label in it}
                assert set(wanted.split("|")) <= known, expression


def test_every_panel_has_a_title_of_its_own_and_its_place() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    places = [(it["gridPos"]["x"], it["gridPos"]["y"]) for it in panels]
    assert len(set(places)) == len(places)
    assert all(it["gridPos"]["x"] + it["gridPos"]["w"] <= 24 for it in panels)


def test_panels_show_seconds_on_an_axis_of_seconds_and_nothing_else_there() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        shown = [target["expr"] for target in panel.get("targets", ())]
        of_seconds = {"_quantile(" in it or "cooldown_seconds" in it for it in shown}
        assert of_seconds <= {panel.get("fieldConfig", {}).get("defaults", {}).get("unit") == "s"}, panel["title"]


def rule_of(alert: str) -> str:
    found = re.search(rf"- alert: {alert}\n(.*?)\n +for:", RULES.read_text(), re.DOTALL)
    assert found
    return " ".join(found[1].split())


def test_provider_whose_program_went_has_a_rule_of_its_own() -> None:
    """Whatever else keeps one from serving is meant, or another rule's."""
    rule = rule_of("HubProviderDown")
    (others,) = re.findall(r'state=~"([a-z_|]+)"', rule)
    assert set(STATES) - SERVING - set(others.split("|")) == {"not_installed"}
    assert "max_over_time(hub_provider_up[1d]) == 1" in rule  # one that was never installed is none that went


def test_nobody_is_woken_for_a_single_turn_of_a_quiet_hub() -> None:
    assert 'sum(increase(hub_turns_by_fault_total{fault="hub"}[1h])) >= 3' in rule_of("HubAvailabilityFallsFast")


def test_every_alert_is_explained() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert len(alerts) > 10
    assert alerts == set(re.findall(r"^\| `(Hub\w+)` \|", DOCS, re.MULTILINE))


# --- who may see it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_what_a_proxy_passes_on_needs_a_key(hub: HubProcess, name: str) -> None:
    """It may come from anywhere, though the proxy is on this machine."""
    response = scrape(hub, **{name: "127.0.0.1"})
    assert response.status_code == 401
    assert error_of(response)["code"] == "missing_api_key"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_can_only_be_read(hub: HubProcess, method: str) -> None:
    assert error_of(httpx.request(method, hub.url + METRICS))["code"] == "method_not_allowed"


@pytest.fixture(scope="module")
def open_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that everybody can reach."""
    env = {**ECHO, "HUB_METRICS_TOKEN": TOKEN, "HUB_AUTH_FAILURES_PER_MINUTE": "3"}
    hub = HubProcess(tmp_path_factory.mktemp("open"), env=env)
    try:
        hub.start(bind=f"0.0.0.0:{hub.port}")
        yield hub
    finally:
        hub.close()


def bearer(key: str) -> dict[str, Any]:
    return {"Authorization": f"Bearer {key}"}


def test_hub_that_others_can_reach_wants_its_token_or_an_administrators_key(open_hub: HubProcess) -> None:
    keys = make_keys(open_hub, admin={"scopes": ["admin"]}, chat={"scopes": ["chat"]})
    assert error_of(scrape(open_hub))["code"] == "missing_api_key"
    assert "hub_info" in scrape(open_hub, **bearer(TOKEN)).text
    assert "hub_info" in scrape(open_hub, **{"X-API-Key": TOKEN}).text
    assert "hub_info" in scrape(open_hub, **bearer(keys["admin"])).text
    refused = scrape(open_hub, **bearer(keys["chat"]))
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_scope")
    assert error_of(scrape(open_hub, **bearer(TOKEN[:-1])))["code"] == "invalid_api_key"
    assert error_of(httpx.get(f"{open_hub.url}{METRICS}?token={TOKEN}"))["code"] == "missing_api_key"


def test_who_guesses_is_slowed_down_like_at_every_door(open_hub: HubProcess) -> None:
    codes = [error_of(scrape(open_hub, **bearer(f"guess-{number}")))["code"] for number in range(4)]
    assert codes[-1] == "too_many_failed_attempts"
    assert scrape(open_hub, **bearer(TOKEN)).status_code == 200


def test_token_that_is_easy_to_guess_is_refused(tmp_path: Path) -> None:
    ran = HubProcess(tmp_path, env={"HUB_METRICS_TOKEN": "short-secret"}).run("check")
    assert ran.returncode == 1
    assert "HUB_METRICS_TOKEN is too easy to guess" in ran.stderr
    assert "short-secret" not in ran.stderr + ran.stdout


@pytest.mark.parametrize(
    ("env", "status"), [({"HUB_METRICS": "off"}, 404), ({"HUB_TRUSTED_PROXIES": "127.0.0.1"}, 401), ({}, 200)]
)
def test_uvicorns_hub_is_open_on_loopback_unless_the_settings_say_otherwise(
    tmp_path: Path, env: dict[str, str], status: int
) -> None:
    with running_hub(tmp_path, env={**ECHO, **env}, server="uvicorn") as hub:
        assert scrape(hub).status_code == status
