"""The administrator's dashboard in a real browser: what it shows, that it stays fresh, what may be done and by whom."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.asking import CHAT, answer_of, ask, begun_stream, client_of, data_lines, eventually, session_of, turns_of
from tests.browser.chromium import PHONE, Shots, is_too_wide, new_page, serious_faults
from tests.hub import HubProcess, running_hub

PASSWORD = "a good password"
ACT = "/admin/dashboard/act/"
SLOW = "x [[chunks=2000 delay=0.02]]"
PREPARE = """
import sys
from hubsite.asgi import settings
from django.contrib.auth.models import Group, User
User.objects.create_superuser("root", password=sys.argv[1])
for name in ("viewers", "operators"):
    user = User.objects.create_user(name, password=sys.argv[1], is_staff=True)
    user.groups.add(Group.objects.get(name=name))
from providers.models import ProviderRow
ProviderRow.objects.create(name="old", adapter="echo", is_enabled=False)
"""
# What is drawn: of each plot the numbers in it, and whether anything but one colour is on its canvas.
DRAWN = """
() => Object.fromEntries([...document.querySelectorAll("[data-plot]")].map(plot => {
  const canvas = plot.querySelector("canvas");
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  const data = Chart.getChart(canvas).data.datasets.flatMap(it => it.data).filter(it => it);
  return [plot.dataset.plot, {sum: data.reduce((all, it) => all + it, 0), colours: new Set(pixels).size}];
}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {"HUB_PROVIDERS": "echo,claude", "HUB_ECHO_FLOOR": "2", "HUB_SHUTDOWN_GRACE_S": "1"}
    with running_hub(tmp_path_factory.mktemp("hub"), env=env) as started:
        made = started.run_program(sys.executable, "-c", PREPARE, PASSWORD)
        assert made.returncode == 0, made.stderr
        with client_of(started, started.key) as caller:
            answer_of(caller.post(CHAT, json=ask("the first turn")))
            caller.post(CHAT, json=ask("an error [[do=crash]]"))
        yield started


@pytest.fixture
def caller(hub: HubProcess) -> Iterator[httpx.Client]:
    with client_of(hub, hub.key) as client:
        yield client


@contextmanager
def signed_in(
    browser: Browser, hub: HubProcess, name: str = "root", *, phone: bool = False, scheme: str = "light"
) -> Iterator[Page]:
    """The dashboard of a user, who must have met no fault by the end."""
    with new_page(browser, hub.url, viewport=PHONE if phone else None, scheme=scheme) as (page, faults):
        sign_in(page, name)
        yield page
        assert faults.seen == []


# Each user's: to check a password takes half a second.
COOKIES: dict[str, Any] = {}


def sign_in(page: Page, name: str) -> None:
    """By the form the first time, by its cookies again."""
    page.context.add_cookies(COOKIES.get(name, []))
    page.goto("/admin/")
    if name not in COOKIES:
        page.fill("#id_username", name)
        page.fill("#id_password", PASSWORD)
        page.press("#id_password", "Enter")
    expect(page.locator("#hub-live")).to_have_text("Live")
    COOKIES[name] = page.context.cookies()


ECHO = '[data-provider="echo"]'


def turns_shown(page: Page) -> Locator:
    return page.locator('[data-tile="Turns"] strong')


def pids(page: Page) -> set[int]:
    return {int(it) for it in page.locator(f"{ECHO} tbody th").all_inner_texts()}


def confirm(page: Page) -> None:
    page.click("#hub-ask-yes")
    expect(page.locator("#hub-said")).to_have_attribute("data-state", "good")


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_dashboard_shows_providers_workers_plots_and_keys(browser: Browser, hub: HubProcess, shots: Shots) -> None:
    with signed_in(browser, hub) as page:
        expect(page.locator(f"{ECHO} [data-state]")).to_have_text("ready")
        expect(page.locator('[data-provider="claude"]')).to_contain_text("install_cli claude")
        eventually(lambda: pids(page) == {it.pid for it in hub.workers()})
        expect(page.locator("#hub-keys tbody tr")).to_have_count(1)
        expect(page.locator("#hub-keys")).to_contain_text("this machine")
        drawn = page.evaluate(DRAWN)
        assert set(drawn) == {"turns", "first", "tokens", "cost", "errors"}
        for name in ("turns", "first", "tokens", "errors"):
            assert drawn[name]["sum"] > 0, name
            assert drawn[name]["colours"] > 20, f"{name}: there is nothing on its canvas"
        assert drawn["turns"]["sum"] == int(turns_shown(page).inner_text())
        shots.take(page, "dashboard")


def test_every_plot_has_its_figures_as_a_table(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub) as page:
        plot = page.locator('[data-plot="turns"]')
        plot.locator("summary").press("Enter")
        expect(plot.locator("thead")).to_contain_text("echo")
        numbers = [int(it) for it in plot.locator("tbody td").all_inner_texts()]
        assert sum(numbers) == int(turns_shown(page).inner_text())
        label = str(plot.locator("canvas").get_attribute("aria-label"))
        assert re.search(r"Turns: .*echo \d", label), label


def test_spans_are_changed_with_the_keyboard(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub) as page:
        for span, steps in (("month", 30), ("week", 28), ("day", 24)):
            page.locator(f'[data-span="{span}"]').press("Enter")
            expect(page.locator(f'[data-span="{span}"]')).to_have_attribute("aria-pressed", "true")
            length = "n => Chart.getChart(document.querySelector('[data-plot=turns] canvas')).data.labels.length === n"
            page.wait_for_function(length, arg=steps)


# --- that it stays fresh ---------------------------------------------------------------------------------------------


def test_new_turn_appears_by_itself(browser: Browser, hub: HubProcess, caller: httpx.Client) -> None:
    with signed_in(browser, hub) as page:
        before = int(turns_shown(page).inner_text())
        answer_of(caller.post(CHAT, json=ask("one more")))
        expect(turns_shown(page)).to_have_text(str(before + 1))


def test_nobody_is_asked_while_nobody_looks(browser: Browser, hub: HubProcess) -> None:
    """By the page's own clock, which is moved on by a minute."""
    with new_page(browser, hub.url) as (page, _):
        page.clock.install()
        sign_in(page, "root")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.clock.run_for(60_000)
        assert asked == []
        page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
        with page.expect_request("**/dashboard/now/"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.click("#hub-pause")
        expect(page.locator("#hub-live")).to_have_text("Paused")
        page.wait_for_load_state("networkidle")
        asked.clear()
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_request("**/dashboard/now/"):
            page.click("#hub-pause")


# --- what is done ----------------------------------------------------------------------------------------------------


def test_operator_restarts_a_worker_once_it_is_confirmed(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub, "operators") as page:
        eventually(lambda: len(pids(page)) >= 2)
        gone = min(pids(page))
        button = page.locator(f'[data-key="replace_worker echo {gone}"]')
        button.press("Enter")
        page.keyboard.press("Escape")
        expect(button).to_be_focused()
        expect(page.locator("#hub-said")).to_be_empty()
        button.click()
        confirm(page)
        expect(page.locator("#hub-said")).to_contain_text(f"Worker {gone} of echo goes")
        eventually(lambda: gone not in pids(page) and gone not in {it.pid for it in hub.workers()})


def test_operator_drains_a_provider_and_lets_it_go_on(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub, "operators") as page:
        state = page.locator(f"{ECHO} > header [data-state]")
        page.locator(ECHO).get_by_role("button", name="Drain: echo").click()
        confirm(page)
        expect(state).to_have_text("drained")
        page.locator(ECHO).get_by_role("button", name="Undrain: echo").click()
        confirm(page)
        expect(state).to_have_text("ready")


def test_running_turn_is_seen_and_stopped(browser: Browser, hub: HubProcess, caller: httpx.Client) -> None:
    with signed_in(browser, hub, "operators") as page, begun_stream(caller, ask(SLOW)) as lines:
        page.locator("#hub-turns").get_by_role("button", name="Stop").click()
        confirm(page)
        assert '"code":"turn_stopped"' in data_lines("\n".join(lines))[-1]
        expect(page.locator("#hub-turns")).to_contain_text("No turn runs")


def test_viewer_sees_it_all_and_no_act(browser: Browser, hub: HubProcess, caller: httpx.Client, shots: Shots) -> None:
    with signed_in(browser, hub, "viewers") as page, begun_stream(caller, ask(SLOW)):
        expect(page.locator("#hub-turns tbody tr")).to_have_count(1)
        expect(page.locator(f"{ECHO} tbody tr").first).to_be_visible()
        expect(page.locator("#hub-keys tbody tr")).to_have_count(1)
        assert page.locator("#hub [data-act]").count() == 0
        token = page.locator("#hub [name=csrfmiddlewaretoken]").input_value()
        headers = {"X-CSRFToken": token, "Referer": page.url}
        sent = page.request.post(ACT, form={"act": "drain", "provider": "echo"}, headers=headers)
        assert (sent.status, "may look" in sent.text()) == (403, True)
        shots.take(page, "dashboard-viewer")


# --- the other pages -------------------------------------------------------------------------------------------------


def test_key_is_issued_and_works(browser: Browser, hub: HubProcess, shots: Shots) -> None:
    with signed_in(browser, hub, "operators") as page:
        page.goto("/admin/chat/apikey/add/")
        page.fill("#id_name", "made in a browser")
        shots.take(page, "key-form")
        page.click('[name="_save"]')
        secret = page.locator(".chat-secret code").inner_text()
        shots.take(page, "key-shown-once")
    with client_of(hub, secret) as client:
        answer_of(client.post(CHAT, json=ask("hi")))


def test_session_is_read(browser: Browser, hub: HubProcess, caller: httpx.Client, shots: Shots) -> None:
    session = session_of(caller.post(CHAT, json=ask("how <b>is</b> the weather?")))
    turns_of(hub, hub.key)
    with signed_in(browser, hub, "viewers") as page:
        page.goto(f"/admin/chat/session/?q={session}")
        page.locator("#result_list tbody a").first.click()
        expect(page.locator(".chat-user .chat-text")).to_have_text("how <b>is</b> the weather?")
        assert page.locator(".chat-tools .chat-danger").count() == 0, "viewers may erase nothing"
        shots.take(page, "session")


# --- for everybody ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_nothing_keeps_anybody_from_using_it(
    browser: Browser, hub: HubProcess, caller: httpx.Client, shots: Shots, scheme: str, phone: bool
) -> None:
    """axe-core finds nothing serious, with a turn that runs, and the page fits its window."""
    with signed_in(browser, hub, scheme=scheme, phone=phone) as page, begun_stream(caller, ask(SLOW)):
        expect(page.locator("#hub-turns tbody tr")).to_have_count(1)
        page.evaluate("document.querySelectorAll('#hub details').forEach(it => { it.open = true; })")
        assert serious_faults(page) == []
        assert not is_too_wide(page)
        shots.take(page, f"dashboard-{scheme}-{'phone' if phone else 'desktop'}")
        page.locator('[data-key="drain echo"]').click()
        assert serious_faults(page, "#hub-ask") == []
        page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_from_using_the_other_pages(
    browser: Browser, hub: HubProcess, caller: httpx.Client, shots: Shots, scheme: str
) -> None:
    session_of(caller.post(CHAT, json=ask("hi")))
    turns_of(hub, hub.key)
    with signed_in(browser, hub, scheme=scheme, phone=scheme == "dark") as page:
        for name in ("chat/apikey", "chat/apikey/add", "chat/turnrecord", "chat/session/live", "providers/providerrow"):
            page.goto(f"/admin/{name}/")
            assert serious_faults(page) == [], name
            assert not is_too_wide(page), name
            shots.take(page, f"{name.replace('/', '-')}-{scheme}")
        page.goto("/admin/chat/session/")
        page.locator("#result_list tbody a").first.click()
        expect(page.locator(".chat-user")).to_be_visible()
        assert serious_faults(page) == []
