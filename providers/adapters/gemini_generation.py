"""What the gemini CLI's generation settings say of one turn besides its sampling: JSON, effort, the conversation."""

from __future__ import annotations

import re
from typing import Any

import orjson

from providers.adapters.gemini_body import extra_body, is_rich
from providers.adapters.gemini_text import settings_value
from providers.events import ANY_OBJECT, Effort, Turn

Json = dict[str, Any]

# Models that think by a budget of tokens, the most of it and the least; those before them don't think.
BUDGETS = {"gemini-2.5-pro": (32_768, 128), "gemini-2.5-flash": (24_576, 0), "gemini-2.5-flash-lite": (24_576, 0)}
BUDGET_OF: dict[Effort, int] = {"minimal": 1_024, "low": 1_024, "medium": 8_192}
UNTHINKING = re.compile(r"gemini-(?:1|2\.0)")
# Google's own table for clients of OpenAI: a pro model has no level between the two.
LEVEL_OF: dict[Effort, str] = {"none": "LOW", "minimal": "LOW", "low": "LOW", "medium": "MEDIUM"}

# Up to these the vendor refuses functions and JSON in one request.
JSON_OR_TOOLS = re.compile(r"gemini-[12]\b")


def generation(turn: Turn, model: str) -> Json:
    """Settings of the CLI's `generateContentConfig`, empty for a plain turn."""
    effort = turn.sampling.reasoning_effort
    found: Json = {}
    if turn.json_schema and not (turn.toolbox and JSON_OR_TOOLS.match(model)):
        found |= _as_json(turn.json_schema)
    if effort is not None and (thinking := thinking_config(model, effort)):
        found["thinkingConfig"] = thinking
    if is_rich(turn):
        found["httpOptions"] = {"extraBody": extra_body(turn, model)}
    settings: Json = settings_value(found)
    return settings


def _as_json(schema: bytes) -> Json:
    if schema == ANY_OBJECT:
        return {"responseMimeType": "application/json"}
    return {"responseMimeType": "application/json", "responseJsonSchema": orjson.loads(schema)}


def thinking_config(model: str, effort: Effort) -> Json:
    """How much a model is to think, in its own generation's terms; empty for one that does not."""
    if UNTHINKING.match(model):
        return {}
    if not model.startswith("gemini-2.5"):
        level = LEVEL_OF.get(effort, "HIGH")
        return {"thinkingLevel": "HIGH" if level == "MEDIUM" and "-pro" in model else level}
    most, least = BUDGETS.get(model, BUDGETS["gemini-2.5-pro"])
    budget = least if effort == "none" else BUDGET_OF.get(effort, most)
    # Thoughts can't be asked for where there are none.
    return {"thinkingBudget": budget, "includeThoughts": budget > 0}
