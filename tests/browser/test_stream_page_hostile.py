"""The page at `/` with answers that are made to break it, and with links and keys that are no good any more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.test_stream_page import answer, answers, ask, ended, signed_in
from tests.hub import HubProcess, running_hub

REVOKE = """
from hubsite.asgi import settings
from django.utils import timezone
from chat.models import ApiKey
ApiKey.objects.update(revoked_at=timezone.now())
"""
# Each would take marked minutes, or more of the stack than there is.
HARD = {
    "nested quotes": ">" * 6_000 + " x",
    "nested lists": "- " * 3_000 + "a",
    "an address that never comes": "a." * 40_000 + "@b",
    "emphasis that never ends": "a_" * 40_000,
    "spaces": "a" + " " * 80_000 + "b",
}


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1", "PATH": "/usr/bin:/bin"}
    with running_hub(tmp_path_factory.mktemp("page"), env=env) as started:
        yield started


def test_text_that_markdown_chokes_on_is_shown_as_it_is_and_the_page_goes_on(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub) as (page, _):
        for number, text in enumerate(HARD.values(), start=1):
            ask(page, text)
            ended(page, number)
            assert answer(page)[-20:].strip() == text[-20:].strip()
        page.reload()
        expect(answers(page)).to_have_count(len(HARD))
        ask(page, "and **now**")
        ended(page, len(HARD) + 1)
        assert answer(page) == "and now"


def test_question_that_no_message_can_hold_is_not_sent(browser: Browser, tmp_path: Path) -> None:
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1", "HUB_MAX_BODY_BYTES": "200000"}
    with running_hub(tmp_path, env=env) as hub, signed_in(browser, hub) as (page, _):
        ask(page, "x" * 250_000)
        expect(page.get_by_role("alert")).to_contain_text("at most 0.2 MB go with a question")
        expect(answers(page)).to_have_count(0)
        ask(page, "x" * 4_000)
        ended(page)


def test_broken_link_to_a_conversation_is_as_good_as_none(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub) as (page, _):
        page.goto("/#s=%")
        page.reload()
        expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()


def test_page_whose_key_is_revoked_asks_for_another(browser: Browser, hub: HubProcess) -> None:
    with signed_in(browser, hub) as (page, _):
        ask(page, "[[chunks=40 delay=0.05]] " + "word " * 60)
        expect(answers(page).last.locator(".markdown")).to_contain_text("word")
        assert hub.run_program(sys.executable, "-c", REVOKE).returncode == 0
        expect(page.get_by_label("Or use an API key")).to_be_visible(timeout=30_000)
