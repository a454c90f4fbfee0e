"""The rules a fresh hub has, as data for the rows of its table. Those that name a provider it lacks are left out.

The one place beside the adapters where providers are named: nothing decides by it, and the owner may change it all.
"""

from __future__ import annotations

from providers.rules import NEW, SMALL, Rule, Target

# More than most models take, far less than the largest.
LONG_TOKENS = 120_000
# A title, a label, a yes or no.
SHORT_TOKENS = 100

DEFAULT_RULES = (
    Rule("images", (Target("gemini"),), has_images=True),
    Rule("long context", (Target("gemini"),), least_tokens=LONG_TOKENS),
    Rule("code", (Target("claude"),), is_code=True),
    Rule(
        "short",
        (Target("claude", SMALL), Target("gemini", SMALL, weight=0)),
        most_tokens=SHORT_TOKENS,
        has_tools=False,
        session_providers=(NEW,),
    ),
)
