"""The page at `/` in a real browser: sign in, talk, stop, reload in mid-answer, two windows, by keyboard, on a phone.

The demo provider says what a test wants to see; what it can't say comes from a hub that is played.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, WebSocketRoute, expect

from chat.conversation import Figures, Outcome, StoredMessage, new_conversation, now_ms
from chat.hot import HotState
from chat.ids import new_id
from chat.sessions import Sessions, after_turn
from providers.events import Block, Role, ToolCall, ToolResult
from tests.browser.chromium import PHONE, Faults, Shots, is_too_wide, new_page, serious_faults
from tests.chat.ws_client import admin_password, greeted
from tests.hub import HubProcess, running_hub

WORDS = "The quick brown fox jumps over the lazy dog. "
SLOW = f"[[chunks=40 delay=0.04]] {WORDS * 12}"
ENDLESS = f"[[chunks=4000 delay=0.05]] {WORDS * 400}"
MARKDOWN = """# Sorting

Python has `sorted()` and **list.sort()**: see [the docs](https://docs.python.org).

1. It is *stable*
   - [x] done

```python
def by_length(words: list[str]) -> list[str]:
    return sorted(words, key=len)  # a comment that makes this line a good deal wider than any phone's window is
```

| name | time |
|:-----|-----:|
| merge sort | n log n |

> A quote to end with.
"""
HOSTILE = """<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">
<a href="javascript:window.pwned=3">a</a> [b](javascript:window.pwned=4)
[c](data:text/html,<script>window.pwned=5</script>)
![d](https://evil.example/pixel.png) ![e](javascript:window.pwned=6) <svg/onload=window.pwned=7>
<iframe srcdoc="<script>parent.pwned=8</script>"></iframe><form action="https://evil.example"><input name=q></form>
<style>body { display: none }</style>
<div style="position:fixed;inset:0" id="log" onclick="window.pwned=9">over all</div>
<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.pwned=10&gt;">

```"><script>window.pwned=11</script>
<b onmouseover=window.pwned=12>code</b>
```
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {"HUB_PROVIDERS": "echo,claude", "HUB_SHUTDOWN_GRACE_S": "1", "PATH": "/usr/bin:/bin"}
    with running_hub(tmp_path_factory.mktemp("page"), env=env) as started:
        yield started


@contextmanager
def signed_in(browser: Browser, hub: HubProcess, **how: Any) -> Iterator[tuple[Page, Faults]]:
    """The page, with the machine's own key."""
    with new_page(browser, hub.url, **how) as (page, faults):
        page.goto("/")
        use_key(page, hub)
        yield page, faults
        assert faults.seen == []


def use_key(page: Page, hub: HubProcess, *, keep: bool = True) -> None:
    page.get_by_label("Or use an API key").fill(hub.key)
    if keep:
        page.get_by_label("Remember it until this tab is closed").check()
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_label("Your question")).to_be_visible()
    expect(page.get_by_label("Provider")).to_have_value("echo")


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.get_by_label("Your question").press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".answer")


def ended(page: Page, count: int = 1) -> None:
    """So many answers are there, and none is under way."""
    expect(answers(page)).to_have_count(count)
    expect(page.locator(".answer[aria-busy]")).to_have_count(0)


def answer(page: Page) -> str:
    return answers(page).last.locator(".markdown").inner_text()


def until_words(page: Page) -> None:
    expect(answers(page).last.locator(".markdown")).to_contain_text("quick brown fox")


def test_admin_logs_in_and_sees_an_answer_stream(browser: Browser, served: HubProcess, shots: Shots) -> None:
    with new_page(browser, served.url) as (page, faults):
        page.goto("/")
        shots.take(page, "page-sign-in")
        assert serious_faults(page) == []
        page.get_by_role("link", name="Log in as an admin").click()
        page.locator("#id_username").fill("admin")
        page.locator("#id_password").fill(admin_password(served))
        page.keyboard.press("Enter")
        expect(page.get_by_text("Only the demo provider is ready.")).to_be_visible()
        expect(page.get_by_text("uv run manage.py install_cli claude")).to_be_visible()
        expect(page.get_by_label("Provider")).to_have_value("echo")
        shots.take(page, "page-welcome")
        ask(page, SLOW)
        until_words(page)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        ended(page)
        assert answer(page).split() == SLOW.split()
        facts = answers(page).locator(".facts").inner_text()
        assert re.search(r"first token\s+\d+ ms\s+speed\s+[\d.]+ tokens/s", facts), facts
        page.get_by_text("Route", exact=True).click()
        expect(page.get_by_text("echo; named (worker: ")).to_be_visible()
        expect(page.get_by_text("Logged in as admin")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("link", name="Log in as an admin")).to_be_visible()
        assert faults.seen == []


def test_wrong_key_is_told_so(browser: Browser, served: HubProcess) -> None:
    with new_page(browser, served.url) as (page, _):
        page.goto("/")
        page.get_by_label("Or use an API key").fill("hub_wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert").filter(has_text="key")).to_be_visible()


@pytest.mark.parametrize("keep", [True, False])
def test_key_is_remembered_only_if_wanted(browser: Browser, served: HubProcess, keep: bool) -> None:
    with new_page(browser, served.url) as (page, _):
        page.goto("/")
        use_key(page, served, keep=keep)
        assert served.key not in page.url
        page.reload()
        expect(page.get_by_label("Your question")).to_be_visible(visible=keep)
        expect(page.get_by_label("Or use an API key")).to_be_visible(visible=not keep)
        assert page.evaluate("JSON.stringify([localStorage, document.cookie])").count("hub_") == 0


def test_markdown_is_shown_as_such(browser: Browser, served: HubProcess, shots: Shots) -> None:
    with signed_in(browser, served) as (page, _):
        ask(page, f"[[chunks=40 delay=0.01]]\n{MARKDOWN}")
        ended(page)
        text = answers(page).locator(".markdown")
        expect(text.get_by_role("heading", name="Sorting")).to_be_visible()
        expect(text.locator("pre code.language-python")).to_contain_text("def by_length")
        expect(text.locator("th").nth(1)).to_have_css("text-align", "end")
        expect(text.get_by_role("link", name="the docs")).to_have_attribute("rel", "noopener noreferrer nofollow")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy the code").click()
        assert page.evaluate("navigator.clipboard.readText()").startswith("def by_length(")
        page.get_by_role("button", name="Copy the answer").click()
        assert MARKDOWN.strip() in page.evaluate("navigator.clipboard.readText()")
        assert serious_faults(page) == []
        shots.take(page, "page-markdown")


def test_hostile_answer_does_nothing(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, faults):
        # Cut at many places: half a tag must do no more than a whole one.
        ask(page, f"[[chunks=150 delay=0.005]]\n{HOSTILE}")
        ended(page)
        host = answers(page).locator(".markdown")
        for link in host.get_by_role("link").all():
            assert str(link.get_attribute("href")).startswith("https://evil.example/"), link.evaluate(
                "it => it.outerHTML"
            )
            link.hover()
        assert (
            host.locator("script, style, iframe, form, input, svg, math, img, [onclick], [onerror], [style]").count()
            == 0
        )
        assert page.evaluate("window.pwned") is None
        expect(page.locator("#log")).to_have_count(1)
        expect(page.get_by_label("Your question")).to_be_visible()
        # Stored, it is shown by the same way.
        page.reload()
        ended(page)
        assert page.evaluate("window.pwned") is None
        assert faults.seen == []


def test_answer_is_stopped_by_escape_and_by_the_button(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, _):
        for number, stop in enumerate(("Escape", "button"), start=1):
            ask(page, ENDLESS)
            until_words(page)
            if stop == "Escape":
                page.keyboard.press("Escape")
            else:
                page.get_by_role("button", name="Stop").click()
            ended(page, number)
            expect(answers(page).last.get_by_text("Stopped.")).to_be_visible()
            expect(page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.parametrize("before", [0, 1], ids=["first answer", "second answer"])
def test_reload_in_mid_answer_sees_it_finish(browser: Browser, served: HubProcess, before: int) -> None:
    with signed_in(browser, served) as (page, _):
        for number in range(before):
            ask(page, "A first question")
            ended(page, number + 1)
        ask(page, SLOW)
        until_words(page)
        page.reload()
        until_words(page)
        ended(page, before + 1)
        assert answer(page).split() == SLOW.split()
        expect(page.locator(".bubble")).to_have_count(before + 1)


def test_lost_connection_comes_back_by_itself(browser: Browser, served: HubProcess) -> None:
    """A hub that is away for a moment: the page says so, and goes on where it was."""
    with new_page(browser, served.url) as (page, _):
        page.add_init_script("""{
            const Real = WebSocket;
            window.sockets = [];
            window.WebSocket = class extends Real { constructor(...a) { super(...a); sockets.push(this); } };
        }""")
        page.goto("/")
        use_key(page, served)
        ask(page, SLOW)
        until_words(page)
        page.evaluate("sockets.at(-1).close()")
        expect(page.locator("#link")).to_contain_text("No connection")
        expect(page.locator("#link")).to_be_hidden()
        ended(page)
        assert answer(page).split() == SLOW.split()
        assert page.evaluate("sockets.length") == 2


def test_second_window_sees_the_answer_live(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (first, _), signed_in(browser, served) as (second, _):
        ask(first, "Before")
        ended(first)
        second.goto(first.url)
        ended(second)
        ask(first, SLOW)
        until_words(second)
        expect(second.locator(".answer[aria-busy]")).to_have_count(1)
        ended(second, 2)
        ended(first, 2)
        assert answer(second) == answer(first)


def test_two_conversations_run_side_by_side(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, _):
        ask(page, f"[[chunks=40 delay=0.06]] one {WORDS * 9}")
        until_words(page)
        one = page.url
        page.get_by_role("button", name="New conversation").click()
        expect(answers(page)).to_have_count(0)
        ask(page, f"[[chunks=20 delay=0.03]] two {WORDS * 9}")
        until_words(page)
        ended(page)
        assert " two " in answer(page)
        page.goto(one)
        expect(answers(page).locator(".markdown")).to_contain_text("one")
        ended(page)
        assert answer(page).split() == f"[[chunks=40 delay=0.06]] one {WORDS * 9}".split()
        links = page.get_by_role("navigation").get_by_role("link")
        expect(links.filter(has_text="two")).to_be_visible()
        links.filter(has_text="two").first.click()
        expect(answers(page).locator(".markdown")).to_contain_text(" two ")
        ended(page)
        ask(page, "And on")
        ended(page, 2)


def test_conversation_is_deleted(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, _):
        ask(page, "Delete me, please")
        ended(page)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete this conversation").click()
        expect(answers(page)).to_have_count(0)
        expect(page.get_by_role("navigation").get_by_text("Delete me, please")).to_have_count(0)


def test_everything_is_reached_by_keyboard(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, _):
        page.get_by_label("Your question").focus()
        page.keyboard.type("first line")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("second line")
        page.keyboard.press("Enter")
        ended(page)
        assert answer(page) == "first line\nsecond line"
        expect(page.get_by_label("Your question")).to_be_focused()
        reached = set()
        for _ in range(25):
            page.keyboard.press("Tab")
            about = page.evaluate(
                "(() => { const it = document.activeElement; const style = getComputedStyle(it);"
                " const name = ['a', 'button', 'summary'].includes(it.localName) ? it.textContent : it.localName;"
                " return [it.id || name, style.outlineStyle]; })()"
            )
            # The box of the question shows its focus by its border; after the last one comes the window itself.
            assert about[1] != "none" or about[0] in ("question", "body"), about
            reached.add(about[0])
        assert {"new", "provider", "send", "theme", "delete", "Copy the answer"} <= reached


def test_screen_readers_are_told_of_the_end_not_of_every_word(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, _):
        page.evaluate("""() => {
            window.told = [];
            new MutationObserver(() => told.push(document.getElementById('told').textContent))
                .observe(document.getElementById('told'), {childList: true, characterData: true, subtree: true});
        }""")
        ask(page, SLOW)
        ended(page)
        told = page.evaluate("told")
        assert len(told) <= 3
        assert told[-1] == f"echo has answered, {len(SLOW.split())} words."
        expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")


def test_dark_colours_by_the_system_and_by_choice(browser: Browser, served: HubProcess, shots: Shots) -> None:
    with signed_in(browser, served, scheme="dark") as (page, _):
        ask(page, f"[[chunks=2]]\n{MARKDOWN}")
        ended(page)
        assert is_dark(page)
        assert serious_faults(page) == []
        shots.take(page, "page-dark")
        page.get_by_label("Colours").select_option("light")
        assert not is_dark(page)
        page.reload()
        expect(page.get_by_label("Your question")).to_be_visible()
        assert not is_dark(page)


def is_dark(page: Page) -> bool:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) < 200


def test_phone_shows_all_without_scrolling_sideways(browser: Browser, served: HubProcess, shots: Shots) -> None:
    with signed_in(browser, served, viewport=PHONE) as (page, _):
        ask(page, f"[[chunks=2]]\n{MARKDOWN}\n{'unbroken' * 40}")
        ended(page)
        assert not is_too_wide(page)
        box = page.get_by_role("button", name="Send").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= PHONE["width"]
        shots.take(page, "page-phone")
        expect(page.get_by_role("button", name="New conversation")).to_be_hidden()
        page.get_by_role("button", name="Conversations").click()
        expect(page.get_by_role("button", name="New conversation")).to_be_focused()
        assert serious_faults(page) == []
        shots.take(page, "page-phone-menu")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="New conversation")).to_be_hidden()
        expect(page.get_by_role("button", name="Conversations")).to_be_focused()
        assert serious_faults(page) == []


def test_stored_tool_calls_are_shown(browser: Browser, served: HubProcess) -> None:
    call = ToolCall("call_1", "weather", '{"city": "Rome"}')
    said: tuple[tuple[Role, Block], ...] = (
        ("user", "How is the weather?"),
        ("assistant", call),
        ("tool", ToolResult("call_1", ("sunny",))),
        ("assistant", "It is sunny in Rome."),
    )
    with ThreadPoolExecutor() as thread:  # Playwright's own loop runs in this one
        thread.submit(asyncio.run, store(served, "with-tools", said)).result()
    with signed_in(browser, served) as (page, _):
        page.goto("/#s=with-tools")
        page.get_by_text("Calls weather").click()
        expect(page.get_by_text('"city": "Rome"')).to_be_visible()
        page.get_by_text("Result of a tool").click()
        expect(page.get_by_text("sunny", exact=True)).to_be_visible()
        expect(page.get_by_text("It is sunny in Rome.")).to_be_visible()


async def store(hub: HubProcess, session_id: str, said: tuple[tuple[Role, Block], ...]) -> None:
    """A conversation as a turn with tools leaves it: the demo provider has none."""
    hot = HotState(hub.redis_url, timeout_s=2)
    await hot.start()
    sessions = Sessions(hot, lock_s=5)
    held = await sessions.open("default", session_id, wait_s=0)
    before = new_conversation("default", session_id, ttl_s=600)
    messages = tuple(StoredMessage(role, (block,), new_id(), now_ms(), provider="claude") for role, block in said)
    head = after_turn(before.head, updated_ms=now_ms(), title="With tools")
    outcome = Outcome(Figures(new_id(), 1, "default", "ok", now_ms(), 1), head, 0, messages)
    assert await sessions.commit(held, before, outcome, archive=True)
    await hot.stop()


def test_reasoning_tool_calls_cost_and_attempts_are_shown_live(
    browser: Browser, served: HubProcess, shots: Shots
) -> None:
    with new_page(browser, served.url) as (page, faults):
        page.route_web_socket("**/ws/chat/", lambda socket: socket.on_message(lambda text: play(socket, str(text))))
        page.goto("/")
        page.get_by_label("Or use an API key").fill("hub_any")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_text("Ready: Claude Code.")).to_be_visible()
        expect(page.get_by_label("Provider")).to_have_value("auto")
        page.get_by_label("Provider").select_option("claude")
        page.get_by_label("Model").select_option("opus")
        page.locator("#file").set_input_files(
            FilePayload(name="dot.png", mimeType="image/png", buffer=b"\x89PNG\r\n\x1a\n")
        )
        expect(page.get_by_role("button", name="Remove dot.png")).to_be_visible()
        ask(page, "Look")
        ended(page)
        page.get_by_text("Reasoning", exact=True).click()
        expect(page.get_by_text("Hm. Let me see.")).to_be_visible()
        page.get_by_text("Calls look").click()
        expect(page.get_by_text('"what": "dot"')).to_be_visible()
        page.get_by_text("Route", exact=True).click()
        expect(page.get_by_text("gemini: rate_limited, 120 ms")).to_be_visible()
        facts = answers(page).locator(".facts").inner_text()
        assert "$0.012" in facts
        assert "1,200 in (1,000 cached), 30 out" in facts
        expect(page.locator(".bubble")).to_contain_text("dot.png")
        assert serious_faults(page) == []
        assert faults.seen == []
        shots.take(page, "page-all-parts")


PROVIDER = {
    "name": "claude",
    "title": "Claude Code",
    "status": "available",
    "state": "ready",
    "models": ["sonnet", "opus"],
    "aliases": {},
    "default_model": "sonnet",
    "media": ["image/png"],
    "is_demo": False,
    "mend": "",
}
STARTED = {
    "type": "started",
    "provider": "claude",
    "model": "opus",
    "start": "warm",
    "route": "claude; named",
    "attempts": [
        {"provider": "gemini", "code": "rate_limited", "ms": 120},
        {"provider": "claude", "code": "ok", "ms": 80},
    ],
}
FINISHED = {
    "type": "finished",
    "reason": "tool_calls",
    "session": "sess_1",
    "usage": {"prompt_tokens": 1200, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 1000}},
    "cost_usd": 0.0123,
    "timing": {"first_token_ms": 210, "total_ms": 1500, "tokens_per_s": 23.3},
}
EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "asked", "session": None, "question": {"text": "Look", "is_cut": False, "files": []}},
    {"type": "admitted", "session": "sess_1", "turn_id": "1"},
    STARTED,
    {"type": "reasoning", "text": "Hm. "},
    {"type": "reasoning", "text": "Let me see."},
    {"type": "delta", "text": "I will look."},
    {"type": "tool_call", "id": "1", "name": "look", "arguments": '{"what": "dot"}'},
    FINISHED,
)


def play(socket: WebSocketRoute, text: str) -> None:
    """A hub with one provider that thinks, calls a tool and answers."""
    said = json.loads(text)
    replies: dict[str, dict[str, Any]] = {
        "hello": {"type": "ready", "by": "key", "name": "any", "media_max_bytes": 1000, "media_max_count": 3},
        "providers": {"type": "providers", "data": [PROVIDER]},
        "sessions": {"type": "sessions", "data": [], "next": None},
        "ask": {"type": "accepted", "turn": said.get("turn")},
        "ping": {"type": "pong"},
    }
    socket.send(json.dumps({"re": said["id"], **replies[said["type"]]}))
    if said["type"] == "ask":
        assert (said["provider"], said["model"], said["text"]) == ("claude", "opus", "Look")
        assert [it["name"] for it in said["attachments"]] == ["dot.png"]
        for number, event in enumerate(EVENTS, start=1):
            socket.send(json.dumps({**event, "turn": said["turn"], "first": number, "n": number}))


def test_new_news_come_into_the_list(browser: Browser, served: HubProcess) -> None:
    with signed_in(browser, served) as (page, _), greeted(served) as talk:
        talk.answer_to(f"Said elsewhere at {time.time():.0f}")
        expect(page.get_by_role("navigation").get_by_role("link").first).to_contain_text("Said elsewhere at")


def test_page_needs_nothing_from_elsewhere(browser: Browser, served: HubProcess) -> None:
    """It works offline, and its policy would let nothing else in."""
    with signed_in(browser, served) as (page, faults):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        expect(page.get_by_label("Your question")).to_be_visible()
        assert asked
        assert all(it.startswith(served.url) for it in asked)
        assert faults.seen == []
