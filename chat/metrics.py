"""What the chat room counts: turns, their times, tokens and cost, limits that refuse, what Redis and the database take.

No label holds what a caller may choose: a model is one of those the hub knows, else `other`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prometheus_client import Counter, Histogram

from chat.conversation import Figures
from chat.decisions import choice_of
from chat.faults import FAULTS, fault_of, faults_by_code
from chat.running import RunningTurn, Spent
from providers.metrics import series
from providers.provider import Provider
from providers.route import Attempt, Decision

NONE, OTHER = "none", "other"
FIRST_TOKEN_BUCKETS_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 4, 6, 10, 20, 45, 120)
TURN_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1_800)
MODEL = ["provider", "model"]

TURNS = Counter("hub_turns", "Turns that are over, by how they ended.", [*MODEL, "outcome", "door"])
STOPPED = ("cancelled", "turn_stopped")  # of no fault of the provider's, and no answer either

BY_FAULT = Counter("hub_turns_by_fault", "Turns that are over, by whose fault there was no answer.", ["fault"])
FIRST_TOKEN = Histogram(
    "hub_turn_first_token_seconds", "From the question to the first word.", MODEL, buckets=FIRST_TOKEN_BUCKETS_S
)
SECONDS = Histogram("hub_turn_seconds", "From the question to the end of its answer.", MODEL, buckets=TURN_BUCKETS_S)
ATTEMPTS = Counter("hub_attempts", "Providers tried for turns, by what came of it.", ["provider", "outcome"])
TOKENS = Counter("hub_tokens", "Tokens of all turns; cached ones are input, reasoning is output.", [*MODEL, "kind"])
COST = Counter("hub_cost_usd", "Cost in US dollars, as the CLI or the price list tells.", MODEL)
UNPRICED = Counter("hub_turns_unpriced", "Uses of a provider whose cost nobody knows.", MODEL)

for _fault in FAULTS:
    BY_FAULT.labels(_fault)


def note_turn(figures: Figures, running: RunningTurn, costs: Sequence[float | None]) -> None:
    """Count a turn that is over; `costs` are those of what it has spent, in US dollars."""
    provider, model = figures.provider or NONE, model_label(running.decision, figures.provider, figures.model)
    outcome = figures.outcome if figures.outcome in faults_by_code() else OTHER
    series(TURNS, provider, model, outcome, running.door).inc()
    series(BY_FAULT, fault_of(figures.outcome)).inc()
    if figures.first_token_ms is not None:
        series(FIRST_TOKEN, provider, model).observe(figures.first_token_ms / 1_000)
    if figures.outcome == "ok":
        series(SECONDS, provider, model).observe(figures.total_ms / 1_000)
    for attempt in running.attempts:
        _note_attempt(attempt, figures.outcome)
    for spent, cost_usd in zip(running.spent, costs, strict=True):
        _note_spent(running.decision, spent, cost_usd)


def _note_attempt(attempt: Attempt, ended: str) -> None:
    outcome = attempt.code or (ended if ended in STOPPED else "ok")
    series(ATTEMPTS, attempt.provider, outcome if outcome in faults_by_code() else OTHER).inc()


def _note_spent(decision: Decision | None, spent: Spent, cost_usd: float | None) -> None:
    names = spent.provider or NONE, model_label(decision, spent.provider, spent.model)
    usage = spent.usage
    amounts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
    for counter, amount in zip(_token_counters(*names), amounts, strict=True):
        counter.inc(amount)
    series(COST, *names).inc(cost_usd or 0)
    series(UNPRICED, *names).inc(cost_usd is None)


@cache
def _token_counters(provider: str, model: str) -> tuple[Counter, ...]:
    return tuple(TOKENS.labels(provider, model, kind) for kind in ("input", "output", "cached", "reasoning"))


def model_label(decision: Decision | None, provider: str, model: str) -> str:
    """A model by a name of the hub's own: of what answered, else of what was asked for; `other` if it knows neither."""
    choice = choice_of(decision, provider) if decision is not None else None
    if choice is None:
        return OTHER if provider else NONE
    known = _known_models(choice.provider)
    asked = choice.model or choice.provider.default_model
    return next((name for name in (model, asked, choice.provider.named(asked)) if name in known), OTHER)


def _known_models(provider: Provider) -> set[str]:
    return {provider.default_model, *provider.models, *provider.aliases.values()}
