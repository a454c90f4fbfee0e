"""Texts in the files of the gemini CLI, written so that each means itself there."""

from __future__ import annotations

import re
from typing import Any

# Stands for "no text": the API refuses empty parts, and the CLI trims white space away.
NOTHING = "\u200b"

# The CLI replaces these in a system prompt.
SYSTEM_VARIABLE = re.compile(r"\$(?=\{(?:AgentSkills|SubAgents|AvailableTools)\})")


def without_variables(text: str) -> str:
    """The text as a settings string that means itself: the CLI replaces `$NAME` by the environment variable."""
    return text.replace("$", "${_HUB_NONE:-$}")


def settings_value(value: Any) -> Any:
    """A value of JSON as a settings file has to hold it. Keys mean themselves there."""
    match value:
        case str():
            return without_variables(value)
        case list():
            return [settings_value(item) for item in value]
        case dict():
            return {key: settings_value(item) for key, item in value.items()}
    return value


def system_text(system: str) -> str:
    """The system prompt as the CLI has to read it: an empty file would go upstream as an empty part."""
    return SYSTEM_VARIABLE.sub("$" + NOTHING, system) if system.strip() else NOTHING
