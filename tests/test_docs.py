"""The pages name what there is: states, fields of a provider, settings with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings

from chat.provider_admin_schemas import ProviderSettings
from chat.schemas import ChatCompletionRequest
from chat.wire.openai_request import REFUSED
from providers.default_rules import DEFAULT_RULES, LONG_TOKENS, SHORT_TOKENS
from providers.status import STATES

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROUTING = (DOCS / "routing.md").read_text()
COMPATIBILITY = (DOCS / "compatibility.md").read_text()


def first_cells(text: str) -> set[str]:
    """The names in the first column of the page's tables."""
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_state_of_a_provider_is_explained() -> None:
    assert set(STATES) <= first_cells(ROUTING)


def test_every_field_of_a_provider_is_explained() -> None:
    assert set(ProviderSettings.model_fields) <= first_cells(ROUTING)


@pytest.mark.parametrize("name", ["HUB_FALLBACK_TRIES", "HUB_FALLBACK_S", "HUB_FALLBACK_FIRST_TOKEN_S"])
def test_settings_of_fallback_have_the_defaults_that_are_told(name: str) -> None:
    assert f"| `{name}` | {getattr(settings, name):g} |" in ROUTING


@pytest.mark.parametrize("name", [*ChatCompletionRequest.model_fields, *REFUSED])
def test_every_field_of_a_chat_request_is_told_of(name: str) -> None:
    assert name in first_cells(COMPATIBILITY) | set(re.findall(r"`(\w+)\.", COMPATIBILITY))


@pytest.mark.parametrize("name", ["HUB_MEDIA_MAX_BYTES", "HUB_MEDIA_MAX_COUNT", "HUB_MAX_BODY_BYTES"])
def test_bounds_of_files_are_told_as_they_are(name: str) -> None:
    value = getattr(settings, name)
    shown = f"{value // 1024**2} MiB" if "BYTES" in name else str(value)
    assert f"`{name}` ({shown})" in COMPATIBILITY


def test_the_rules_of_a_fresh_hub_are_told() -> None:
    assert all(f"*{rule.name}*" in ROUTING for rule in DEFAULT_RULES)
    assert f"from {LONG_TOKENS:,} tokens" in ROUTING
    assert f"up to {SHORT_TOKENS} tokens" in ROUTING


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
